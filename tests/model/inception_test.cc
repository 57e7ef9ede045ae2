#include "model/inception.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/base/hash.h"
#include "core/ops/resize.h"
#include "data/formats/safetensors.h"

namespace shardit {
namespace {

// The formula of tests/golden/make_inception_golden.py.
uint32_t Word(const std::string& name, uint32_t index) {
  uint32_t x = index * 2654435761u + static_cast<uint32_t>(HashBytes(name));
  x ^= x >> 16;
  x *= 0x85ebca6bu;
  x ^= x >> 13;
  x *= 0xc2b2ae35u;
  return x ^ (x >> 16);
}

std::vector<float> Uniform(const std::string& name, int64_t count, double low, double high) {
  const float from = static_cast<float>(low), range = static_cast<float>(high) - from;
  std::vector<float> values(static_cast<size_t>(count));
  for (uint32_t i = 0; i < values.size(); ++i) {
    values[i] = from + range * (static_cast<float>(Word(name, i) >> 8) * 0x1p-24f);
  }
  return values;
}

// A convolution's weight is numbered [out, in, kernel_h, kernel_w]; the parameter has its channels innermost.
void FillWeight(const Parameter& parameter) {
  const Shape& shape = parameter.shape;
  const bool is_conv = shape.ndim() == 4;
  const int64_t in = is_conv ? shape[3] : 1, taps = is_conv ? shape[1] * shape[2] : 1;
  const double half = std::sqrt(6.0 / static_cast<double>(shape.elements() / shape[0]));
  const std::vector<float> values = Uniform(parameter.name, shape.elements(), -half, half);
  float* to = parameter.value.data();
  if (!is_conv) std::copy(values.begin(), values.end(), to);
  for (int64_t o = 0; is_conv && o < shape[0]; ++o) {
    for (int64_t i = 0; i < in; ++i) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        to[(o * taps + tap) * in + i] = values[static_cast<size_t>((o * in + i) * taps + tap)];
      }
    }
  }
}

void Fill(const Parameter& parameter) {
  const std::string& name = parameter.name;
  if (name.ends_with(".conv.weight") || name == "fc.weight") return FillWeight(parameter);
  const bool around_one = name.ends_with(".running_var") || name.ends_with(".bn.weight");
  const std::vector<float> values =
      Uniform(name, parameter.shape.elements(), around_one ? 0.5 : -0.25, around_one ? 1.5 : 0.25);
  std::copy(values.begin(), values.end(), parameter.value.data());
}

class InceptionTest : public testing::Test {
 protected:
  static constexpr int64_t kCount = 2, kHeight = 48, kWidth = 64;

  InceptionTest() : context_(2) {
    network_.parameters().Allocate(context_.allocator());
    for (const auto& parameter : network_.parameters().all()) Fill(*parameter);
    auto golden = SafetensorsReader::Open(SHARDIT_SOURCE_DIR "/tests/golden/inception/golden.safetensors");
    CHECK(golden.ok()) << golden.status().message();
    for (const SafetensorsEntry& entry : golden->entries()) {
      std::vector<float>& values = golden_[entry.name];
      values.resize(static_cast<size_t>(entry.elements()));
      CHECK(golden->ReadAsFloat(entry, 0, entry.elements(), values.data()).ok());
    }
  }

  // The two images of the script, resized.
  Tensor Input() {
    Tensor pixels = Tensor::Empty(context_.allocator(), {kCount, kHeight, kWidth, 3});
    for (uint32_t i = 0; i < pixels.elements(); ++i) {
      const uint32_t channel = i % 3, column = i / 3 % kWidth, row = i / (3 * kWidth) % kHeight;
      const uint32_t n = i / (3 * kWidth * kHeight);
      const uint32_t value = (Word("pixels", i) >> 25) + row * 2 + column * (channel + 1) / 2 + n * 16;
      pixels.data()[i] = static_cast<float>(value % 256) / 255.0f;
    }
    return ResizeBilinear(context_, pixels, InceptionV3::kSide, InceptionV3::kSide, ResizeMode::kBilinear, 2, -1);
  }

