#include "data/formats/npy.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/check.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"

namespace shardit {
namespace {

constexpr absl::string_view kMagic = "\x93NUMPY";
constexpr size_t kMaxRank = 32;  // numpy's own limit

struct TypeRow {
  NpyType type;
  absl::string_view descr;
  int64_t bytes;
};
constexpr std::array<TypeRow, 12> kTypes = {{{NpyType::kBool, "|b1", 1},
                                             {NpyType::kU8, "|u1", 1},
                                             {NpyType::kI8, "|i1", 1},
                                             {NpyType::kU16, "<u2", 2},
                                             {NpyType::kI16, "<i2", 2},
                                             {NpyType::kU32, "<u4", 4},
                                             {NpyType::kI32, "<i4", 4},
                                             {NpyType::kU64, "<u8", 8},
                                             {NpyType::kI64, "<i8", 8},
                                             {NpyType::kF16, "<f2", 2},
                                             {NpyType::kF32, "<f4", 4},
                                             {NpyType::kF64, "<f8", 8}}};

const TypeRow& RowOf(NpyType type) {
  return *std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeRow& row) { return row.type == type; });
}

absl::Status Bad(absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat("npy header ", what)); }

void SkipSpace(absl::string_view* text) { *text = absl::StripLeadingAsciiWhitespace(*text); }

bool Take(absl::string_view token, absl::string_view* text) {
  SkipSpace(text);
  return absl::ConsumePrefix(text, token);
}

// A quoted string without escapes: all that numpy writes here.
absl::StatusOr<absl::string_view> TakeString(absl::string_view* text) {
  SkipSpace(text);
  if (text->empty() || (text->front() != '\'' && text->front() != '"')) {
    return Bad("has no string where one belongs; structured dtypes are not supported");
  }
  const size_t end = text->find(text->front(), 1);
  if (end == absl::string_view::npos) return Bad("has a string without end");
  const absl::string_view value = text->substr(1, end - 1);
  text->remove_prefix(end + 1);
  return value;
}

absl::Status TakeShape(absl::string_view* text, std::vector<int64_t>* shape) {
  if (!Take("(", text)) return Bad("has a shape that is not a tuple");
  while (!Take(")", text)) {
    SkipSpace(text);
    size_t digits = 0;
    while (digits < text->size() && absl::ascii_isdigit((*text)[digits])) ++digits;
    int64_t dim = 0;
    if (!absl::SimpleAtoi(text->substr(0, digits), &dim) || shape->size() == kMaxRank) {
      return Bad("has a shape with a bad dimension, or more than 32 of them");
    }
    shape->push_back(dim);
    text->remove_prefix(digits);
    if (!Take(",", text) && !absl::StartsWith(absl::StripLeadingAsciiWhitespace(*text), ")")) {
      return Bad("has a shape that is not a tuple of numbers");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckDescr(absl::string_view descr, NpyType* type) {
  for (const TypeRow& row : kTypes) {
    // One-byte items have no byte order; numpy writes '|', other writers '<'.
    if (row.descr == descr ||
        (row.bytes == 1 && row.descr.substr(1) == descr.substr(std::min<size_t>(1, descr.size())))) {
      *type = row.type;
      return absl::OkStatus();
    }
  }
  return Bad(absl::StrCat("has dtype '", absl::CHexEscape(descr),
                          "', expected a little-endian number or bool (object arrays are never read)"));
}

absl::Status ParseDictionary(absl::string_view text, NpyHeader* header) {
  bool saw_descr = false, saw_order = false, saw_shape = false;
  if (!Take("{", &text)) return Bad("is not a dictionary");
  while (!Take("}", &text)) {
    ASSIGN_OR_RETURN(const absl::string_view key, TakeString(&text));
    if (!Take(":", &text)) return Bad("has a key without value");
    bool* saw = key == "descr"           ? &saw_descr
                : key == "fortran_order" ? &saw_order
                : key == "shape"         ? &saw_shape
                                         : nullptr;
    if (saw == nullptr || *saw) return Bad(absl::StrCat("has key '", absl::CHexEscape(key), "' too much"));
    *saw = true;
    if (saw == &saw_descr) {
      ASSIGN_OR_RETURN(const absl::string_view descr, TakeString(&text));
      RETURN_IF_ERROR(CheckDescr(descr, &header->type));
    } else if (saw == &saw_shape) {
      RETURN_IF_ERROR(TakeShape(&text, &header->shape));
    } else if (!Take("False", &text)) {
      return Bad("says fortran_order; save a numpy.ascontiguousarray instead");
    }
    Take(",", &text);
  }
  if (!saw_descr || !saw_order || !saw_shape) return Bad("lacks one of descr, fortran_order, shape");
  SkipSpace(&text);
  if (!text.empty()) return Bad("goes on after its dictionary");
  return absl::OkStatus();
}

}  // namespace

int64_t ItemBytes(NpyType type) { return RowOf(type).bytes; }
absl::string_view TypeName(NpyType type) { return RowOf(type).descr; }

std::string FormatNpyHeader(NpyType type, const std::vector<int64_t>& shape) {
  std::string text = absl::StrCat("{'descr': '", TypeName(type), "', 'fortran_order': False, 'shape': (");
  for (size_t i = 0; i < shape.size(); ++i) absl::StrAppend(&text, i == 0 ? "" : " ", shape[i], ",");
  if (shape.size() > 1) text.pop_back();
  text += "), }";
  const int64_t prefix = static_cast<int64_t>(kMagic.size()) + 4;
  const int64_t total = RoundUp(prefix + static_cast<int64_t>(text.size()) + 1, 64);
  text.resize(static_cast<size_t>(total - prefix - 1), ' ');
  text += '\n';
  CHECK_LT(text.size(), 65536u) << "[FormatNpyHeader] rank " << shape.size();
  const uint16_t length = static_cast<uint16_t>(text.size());
  std::string header = absl::StrCat(kMagic, absl::string_view("\x01\x00", 2));
  header.append(reinterpret_cast<const char*>(&length), sizeof(length));
  return header + text;
}

absl::StatusOr<NpyHeader> ParseNpyHeader(absl::string_view start) {
  if (start.size() < 12 || !absl::StartsWith(start, kMagic)) return Bad("does not begin with \\x93NUMPY");
  const int version = static_cast<unsigned char>(start[6]);
  if (version < 1 || version > 3 || start[7] != 0) return Bad("has a version other than 1.0, 2.0 or 3.0");
  const size_t length_bytes = version == 1 ? 2 : 4;
  uint32_t length = 0;
  std::memcpy(&length, start.data() + 8, length_bytes);
  const size_t begin = 8 + length_bytes;
  if (length > start.size() - begin) return Bad(absl::StrCat("claims ", length, " bytes, more than the file has"));

  NpyHeader header;
  RETURN_IF_ERROR(ParseDictionary(start.substr(begin, length), &header));
  header.header_bytes = static_cast<int64_t>(begin + length);
  header.data_bytes = ItemBytes(header.type);
  for (const int64_t dim : header.shape) {
    const auto product = CheckedMul(header.data_bytes, dim);
    if (!product) return Bad("has a shape whose size overflows");
    header.data_bytes = *product;
  }
  return header;
}

}  // namespace shardit
