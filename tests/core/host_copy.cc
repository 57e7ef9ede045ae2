#include "tests/core/host_copy.h"

#include "core/base/check.h"

namespace shardit {

Floats ReadFloats(const Tensor& tensor) {
  Floats values(static_cast<size_t>(tensor.elements()));
  if (tensor.dtype() == DType::kF32) {
    tensor.ToHost(values.data());
    return values;
  }
  CHECK(tensor.dtype() == DType::kBF16) << Name(tensor.dtype());
  std::vector<BFloat16> narrow(values.size());
  tensor.ToHost(narrow.data());
  for (size_t i = 0; i < values.size(); ++i) values[i] = narrow[i].ToFloat();
  return values;
}

void WriteFloats(const Tensor& tensor, const Floats& values) {
  CHECK_EQ(static_cast<int64_t>(values.size()), tensor.elements());
  if (tensor.dtype() == DType::kF32) return tensor.FromHost(values.data());
  CHECK(tensor.dtype() == DType::kBF16) << Name(tensor.dtype());
  std::vector<BFloat16> narrow;
  for (const float value : values) narrow.push_back(BFloat16::FromFloat(value));
  tensor.FromHost(narrow.data());
}

Tensor Placed(Allocator& allocator, const Tensor& host) {
  Tensor tensor = Tensor::Empty(allocator, host.shape(), host.dtype());
  tensor.FromHost(host.raw());
  return tensor;
}

}  // namespace shardit
