// Reading PNG files: the chunks before the pixels are walked here, so that every rule is checked before libpng sees the
// file or memory is taken.
#include <png.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "data/formats/png.h"

namespace shardit {
namespace {

constexpr absl::string_view kSignature("\x89PNG\r\n\x1a\n", 8);
constexpr int64_t kHeaderDataBytes = 13;  // of the IHDR chunk
constexpr int64_t kMaxFileBytes = int64_t{1} << 28;
// The walk to the pixels looks at this much of a file; a palette and a profile fit many times.
constexpr int64_t kMaxStartBytes = int64_t{1} << 22;
constexpr int64_t kMaxInflation = 1032;  // of deflate: no stored byte gives more
// sRGB's gamma, and how far off libpng takes another for the same (PNG_GAMMA_THRESHOLD), both times 100,000.
constexpr int64_t kSrgbGamma = 45455, kGammaSlack = 2000;

enum ColourType : uint8_t { kGrey = 0, kRgb = 2, kPalette = 3 };  // 4 and 6 have alpha

absl::Status Bad(absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat("PNG ", what)); }

uint32_t BigEndian(const char* at) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(at[i]);
  return value;
}

// The IHDR chunk's data.
absl::StatusOr<PngHeader> ParseFields(const char* data, int64_t file_bytes) {
  const int64_t width = BigEndian(data), height = BigEndian(data + 4);
  const int depth = static_cast<unsigned char>(data[8]), colour = static_cast<unsigned char>(data[9]);
  if (width == 0 || height == 0 || width > kMaxPngPixels || height > kMaxPngPixels / width) {
    return Bad(absl::StrCat("of ", height, " x ", width, " pixels; expected 1 to ", kMaxPngPixels, " of them"));
  }
  if (colour != kGrey && colour != kRgb && colour != kPalette) {
    return Bad(absl::StrCat("of colour type ", colour, "; expected grey or RGB: remove the alpha channel"));
  }
  if (depth > 8) return Bad(absl::StrCat("of ", depth, " bits a channel; expected up to 8: convert it"));
  const int64_t samples = colour == kRgb ? 3 : 1;
  if (height * CeilDiv(width * samples * depth, 8) / kMaxInflation > file_bytes) {
    return Bad(absl::StrCat("of ", height, " x ", width, " pixels cannot come from ", file_bytes, " bytes"));
  }
  return PngHeader{height, width, colour == kGrey ? 1 : 3};
}

absl::StatusOr<std::string> ReadStart(const std::string& path, int64_t* file_bytes) {
  ASSIGN_OR_RETURN(const RandomAccessFile file, RandomAccessFile::Open(path));
  *file_bytes = file.size();
  std::string start(static_cast<size_t>(std::min<int64_t>(file.size(), 4096)), '\0');
  RETURN_IF_ERROR(file.ReadAt(0, start.data(), static_cast<int64_t>(start.size())));
  // Rarely, a profile or a text lies before the pixels.
  if (start.find("IDAT") == std::string::npos && file.size() > static_cast<int64_t>(start.size())) {
    start.resize(static_cast<size_t>(std::min(file.size(), kMaxStartBytes)));
    RETURN_IF_ERROR(file.ReadAt(0, start.data(), static_cast<int64_t>(start.size())));
  }
  return start;
}

absl::Status In(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(Quoted(path), ": ", status.message()));
}

}  // namespace

absl::StatusOr<PngHeader> ParsePngHeader(absl::string_view start, int64_t file_bytes) {
  if (start.substr(0, kSignature.size()) != kSignature) return Bad("signature is missing: this is not a PNG file");
  PngHeader header;
  bool has_header = false;
  // A chunk is u32 length, four letters, data, u32 CRC (which libpng checks).
  for (size_t at = kSignature.size(); at + 8 <= start.size();) {
    const int64_t bytes = BigEndian(start.data() + at);
    const absl::string_view type = start.substr(at + 4, 4);
    const char* data = start.data() + at + 8;
    if (type == "IDAT" && has_header) return header;
    if (bytes > static_cast<int64_t>(start.size() - at) - 12) break;
    if (!has_header) {
      if (type != "IHDR" || bytes != kHeaderDataBytes) return Bad("does not begin with its header");
      ASSIGN_OR_RETURN(header, ParseFields(data, file_bytes));
      has_header = true;
    } else if (type == "tRNS") {
      return Bad("has a transparent colour; expected none: remove the transparency");
    } else if (type == "gAMA" && bytes == 4 && std::abs(BigEndian(data) - kSrgbGamma) > kGammaSlack) {
      return Bad(absl::StrCat("has gamma ", BigEndian(data), "; expected that of sRGB, ", kSrgbGamma, ", or none"));
    }
    at += static_cast<size_t>(bytes) + 12;
  }
  return absl::DataLossError("PNG ends before its pixels begin: it is damaged or truncated");
}

absl::StatusOr<Image> DecodePng(absl::string_view file) {
  ASSIGN_OR_RETURN(const PngHeader header, ParsePngHeader(file, static_cast<int64_t>(file.size())));
  // libpng's simplified interface: errors come back as values, not through longjmp.
  png_image reader = {};
  reader.version = PNG_IMAGE_VERSION;
  bool ok = png_image_begin_read_from_memory(&reader, file.data(), file.size()) != 0;
  ok = ok && reader.width == header.width && reader.height == header.height;
  Image image{header.height, header.width, header.channels, {}};
  if (ok) {
    reader.format = header.channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
    image.pixels.resize(static_cast<size_t>(header.height * header.width * header.channels));
    ok = png_image_finish_read(&reader, nullptr, image.pixels.data(), 0, nullptr) != 0;
  }
  if (!ok) {
    const std::string message = reader.message;
    png_image_free(&reader);
    return absl::DataLossError(absl::StrCat("PNG is damaged: ", message));
  }
  return image;
}

absl::StatusOr<PngHeader> ReadPngHeader(const std::string& path) {
  int64_t file_bytes = 0;
  ASSIGN_OR_RETURN(const std::string start, ReadStart(path, &file_bytes));
  const absl::StatusOr<PngHeader> header = ParsePngHeader(start, file_bytes);
  if (!header.ok()) return In(path, header.status());
  return *header;
}

absl::StatusOr<Image> ReadPng(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string file, ReadWholeFile(path, kMaxFileBytes));
  absl::StatusOr<Image> image = DecodePng(file);
  if (!image.ok()) return In(path, image.status());
  return image;
}

}  // namespace shardit
