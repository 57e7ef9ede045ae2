#include "core/tensor/copy_rows.h"

#include <string>

#include "tests/cuda/device_values.h"

namespace shardit::cuda {
namespace {

struct Case {
  const char* name;
  int64_t rows;
  int64_t count;
  int64_t source_stride;
  int64_t destination_stride;
  int64_t source_offset = 0;
  int64_t destination_offset = 0;
};

const Case kCases[] = {
    {"one element", 1, 1, 1, 1},
    {"dense, whole packs", 3, 64, 64, 64},
    {"dense, rows that end inside packs", 5, 37, 37, 37},
    {"one row that ends inside a pack", 1, 1003, 0, 0},
    {"slices, whole packs", 7, 72, 216, 144},
    {"slices that end inside packs", 4, 13, 24, 16},
    {"odd strides", 6, 40, 41, 43},
    {"source off by one element", 3, 32, 32, 32, 1, 0},
    {"destination off by one element", 3, 32, 48, 32, 0, 1},
    {"one row repeated", 9, 48, 0, 48},
    {"no rows", 0, 8, 8, 8},
    {"no columns", 4, 0, 8, 8},
};

class CopyRowsTest : public CudaTest, public ::testing::WithParamInterface<std::tuple<DType, DType, bool>> {};

TEST_P(CopyRowsTest, WritesWhatItShouldAndNothingElse) {
  const auto [from, to, accumulate] = GetParam();
  for (const Case& c : kCases) {
    const int64_t source_size = std::max<int64_t>(1, c.rows) * std::max(c.source_stride, c.count) + 1;
    const int64_t destination_size = std::max<int64_t>(1, c.rows) * std::max(c.destination_stride, c.count) + 1;
    const Values source = RandomValues(from, source_size, 1);
    Values expected = RandomValues(to, destination_size, 2);
    DeviceValues on_device(from, source, c.source_offset), result(to, expected, c.destination_offset);
    CopyRows({.source = on_device.ref(),
              .source_stride = c.source_stride,
              .destination = result.ref(),
              .destination_stride = c.destination_stride,
              .accumulate = accumulate,
              .rows = c.rows,
              .count = c.count},
             TestContext());
    for (int64_t n = 0; n < c.rows; ++n) {
      for (int64_t i = 0; i < c.count; ++i) {
        double& value = expected[static_cast<size_t>(n * c.destination_stride + i)];
        const double added = source[static_cast<size_t>(n * c.source_stride + i)];
        // The sum of two floats in double, rounded to float, is the float sum.
        value = RoundTo(to, accumulate ? static_cast<float>(value + added) : added);
      }
    }
    EXPECT_EQ(result.Download(), expected) << c.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CopyRowsTest,
                         ::testing::Combine(::testing::Values(DType::kF32, DType::kBF16),
                                            ::testing::Values(DType::kF32, DType::kBF16), ::testing::Bool()),
                         [](const auto& info) {
                           return std::string(Name(std::get<0>(info.param))) + "_to_" +
                                  std::string(Name(std::get<1>(info.param))) +
                                  (std::get<2>(info.param) ? "_added" : "");
                         });

}  // namespace
}  // namespace shardit::cuda
