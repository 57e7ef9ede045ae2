#include "launch/report/text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace shardit {
namespace {

// Bytes of the UTF-8 character at the front of `text`, 0 where there is none. Overlong forms, surrogates and numbers
// beyond U+10FFFF are none.
size_t CharacterBytes(absl::string_view text, uint32_t* code_point) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  const size_t bytes = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 0;
  if (bytes == 0 || bytes > text.size()) return 0;
  uint32_t code = bytes == 1 ? first : first & (0x7Fu >> bytes);
  for (size_t i = 1; i < bytes; ++i) {
    if (byte(i) >> 6 != 2) return 0;
    code = code << 6 | (byte(i) & 0x3Fu);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (code < kSmallest[bytes] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return 0;
  *code_point = code;
  return bytes;
}

bool IsPlain(uint32_t code) {
  if (code < 0x20 || (code >= 0x7F && code < 0xA0)) return false;  // control characters
  if (code >= 0x200B && code <= 0x200F) return false;              // no width, direction marks
  if (code >= 0x2028 && code <= 0x202E) return false;              // line separators, direction overrides
  if (code >= 0x2060 && code <= 0x206F) return false;              // direction isolates, invisible operators
  return code != 0xFEFF && code != 0x061C &&
         (code & 0xFFFE) != 0xFFFE;  // byte order mark, direction mark, no characters
}

}  // namespace

std::string CleanText(absl::string_view text, int64_t max_characters) {
  std::string clean;
  for (int64_t characters = 0; !text.empty(); ++characters) {
    if (characters == max_characters) return clean + "...";
    uint32_t code = 0;
    const size_t bytes = CharacterBytes(text, &code);
    if (bytes > 0 && IsPlain(code)) {
      absl::StrAppend(&clean, text.substr(0, bytes));
    } else {
      clean += '?';
    }
    text.remove_prefix(bytes > 0 ? bytes : 1);
  }
  return clean;
}

std::string HtmlText(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
}

std::string GnuplotString(absl::string_view text) {
  // gnuplot escapes & and < for SVG itself, but not the one place where XML forbids >.
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "''"}, {"]]>", "]] >"}, {"\n", " "}}), "'");
}

std::string GnuplotTickLabel(absl::string_view text) { return GnuplotString(absl::StrReplaceAll(text, {{"%", "%%"}})); }

std::string CsvText(absl::string_view text) {
  const bool is_formula = !text.empty() && absl::StrContains("=+-@\t\r", text.substr(0, 1));
  const std::string cell = absl::StrCat(is_formula ? "'" : "", text);
  if (cell.find_first_of(",\"\r\n") == std::string::npos) return cell;
  return absl::StrCat("\"", absl::StrReplaceAll(cell, {{"\"", "\"\""}}), "\"");
}

std::string SignificantDigits(double value, int digits) {
  if (!std::isfinite(value)) return "-";
  if (value == 0) return "0";
  const std::string scientific = absl::StrFormat("%.*e", digits - 1, value);  // rounded: its exponent is the right one
  const size_t mark = scientific.find('e');
  const int exponent = std::atoi(scientific.c_str() + mark + 1);
  if (exponent < -4 || exponent >= 7) return absl::StrCat(scientific.substr(0, mark), "e", exponent);
  return absl::StrFormat("%.*f", std::max(0, digits - 1 - exponent), value);
}

std::string Grouped(int64_t value) {
  const std::string digits = absl::StrCat(value);
  std::string grouped;
  for (size_t i = 0; i < digits.size(); ++i) {
    const bool starts_group = i > 0 && digits[i - 1] != '-' && (digits.size() - i) % 3 == 0;
    absl::StrAppend(&grouped, starts_group ? "," : "", digits.substr(i, 1));
  }
  return grouped;
}

std::string RoundTrip(double value) {
  if (!std::isfinite(value)) return "";
  char digits[32];
  const auto result = std::to_chars(digits, digits + sizeof(digits), value);
  return std::string(digits, result.ptr);
}

}  // namespace shardit
