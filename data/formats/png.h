// 8-bit images: PNG files through libpng, and grids of samples with labels. Pixels are row-major, interleaved, 1
// channel (grey) or 3 (RGB). All functions are pure or touch only the named file. Writing: png.cc; reading:
// png_reader.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/file.h"

namespace shardit {

struct Image {
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 1;
  std::vector<uint8_t> pixels;  // height * width * channels
};

constexpr int64_t kMaxPngSide = 65535;  // pixels

// The file's bytes. At most kMaxPngSide pixels a side, 1 or 3 channels (CHECK).
absl::StatusOr<std::string> EncodePng(const Image& image);
// Atomically: a viewer never sees half a picture.
absl::Status WritePng(FileSystem& fs, const std::string& path, const Image& image);

// Files to be read are untrusted. Accepted are grey and RGB of up to 8 bits and palettes (which become RGB), interlaced
// or not, of at most kMaxPngPixels pixels and no more than the file's bytes can hold. Refused, with InvalidArgument
// that says the rule: alpha or a transparent colour, 16 bits, and a gAMA other than sRGB's, which viewers apply and
// other readers do not. Colour profiles are ignored. A damaged or truncated file is DataLoss.
constexpr int64_t kMaxPngPixels = int64_t{1} << 26;

struct PngHeader {
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 1;  // after decoding
};
// What DecodePng would give, from what comes before the pixels; `start` is the file, or the start of it.
absl::StatusOr<PngHeader> ParsePngHeader(absl::string_view start, int64_t file_bytes);
absl::StatusOr<Image> DecodePng(absl::string_view file);
// The same of files; messages name the file.
absl::StatusOr<PngHeader> ReadPngHeader(const std::string& path);
absl::StatusOr<Image> ReadPng(const std::string& path);

struct GridOptions {
  int64_t columns = 10;
  int64_t scale = 1;    // every sample's pixel becomes scale x scale pixels
  int64_t padding = 2;  // pixels around every tile
  uint8_t background = 255;
  std::string title;                    // one line above the grid, where not empty
  std::vector<std::string> row_labels;  // left of the rows; missing ones are blank
};

// Tiles `images` ([count, height, width, channels]) row by row. Text is drawn black or white, whichever stands out from
// the background, at scale 1 for small tiles and 2 where a scaled tile is at least 64 pixels high.
Image MakeGrid(std::span<const uint8_t> images, int64_t count, int64_t height, int64_t width, int64_t channels,
               const GridOptions& options);

// The most rows and columns of tiles that such a picture has in kMaxPngSide pixels a side; the labels are those of all
// rows.
struct GridRoom {
  int64_t rows = 0, columns = 0;
};
GridRoom RoomForTiles(int64_t height, int64_t width, const GridOptions& options);

// Draws one line of text with the built-in 5x7 font (capitals, digits, common punctuation; small letters become
// capitals, other characters a box) with its upper left corner at (x, y), clipped to the image.
void DrawText(absl::string_view text, int64_t x, int64_t y, int64_t scale, uint8_t value, Image* image);
constexpr int64_t TextWidth(int64_t characters, int64_t scale) { return characters * 6 * scale; }
constexpr int64_t TextHeight(int64_t scale) { return 7 * scale; }

}  // namespace shardit
