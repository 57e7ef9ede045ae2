#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <png.h>
#include <stdlib.h>

#include <string>
#include <utility>

#include "data/formats/png.h"

namespace shardit {
namespace {

// Decodes with libpng's own reader.
Image Decode(const std::string& file) {
  png_image header = {};
  header.version = PNG_IMAGE_VERSION;
  EXPECT_NE(png_image_begin_read_from_memory(&header, file.data(), file.size()), 0) << header.message;
  Image image;
  image.channels = (header.format & PNG_FORMAT_FLAG_COLOR) != 0 ? 3 : 1;
  header.format = image.channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  image.width = header.width;
  image.height = header.height;
  image.pixels.resize(PNG_IMAGE_SIZE(header));
  EXPECT_NE(png_image_finish_read(&header, nullptr, image.pixels.data(), 0, nullptr), 0) << header.message;
  return image;
}

TEST(Png, RoundTripGreyAndColour) {
  for (const int64_t channels : {1, 3}) {
    Image image{5, 7, channels, {}};
    for (int64_t i = 0; i < 5 * 7 * channels; ++i) image.pixels.push_back(static_cast<uint8_t>(i * 37));
    const auto file = EncodePng(image);
    ASSERT_TRUE(file.ok()) << file.status();
    const Image back = Decode(*file);
    EXPECT_EQ(back.channels, channels);
    EXPECT_EQ(back.width, 7);
    EXPECT_EQ(back.height, 5);
    EXPECT_EQ(back.pixels, image.pixels);
  }
}

TEST(Png, WritesAtomically) {
  char pattern[] = "/tmp/shardit_png_XXXXXX";
  ASSERT_NE(mkdtemp(pattern), nullptr);
  const std::string root = pattern, path = JoinPath(root, "x.png");
  ASSERT_TRUE(WritePng(PosixFileSystem(), path, Image{1, 2, 1, {0, 255}}).ok());
  EXPECT_EQ(Decode(ReadWholeFile(path, 1 << 20).value()).pixels, (std::vector<uint8_t>{0, 255}));
  EXPECT_EQ(ListFolder(root)->size(), 1u);
  EXPECT_EQ(WritePng(PosixFileSystem(), "/nonexistent/x.png", Image{1, 2, 1, {0, 255}}).code(),
            absl::StatusCode::kNotFound);
  EXPECT_TRUE(RemoveTree(PosixFileSystem(), root).ok());
}

// Files of tests/data/formats_golden/make_png.py.
std::string Golden(const std::string& name) {
  return std::string(SHARDIT_SOURCE_DIR) + "/tests/data/formats_golden/png_" + name + ".png";
}

TEST(Png, ReadsWhatOthersWrite) {
  for (const std::string name : {"grey", "rgb", "rgb_srgb_gamma", "palette"}) {
    const auto image = ReadPng(Golden(name));
    ASSERT_TRUE(image.ok()) << image.status();
    EXPECT_EQ(image->channels, name == "grey" ? 1 : 3);
    ASSERT_EQ(image->height, 4);
    ASSERT_EQ(image->width, 5);
    for (size_t i = 0; i < image->pixels.size(); ++i) {
      const size_t channels = static_cast<size_t>(image->channels), pixel = i / channels;
      ASSERT_EQ(image->pixels[i], 40 * (pixel / 5) + 9 * (pixel % 5) + 40 * (i % channels)) << name << " " << i;
    }
    const auto header = ReadPngHeader(Golden(name));
    ASSERT_TRUE(header.ok()) << header.status();
    EXPECT_EQ(header->channels, image->channels);
    EXPECT_EQ(header->height, 4);
    EXPECT_EQ(header->width, 5);
  }
  const auto bits = ReadPng(Golden("grey_1_bit"));
  ASSERT_TRUE(bits.ok()) << bits.status();
  EXPECT_EQ(std::vector<uint8_t>(bits->pixels.begin(), bits->pixels.begin() + 5),
            (std::vector<uint8_t>{255, 0, 255, 255, 0}));
}

TEST(Png, ReadsWhatItWrites) {
  const Image image{3, 2, 3, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 255}};
  const auto back = DecodePng(EncodePng(image).value());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->pixels, image.pixels);
}

TEST(Png, RefusesByRule) {
  const std::pair<const char*, const char*> cases[] = {
      {"refused_gamma", "gamma 100000"}, {"refused_alpha", "alpha"},           {"refused_transparent", "transparent"},
      {"refused_16_bits", "16 bits"},    {"refused_bomb", "cannot come from"}, {"refused_huge", "pixels"}};
  for (const auto& [name, rule] : cases) {
    const auto image = ReadPng(Golden(name));
    EXPECT_EQ(image.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(image.status().message()),
                testing::AllOf(testing::HasSubstr(rule), testing::HasSubstr(name)));
    EXPECT_EQ(ReadPngHeader(Golden(name)).status(), image.status());
  }
}

