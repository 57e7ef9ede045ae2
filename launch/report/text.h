// Text for the report's files. Names, messages and settings come from files of anyone's making: they are cleaned once,
// where they are read, and escaped where they are written, by the rules of the file they go into.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace shardit {

// One line of valid UTF-8 for people to read: bytes that are none, control characters and those that turn the direction
// of writing become '?'; cut to `max_characters`, with "..." then.
std::string CleanText(absl::string_view text, int64_t max_characters = 500);

// As content or as a quoted attribute of HTML and XML.
std::string HtmlText(absl::string_view text);

// A gnuplot string literal, quotes included, that stands for `text`: in single quotes nothing is expanded. Cleaned text
// only (a line break would end it).
std::string GnuplotString(absl::string_view text);
// The same for the label of a tick, which gnuplot takes for a format of the tick's number: % is doubled.
std::string GnuplotTickLabel(absl::string_view text);

// A cell of an RFC 4180 file. Text that a spreadsheet would run as a formula gets an apostrophe in front.
std::string CsvText(absl::string_view text);

// 0.01234 with 3 digits: "0.0123"; 1234.5 with 3: "1235": no digit before the point is dropped. Beyond 1e-4 and 1e7 in
// powers of ten, "1.23e-5". "-" where it is not finite.
std::string SignificantDigits(double value, int digits);

// "1,234,567".
std::string Grouped(int64_t value);

// Shortest digits that read back as the same number; empty where it is not finite.
std::string RoundTrip(double value);

}  // namespace shardit
