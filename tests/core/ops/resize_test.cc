// Resizing: the cases, and what PyTorch and TensorFlow 1 make of the sizes that Inception meets.
#include "core/ops/resize.h"

#include "absl/strings/str_cat.h"
#include "tests/core/host_copy.h"
#include "tests/core/op_case_cpu.h"
#include "tests/core/ops/golden_arrays.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

INSTANTIATE_OP_CASES(Resize, ResizeCases());

// pixels() of tests/golden/make_image_ops.py.
std::vector<float> Pixels(int64_t height, int64_t width, int64_t channels) {
  std::vector<float> pixels;
  for (int64_t h = 0; h < height; ++h) {
    for (int64_t w = 0; w < width; ++w) {
      for (int64_t c = 0; c < channels; ++c) {
        pixels.push_back(static_cast<float>((h * h * 7 + h * w * 3 + w * 11 + c * 53) % 256));
      }
    }
  }
  return pixels;
}

struct Golden {
  int64_t height, width, to_height, to_width;
};

std::string Name(const Golden& sizes) {
  return absl::StrCat(sizes.height, "x", sizes.width, "_", sizes.to_height, "x", sizes.to_width);
}

class ResizeGolden : public ::testing::TestWithParam<Golden> {
 protected:
  static constexpr int64_t kChannels = 2;

  // Compares the rows and columns that are stored.
  static void Expect(const Tensor& y, const std::string& framework) {
    const Golden& sizes = GetParam();
    const std::string name = "resize_" + Name(sizes) + ".";
    const std::vector<int32_t> rows = ReadGoldenIntegers(name + "rows"), columns = ReadGoldenIntegers(name + "columns");
    const GoldenArray want = ReadGolden(name + framework);
    ASSERT_EQ(want.values.size(), rows.size() * columns.size() * kChannels) << name;
    size_t at = 0;
    for (const int64_t row : rows) {
      for (const int64_t column : columns) {
        for (int64_t c = 0; c < kChannels; ++c) {
          const float got = y.data()[(row * sizes.to_width + column) * kChannels + c];
          ASSERT_NEAR(got, want.values[at++], 1e-6) << name << framework << " row " << row << " column " << column;
        }
      }
    }
  }
};

TEST_P(ResizeGolden, IsPyTorchs) {
  const auto& [height, width, to_height, to_width] = GetParam();
  RankContext context(2);
  std::vector<float> x = Pixels(height, width, kChannels);
  for (float& pixel : x) pixel /= 255;
  Expect(ResizeBilinear(context, Tensor::Borrow(x.data(), {1, height, width, kChannels}), to_height, to_width,
                        ResizeMode::kBilinear, 2, -1),
         "torch");
}

TEST_P(ResizeGolden, IsTensorFlow1s) {
  const auto& [height, width, to_height, to_width] = GetParam();
  RankContext context(2);
  std::vector<float> x = Pixels(height, width, kChannels);
  Expect(ResizeBilinear(context, Tensor::Borrow(x.data(), {1, height, width, kChannels}), to_height, to_width,
                        ResizeMode::kBilinearTf1, 1.0f / 128, -1),
         "tf1");
}

INSTANTIATE_TEST_SUITE_P(Inception, ResizeGolden,
                         ::testing::Values(Golden{32, 32, 299, 299}, Golden{299, 299, 299, 299},
                                           Golden{64, 64, 299, 299}, Golden{299, 299, 32, 32},
                                           Golden{400, 300, 299, 299}),
                         [](const ::testing::TestParamInfo<Golden>& info) { return Name(info.param); });

TEST(Resize, EqualSizesCopy) {
  RankContext context(1);
  std::vector<float> x = Pixels(37, 299, 3);
  for (float& pixel : x) pixel = pixel / 3 + 1e-3f;
  const Tensor image = Tensor::Borrow(x.data(), {1, 37, 299, 3});
  for (const ResizeMode mode : {ResizeMode::kBilinear, ResizeMode::kBilinearTf1}) {
    EXPECT_EQ(ReadFloats(ResizeBilinear(context, image, 37, 299, mode)), x);
  }
}

TEST(Resize, NoImagesAreAllowed) {
  RankContext context(1);
  const Tensor none = Tensor::Empty(context.allocator(), {0, 4, 4, 3});
  EXPECT_EQ(ResizeBilinear(context, none, 8, 5, ResizeMode::kBilinear).shape(), Shape({0, 8, 5, 3}));
}

TEST(ResizeDeathTest, RefusesEmptyImages) {
  RankContext context(1);
  const Tensor image = Tensor::Zeros(context.allocator(), {1, 4, 4, 3});
  EXPECT_DEATH(ResizeBilinear(context, image, 0, 4, ResizeMode::kBilinear), "from 4 to 0 pixels");
  const Tensor flat = Tensor::Zeros(context.allocator(), {4, 4, 3});
  EXPECT_DEATH(ResizeBilinear(context, flat, 4, 4, ResizeMode::kBilinear), "\\[resize\\] x \\[4, 4, 3\\]");
}

}  // namespace
}  // namespace shardit
