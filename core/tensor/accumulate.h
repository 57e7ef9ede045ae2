// destination += source, element by element, for two fp32 tensors of one shape whose last dim is contiguous.
#pragma once

#include "core/base/thread_pool.h"
#include "core/tensor/tensor.h"

namespace shardit {

void Accumulate(ThreadPool& pool, const Tensor& destination, const Tensor& source);

}  // namespace shardit
