#include "launch/report/html.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "launch/report/text.h"

namespace shardit {
namespace {

constexpr char kStyle[] = R"css(
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #222;
  background: #fff; max-width: 1040px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 20px; margin: 44px 0 8px; padding-top: 14px; border-top: 1px solid #ddd; }
h3 { font-size: 16px; margin: 26px 0 4px; }
p { margin: 6px 0; max-width: 76ch; }
.note { color: #555; font-size: 13.5px; }
.problem { background: #fff4e5; border-left: 4px solid #d55e00; padding: 6px 10px; }
figure { margin: 12px 0; }
figure svg { display: block; max-width: 100%; height: auto; }
figcaption { color: #555; font-size: 13.5px; max-width: 76ch; }
.scroll { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-size: 12.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 3px 9px 3px 0; border-bottom: 1px solid #e4e4e4;
  white-space: nowrap; }
th { border-bottom: 1.5px solid #888; vertical-align: bottom; font-weight: 600; white-space: normal; }
th.number, td.number { text-align: right; white-space: normal; }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 13em; }
td:last-child, th:last-child { padding-right: 0; }
tr.unfinished td { background: #fff4e5; }
.grids { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 18px; }
.grids figure { margin: 0; }
.grids img { width: 100%; border: 1px solid #ddd; }
footer { margin-top: 48px; border-top: 1px solid #ddd; padding-top: 10px; color: #555; font-size: 13px; }
footer pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px; margin: 4px 0; }
@page { size: A4; margin: 14mm; }
@media print {
  body { font-size: 10pt; max-width: none; padding: 0; }
  .scroll { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding-right: 5px; white-space: normal; }
  td.long { min-width: 0; }
  h2, h3 { break-after: avoid; }
  figure, tr, .problem { break-inside: avoid; }
  thead { display: table-header-group; }
  .grids { grid-template-columns: repeat(3, 1fr); gap: 10px; }
  .problem, tr.unfinished td { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
)css";

// Whether a row is of something that should have finished and did not.
bool IsUnfinished(const Table& table, const std::vector<std::string>& row) {
  for (size_t i = 0; i < table.columns.size(); ++i) {
    if (table.columns[i].title == "state") return row[i] != "finished";
  }
  return false;
}

Markup CellMarkup(absl::string_view tag, const std::string& text, const Column& column) {
  return Element(tag, Text(text), column.numeric ? "class=\"number\"" : column.wraps ? "class=\"long\"" : "");
}

}  // namespace

Markup Text(absl::string_view text) { return {HtmlText(text)}; }

Markup Element(absl::string_view name, const Markup& content, absl::string_view attributes) {
  return {absl::StrCat("<", name, attributes.empty() ? "" : " ", attributes, ">", content.text, "</", name, ">")};
}

Markup Paragraph(absl::string_view text, absl::string_view css_class) {
  Markup paragraph = Element("p", Text(text), css_class.empty() ? "" : absl::StrCat("class=\"", css_class, "\""));
  paragraph.text += "\n";
  return paragraph;
}

Markup Heading(int level, absl::string_view text) {
  return {absl::StrCat("\n", Element(absl::StrCat("h", level), Text(text)).text, "\n")};
}

Markup TableMarkup(const Table& table) {
  Markup head, body;
  for (const Column& column : table.columns) head += CellMarkup("th", column.title, column);
  for (const std::vector<std::string>& row : table.rows) {
    Markup cells;
    for (size_t i = 0; i < row.size(); ++i) cells += CellMarkup("td", row[i], table.columns[i]);
    body += Element("tr", cells, IsUnfinished(table, row) ? "class=\"unfinished\"" : "");
    body.text += "\n";
  }
  Markup whole = Element("thead", Element("tr", head));
  whole += Element("tbody", body);
  return {absl::StrCat(Element("div", Element("table", whole), "class=\"scroll\"").text, "\n")};
}

Markup PngImage(const std::string& png, absl::string_view description) {
  return {absl::StrCat("<img alt=\"", HtmlText(description), "\" src=\"data:image/png;base64,", absl::Base64Escape(png),
                       "\">")};
}

std::string Document(absl::string_view title, const Markup& body) {
  return absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src "
      "data:\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
      Element("title", Text(title)).text, "\n<style>", kStyle, "</style>\n</head>\n<body>\n", body.text,
      "</body>\n</html>\n");
}

}  // namespace shardit
