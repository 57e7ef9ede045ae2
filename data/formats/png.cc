#include "data/formats/png.h"

#include <png.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"

namespace shardit {
namespace {

constexpr int64_t kLabelMargin = 4;  // pixels between a row's label and its tiles, before scaling

int64_t TextScale(const GridOptions& options, int64_t tile_height) { return tile_height * options.scale >= 64 ? 2 : 1; }

// Where things lie in a grid of tiles of one size, in pixels.
struct GridLayout {
  int64_t left = 0, top = 0;  // room for labels and title
  int64_t cell_height = 0, cell_width = 0;
  int64_t text_scale = 1;
};

GridLayout LayoutOf(int64_t height, int64_t width, const GridOptions& options) {
  GridLayout layout{.cell_height = height * options.scale + 2 * options.padding,
                    .cell_width = width * options.scale + 2 * options.padding,
                    .text_scale = TextScale(options, height)};
  size_t label_length = 0;
  for (const std::string& label : options.row_labels) label_length = std::max(label_length, label.size());
  const int64_t margins = 2 * kLabelMargin * layout.text_scale;
  if (label_length > 0) layout.left = TextWidth(static_cast<int64_t>(label_length), layout.text_scale) + margins;
  if (!options.title.empty()) layout.top = TextHeight(layout.text_scale) + margins;
  return layout;
}

// Copies tile `index` into the cell at (x, y), each pixel scale x scale times.
void PlaceTile(std::span<const uint8_t> tile, int64_t tile_width, int64_t tile_height, int64_t scale, int64_t x,
               int64_t y, Image* grid) {
  const int64_t channels = grid->channels;
  for (int64_t row = 0; row < tile_height * scale; ++row) {
    uint8_t* out = grid->pixels.data() + ((y + row) * grid->width + x) * channels;
    for (int64_t column = 0; column < tile_width * scale; ++column) {
      const uint8_t* in = tile.data() + (row / scale * tile_width + column / scale) * channels;
      out = std::copy_n(in, channels, out);
    }
  }
}

}  // namespace

absl::StatusOr<std::string> EncodePng(const Image& image) {
  CHECK(image.channels == 1 || image.channels == 3) << "[EncodePng] " << image.channels << " channels";
  CHECK(image.height > 0 && image.width > 0 && image.height <= kMaxPngSide && image.width <= kMaxPngSide)
      << "[EncodePng] " << image.height << " x " << image.width;
  CHECK_EQ(static_cast<int64_t>(image.pixels.size()), image.height * image.width * image.channels) << "[EncodePng]";
  // libpng's simplified interface: errors come back as values, not through longjmp.
  png_image header = {};
  header.version = PNG_IMAGE_VERSION;
  header.width = static_cast<png_uint_32>(image.width);
  header.height = static_cast<png_uint_32>(image.height);
  header.format = image.channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  png_alloc_size_t bytes = 0;
  std::string file;
  bool ok = png_image_write_to_memory(&header, nullptr, &bytes, 0, image.pixels.data(), 0, nullptr) != 0;
  if (ok) {
    file.resize(bytes);
    ok = png_image_write_to_memory(&header, file.data(), &bytes, 0, image.pixels.data(), 0, nullptr) != 0;
    file.resize(bytes);
  }
  if (!ok) return absl::InternalError(absl::StrCat("libpng cannot encode the image: ", header.message));
  return file;
}

absl::Status WritePng(FileSystem& fs, const std::string& path, const Image& image) {
  ASSIGN_OR_RETURN(const std::string file, EncodePng(image));
  return AtomicWriteFile(fs, path, file);
}

GridRoom RoomForTiles(int64_t height, int64_t width, const GridOptions& options) {
  const GridLayout layout = LayoutOf(height, width, options);
  return {.rows = (kMaxPngSide - layout.top) / layout.cell_height,
          .columns = (kMaxPngSide - layout.left) / layout.cell_width};
}

Image MakeGrid(std::span<const uint8_t> images, int64_t count, int64_t height, int64_t width, int64_t channels,
               const GridOptions& options) {
  CHECK(count > 0 && height > 0 && width > 0 && (channels == 1 || channels == 3))
      << "[MakeGrid] " << count << " images of " << height << " x " << width << " x " << channels;
  CHECK_EQ(static_cast<int64_t>(images.size()), count * height * width * channels) << "[MakeGrid]";
  CHECK(options.columns > 0 && options.scale > 0 && options.padding >= 0) << "[MakeGrid] options";
  const auto [left, top, cell_height, cell_width, text_scale] = LayoutOf(height, width, options);
  const int64_t columns = std::min(options.columns, count);
  const int64_t rows = CeilDiv(count, options.columns);
  const int64_t title_width = 2 * kLabelMargin + TextWidth(static_cast<int64_t>(options.title.size()), text_scale);

  Image grid;
  grid.channels = channels;
  grid.width = std::max(left + columns * cell_width, top == 0 ? 0 : title_width);
  grid.height = top + rows * cell_height;
  grid.pixels.assign(static_cast<size_t>(grid.height * grid.width * channels), options.background);
  for (int64_t i = 0; i < count; ++i) {
    PlaceTile(images.subspan(static_cast<size_t>(i * height * width * channels)), width, height, options.scale,
              left + i % options.columns * cell_width + options.padding,
              top + i / options.columns * cell_height + options.padding, &grid);
  }
  const uint8_t ink = options.background >= 128 ? 0 : 255;
  DrawText(options.title, kLabelMargin, kLabelMargin * text_scale, text_scale, ink, &grid);
  for (int64_t row = 0; row < std::min<int64_t>(rows, static_cast<int64_t>(options.row_labels.size())); ++row) {
    DrawText(options.row_labels[static_cast<size_t>(row)], kLabelMargin * text_scale,
             top + row * cell_height + (cell_height - TextHeight(text_scale)) / 2, text_scale, ink, &grid);
  }
  return grid;
}

}  // namespace shardit
