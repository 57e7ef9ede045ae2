// Tensors' elements on the host, as floats, wherever and in whichever type the tensor is: for tests. Both ways wait for
// the device.
#pragma once

#include <vector>

#include "core/tensor/tensor.h"

namespace shardit {

using Floats = std::vector<float>;

// A dense fp32 or bf16 tensor, in row-major order.
Floats ReadFloats(const Tensor& tensor);
// Overwrites it; values are rounded to its type.
void WriteFloats(const Tensor& tensor, const Floats& values);
// A copy of a host tensor of any type.
Tensor Placed(Allocator& allocator, const Tensor& host);

}  // namespace shardit
