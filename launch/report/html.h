// HTML in small pieces. Markup is a type of its own, so that text from files cannot get into a page but through Text,
// which escapes it.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "launch/report/tables.h"

namespace shardit {

struct Markup {
  std::string text;

  Markup& operator+=(const Markup& other) {
    text += other.text;
    return *this;
  }
};

Markup Text(absl::string_view text);
// <name attributes>content</name>; name and attributes are ours.
Markup Element(absl::string_view name, const Markup& content, absl::string_view attributes = "");
Markup Paragraph(absl::string_view text, absl::string_view css_class = "");
Markup Heading(int level, absl::string_view text);
// In a frame that scrolls sideways on narrow screens. Rows of runs that did not finish are marked by what their state
// column says.
Markup TableMarkup(const Table& table);
// A PNG as a data URI.
Markup PngImage(const std::string& png, absl::string_view description);
// A document of its own: no scripts, nothing from outside.
std::string Document(absl::string_view title, const Markup& body);

}  // namespace shardit