  // Compares every k-th value, and mean and deviation, relative to the largest of the values compared.
  void Compare(const std::string& name, const Tensor& y) {
    const auto found = golden_.find(name);
    ASSERT_NE(found, golden_.end()) << name;
    const std::vector<float>& expected = found->second;
    const float* values = y.data();
    const int64_t step = y.elements() / 64 - (y.elements() / 64 % 2 == 0 ? 1 : 0);
    double largest = 0, error = 0, sum = 0, squares = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
      error = std::max(error, std::abs(static_cast<double>(expected[i]) - values[static_cast<int64_t>(i) * step]));
    }
    for (int64_t i = 0; i < y.elements(); ++i) sum += values[i], squares += static_cast<double>(values[i]) * values[i];
    const double mean = sum / static_cast<double>(y.elements());
    const double deviation = std::sqrt(squares / static_cast<double>(y.elements()) - mean * mean);
    ASSERT_GT(largest, 0) << name;
    EXPECT_LT(error / largest, kTolerance) << name;
    EXPECT_NEAR(mean / largest, golden_[name + ".stats"][0] / largest, kTolerance) << name;
    EXPECT_NEAR(deviation / largest, golden_[name + ".stats"][1] / largest, kTolerance) << name;
    ++compared_;
  }

  void CompareWhole(const std::string& name, const Tensor& y) {
    const std::vector<float>& expected = golden_[name];
    ASSERT_EQ(y.elements(), static_cast<int64_t>(expected.size())) << name;
    double largest = 0, error = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
      error = std::max(error, std::abs(static_cast<double>(expected[i]) - y.data()[i]));
    }
    EXPECT_LT(error / largest, kTolerance) << name;
  }

  static constexpr double kTolerance = 1e-4;
  RankContext context_;
  InceptionV3 network_;
  std::map<std::string, std::vector<float>> golden_;
  size_t compared_ = 0;
};

TEST_F(InceptionTest, MatchesTorchLayerByLayer) {
  const Tensor x = Input();
  Compare("input", x);
  const InceptionV3::Output output =
      network_.Forward(context_, x, [this](std::string_view name, const Tensor& y) { Compare(std::string(name), y); });
  EXPECT_EQ(output.features.shape(), Shape({kCount, 2048}));
  EXPECT_EQ(output.spatial.shape(), Shape({kCount, 17, 17, 7}));
  EXPECT_EQ(output.logits.shape(), Shape({kCount, 1008}));
  CompareWhole("features", output.features);
  CompareWhole("spatial", output.spatial);
  CompareWhole("logits", output.logits);
  // Two tensors a layer, and the three results.
  EXPECT_EQ(2 * compared_ + 3, golden_.size());
}

TEST_F(InceptionTest, DescribesAnImageWhateverItsNeighbours) {
  const Tensor x = Input();
  const InceptionV3::Output both = network_.Forward(context_, x);
  for (int64_t n = 0; n < kCount; ++n) {
    const InceptionV3::Output one = network_.Forward(context_, x.Narrow(0, n, 1));
    for (const auto& [single, pair] : {std::pair(one.features, both.features), std::pair(one.spatial, both.spatial),
                                       std::pair(one.logits, both.logits)}) {
      EXPECT_EQ(std::memcmp(single.data(), pair.data() + n * single.elements(), static_cast<size_t>(single.bytes())),
                0);
    }
  }
}

TEST(InceptionSizes, AreThoseOfThePaper) {
  const InceptionV3 network;
  // torchvision counts 5.713 billion multiply-accumulates for its variant with 1000 classes, and 23,834,568 trainable
  // parameters without auxiliary heads, 1000 of them biases of the head, which nothing reads here.
  EXPECT_NEAR(static_cast<double>(network.FlopsPerImage()), 2 * 5.713e9, 2 * 0.02e9);
  int64_t trainable = 0;
  for (const auto& parameter : network.parameters().all()) {
    const std::string& name = parameter->name;
    if (name.find("running") == name.npos) trainable += parameter->shape.elements();
  }
  EXPECT_EQ(trainable, 23'834'568 - 1000 + 8 * 2048);
}

}  // namespace
}  // namespace shardit
