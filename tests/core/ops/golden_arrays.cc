#include "tests/core/ops/golden_arrays.h"

#include <span>

#include "data/formats/npz.h"
#include "gtest/gtest.h"

namespace shardit {

GoldenArray ReadGolden(const std::string& name) {
  const auto reader = NpzReader::Open(SHARDIT_SOURCE_DIR "/tests/golden/image_ops.npz");
  EXPECT_TRUE(reader.ok()) << reader.status();
  if (!reader.ok()) return {};
  auto array = reader->Array(name);
  EXPECT_TRUE(array.ok()) << array.status();
  if (!array.ok()) return {};
  std::vector<double> values(static_cast<size_t>(array->header().elements()));
  const absl::Status read = array->ReadAsDouble(0, array->header().elements(), values.data());
  EXPECT_TRUE(read.ok()) << read;
  return {Shape(std::span<const int64_t>(array->shape())), {values.begin(), values.end()}};
}

std::vector<int32_t> ReadGoldenIntegers(const std::string& name) {
  const GoldenArray array = ReadGolden(name);
  return {array.values.begin(), array.values.end()};
}

}  // namespace shardit
