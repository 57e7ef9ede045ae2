#include "parallel/tensor/column_sums.h"

#include <cmath>
#include <tuple>
#include <vector>

#include "core/tensor/rng.h"
#include "tests/cuda/device_buffer.h"

namespace shardit::cuda {
namespace {

template <class T>
T Round(float x);
template <>
float Round(float x) {
  return x;
}
template <>
BFloat16 Round(float x) {
  return BFloat16::FromFloat(x);
}
float Widen(float x) { return x; }
float Widen(BFloat16 x) { return x.ToFloat(); }

using ColumnSumsTest = CudaTest;

// `skip` elements before the first: no 16-byte alignment.
template <class T>
void Check(int64_t rows, int64_t width, int64_t skip, bool accumulate) {
  std::vector<float> normal(static_cast<size_t>(skip + rows * width));
  FillNormal({.seed = 5}, 0, static_cast<int64_t>(normal.size()), normal.data());
  std::vector<T> values;
  for (const float x : normal) values.push_back(Round<T>(x));
  std::vector<double> expected(static_cast<size_t>(width), accumulate ? 7.0 : 0.0), sizes(expected);
  for (int64_t i = 0; i < rows * width; ++i) {
    const double x = Widen(values[static_cast<size_t>(skip + i)]);
    expected[static_cast<size_t>(i % width)] += x;
    sizes[static_cast<size_t>(i % width)] += std::abs(x);
  }
  DeviceVector<T> x(values);
  std::vector<float> first;
  for (int run = 0; run < 2; ++run) {
    DeviceVector<float> sums(std::vector<float>(static_cast<size_t>(width), 7.0f));
    ColumnSums({.x = x.data() + skip, .rows = rows, .width = width, .sums = sums.data(), .accumulate = accumulate},
               TestContext());
    const std::vector<float> got = sums.Download();
    if (run == 0) first = got;
    EXPECT_EQ(got, first);
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-6 * (1 + sizes[i])) << i;
  }
}

TEST_F(ColumnSumsTest, OfEveryShape) {
  for (const auto& [rows, width, skip] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {1, 1, 0}, {5, 7, 0}, {64, 72, 0}, {200, 264, 0}, {333, 65, 1}, {129, 64, 3}, {1000, 8, 0}, {17, 1152, 0}}) {
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE(testing::Message() << rows << " x " << width << " + " << skip);
      Check<float>(rows, width, skip, accumulate);
      Check<BFloat16>(rows, width, skip, accumulate);
    }
  }
}

}  // namespace
}  // namespace shardit::cuda