TEST(Png, NamesDamage) {
  const std::string file = ReadWholeFile(Golden("rgb"), 1 << 20).value();
  for (size_t bytes = 0; bytes < file.size() - 12; ++bytes) {  // without IEND it may still be whole
    EXPECT_FALSE(DecodePng(file.substr(0, bytes)).ok()) << bytes;
  }
  std::string flipped = file;
  flipped[flipped.size() - 24] ^= 1;  // in the compressed pixels
  EXPECT_EQ(DecodePng(flipped).status().code(), absl::StatusCode::kDataLoss);
}

uint8_t PixelAt(const Image& image, int64_t y, int64_t x, int64_t channel = 0) {
  return image.pixels[static_cast<size_t>((y * image.width + x) * image.channels + channel)];
}

TEST(Grid, TilesGoRowByRowWithPaddingAndScale) {
  // Three 2x1 RGB images in two columns: image i has value 10 i + 2 row in red, 100 in blue.
  std::vector<uint8_t> images;
  for (int i = 0; i < 3; ++i) {
    for (int row = 0; row < 2; ++row) {
      for (const int value : {10 * i + 2 * row, 0, 100}) images.push_back(static_cast<uint8_t>(value));
    }
  }
  GridOptions options;
  options.columns = 2;
  options.scale = 3;
  options.padding = 1;
  options.background = 7;
  const Image grid = MakeGrid(images, 3, 2, 1, 3, options);
  EXPECT_EQ(grid.width, 2 * (3 + 2));
  EXPECT_EQ(grid.height, 2 * (6 + 2));
  for (int64_t y = 0; y < grid.height; ++y) {
    for (int64_t x = 0; x < grid.width; ++x) {
      const int64_t in_y = y % 8 - 1, in_x = x % 5 - 1, index = y / 8 * 2 + x / 5;
      const bool inside = in_y >= 0 && in_y < 6 && in_x >= 0 && in_x < 3 && index < 3;
      ASSERT_EQ(PixelAt(grid, y, x), inside ? 10 * index + in_y / 3 * 2 : 7) << y << " " << x;
      ASSERT_EQ(PixelAt(grid, y, x, 2), inside ? 100 : 7);
    }
  }
}

TEST(Grid, RoomForTilesIsTheMostThatFits) {
  GridOptions options{.columns = 1, .scale = 1, .padding = 1};
  for (const bool labelled : {false, true}) {
    if (labelled) options.row_labels = {"COAT"};
    if (labelled) options.title = "A";
    const GridRoom room = RoomForTiles(5, 3, options);
    EXPECT_EQ(room.rows, (kMaxPngSide - (labelled ? TextHeight(1) + 8 : 0)) / 7);
    EXPECT_EQ(room.columns, (kMaxPngSide - (labelled ? TextWidth(4, 1) + 8 : 0)) / 5);
    const std::vector<uint8_t> column(static_cast<size_t>(room.rows * 15)), row(static_cast<size_t>(room.columns * 15));
    options.columns = 1;
    EXPECT_TRUE(EncodePng(MakeGrid(column, room.rows, 5, 3, 1, options)).ok());
    options.columns = room.columns;
    EXPECT_TRUE(EncodePng(MakeGrid(row, room.columns, 5, 3, 1, options)).ok());
  }
}

TEST(Grid, LabelsAndTitleTakeTheirRoom) {
  const std::vector<uint8_t> images(4 * 16 * 16, 128);
  GridOptions plain;
  plain.columns = 2;
  GridOptions labelled = plain;
  labelled.row_labels = {"COAT", "BAG"};
  labelled.title = "AB";
  const Image without = MakeGrid(images, 4, 16, 16, 1, plain), with = MakeGrid(images, 4, 16, 16, 1, labelled);
  const int64_t left = TextWidth(4, 1) + 8, top = TextHeight(1) + 8;
  EXPECT_EQ(with.width, without.width + left);
  EXPECT_EQ(with.height, without.height + top);
  int64_t ink_in_title = 0, ink_in_labels = 0;
  for (int64_t y = 0; y < with.height; ++y) {
    for (int64_t x = 0; x < with.width; ++x) {
      if (y >= top && x >= left) {
        ASSERT_EQ(PixelAt(with, y, x), PixelAt(without, y - top, x - left));
      } else if (PixelAt(with, y, x) == 0) {
        ++(y < top ? ink_in_title : ink_in_labels);
      }
    }
  }
  EXPECT_EQ(ink_in_title, 18 + 20);  // pixels of A and B
  EXPECT_GT(ink_in_labels, 60);
}

TEST(Grid, TextIsClippedAndUnknownCharactersAreBoxes) {
  Image image{7, 5, 1, std::vector<uint8_t>(35, 0)};
  DrawText("\x01", 0, 0, 1, 9, &image);
  EXPECT_EQ(PixelAt(image, 0, 0), 9);
  EXPECT_EQ(PixelAt(image, 3, 2), 0);
  EXPECT_EQ(PixelAt(image, 6, 4), 9);
  DrawText("WWWW", -3, -3, 4, 1, &image);  // must stay inside
  Image a{7, 5, 1, std::vector<uint8_t>(35, 0)}, b = a;
  DrawText("a", 0, 0, 1, 1, &a);
  DrawText("A", 0, 0, 1, 1, &b);
  EXPECT_EQ(a.pixels, b.pixels);
}

}  // namespace
}  // namespace shardit
