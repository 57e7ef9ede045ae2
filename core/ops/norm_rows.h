// Tensors as the norm kernels see them: what layer_norm.cc and gated_residual.cc share.
#pragma once

#include "core/autograd/node.h"
#include "core/ops/norm_kernel.h"

namespace shardit {

inline NormShape NormShapeOf(const Tensor& x_NTD) { return {x_NTD.dim(0), x_NTD.dim(1), x_NTD.dim(2)}; }

// [N, D] with contiguous rows, or [D]: one row for all images.
inline ImageRows RowsOf(const Tensor& tensor) { return {tensor.ref(), tensor.ndim() == 1 ? 0 : tensor.stride(0)}; }
inline ImageRowsGrad RowsOf(const GradDestination& grad) {
  return {grad.tensor.ref(), grad.tensor.ndim() == 1 ? 0 : grad.tensor.stride(0), grad.accumulate};
}

// CHECKs that x is a dense [N, T, D].
inline void CheckTokens(const char* op, const Tensor& x) {
  CHECK(x.ndim() == 3 && x.is_dense()) << "[" << op << "] tokens " << x.shape() << " with strides " << x.strides();
}

// CHECKs that `rows` is [N, D] for x [N, T, D], last dim contiguous.
inline void CheckImageRows(const char* op, const char* what, const Tensor& x, const Tensor& rows) {
  CHECK(rows.shape() == Shape({x.dim(0), x.dim(2)}) && (rows.stride(1) == 1 || rows.dim(1) == 1))
      << "[" << op << "] x " << x.shape() << ", " << what << " " << rows.shape() << " with strides " << rows.strides();
}

}  // namespace shardit
