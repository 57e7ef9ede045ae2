// Stands in for parallel/tensor/*.cu in a build without CUDA.
#include "core/cuda/unavailable.h"
#include "parallel/tensor/column_sums.h"

namespace shardit::cuda {

void ColumnSums(const ColumnSumsArgs& args, CudaContext& context) { Unavailable(); }

}  // namespace shardit::cuda
