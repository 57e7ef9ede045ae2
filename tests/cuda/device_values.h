// What tests of kernels of several types share: fp32 or bf16 elements on the device, given and read back as doubles,
// and the measure by which a kernel may differ from the truth.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "core/tensor/dtype.h"
#include "core/tensor/elements.h"
#include "tests/cuda/device_buffer.h"

namespace shardit::cuda {

using Values = std::vector<double>;

inline double RoundTo(DType dtype, double value) {
  const float narrow = static_cast<float>(value);
  return dtype == DType::kBF16 ? BFloat16::FromFloat(narrow).ToFloat() : narrow;
}

// Normally distributed, representable in `dtype`.
inline Values RandomValues(DType dtype, int64_t count, uint32_t seed, double deviation = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal(0, deviation);
  Values values(static_cast<size_t>(count));
  for (double& value : values) value = RoundTo(dtype, normal(engine));
  return values;
}

// `offset` elements lie before the first one: packs do not fit where it is odd.
class DeviceValues {
 public:
  DeviceValues(DType dtype, const Values& values, int64_t offset = 0)
      : dtype_(dtype), count_(static_cast<int64_t>(values.size())), offset_(offset), memory_(Encode(values)) {}

  Elements ref() { return Elements(memory_.data(), dtype_).At(offset_); }
  // Waits for everything on the stream.
  Values Download() const {
    const std::vector<uint8_t> bytes = memory_.Download();
    Values values(static_cast<size_t>(count_));
    for (size_t i = 0; i < values.size(); ++i) {
      const uint8_t* from = bytes.data() + (static_cast<size_t>(offset_) + i) * size();
      if (dtype_ == DType::kBF16) {
        BFloat16 element;
        std::memcpy(&element, from, sizeof(element));
        values[i] = element.ToFloat();
      } else {
        float element;
        std::memcpy(&element, from, sizeof(element));
        values[i] = element;
      }
    }
    return values;
  }

 private:
  size_t size() const { return static_cast<size_t>(SizeOf(dtype_)); }
  std::vector<uint8_t> Encode(const Values& values) const {
    std::vector<uint8_t> bytes((static_cast<size_t>(offset_) + values.size()) * size());
    for (size_t i = 0; i < values.size(); ++i) {
      uint8_t* to = bytes.data() + (static_cast<size_t>(offset_) + i) * size();
      const float element = static_cast<float>(values[i]);
      const BFloat16 narrow = BFloat16::FromFloat(element);
      dtype_ == DType::kBF16 ? std::memcpy(to, &narrow, sizeof(narrow)) : std::memcpy(to, &element, sizeof(element));
    }
    return bytes;
  }

  DType dtype_;
  int64_t count_;
  int64_t offset_;
  DeviceVector<uint8_t> memory_;
};

inline double LargestError(const Values& values, const Values& truth) {
  double largest = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    const double error = std::abs(values[i] - truth[i]);
    if (!(error <= largest)) largest = error;  // NaN stays
  }
  return largest;
}

// The kernel's largest error against fp64 is at most `factor` times that of the twin: the same formulas in plain fp32
// loops, everything that is stored rounded to its type. The floor is for twins that happen to be exact.
inline void ExpectAsGoodAsTwin(const Values& kernel, const Values& truth, const Values& twin, double factor,
                               const char* what) {
  ASSERT_EQ(kernel.size(), truth.size()) << what;
  double largest = 0;
  for (const double value : truth) largest = std::max(largest, std::abs(value));
  EXPECT_LE(LargestError(kernel, truth), factor * LargestError(twin, truth) + 2e-6 * largest) << what;
}

}  // namespace shardit::cuda
