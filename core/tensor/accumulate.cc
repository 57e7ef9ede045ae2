#include "core/tensor/accumulate.h"

#include <algorithm>

#include "core/tensor/copy_rows.h"

namespace shardit {
namespace {

// Stride between consecutive runs of the last dim when all outer dims collapse into one; such are dense tensors and
// slices of the last dim.
int64_t RowStride(const Tensor& tensor) {
  if (tensor.is_dense()) return tensor.dim(-1);
  CHECK(tensor.ndim() == 2 && tensor.stride(-1) == 1)
      << "[accumulate] " << tensor.shape() << " with strides " << tensor.strides();
  return tensor.stride(0);
}

}  // namespace

void Accumulate(RankContext& context, const Tensor& destination, const Tensor& source) {
  CHECK(destination.shape() == source.shape()) << "[accumulate] " << source.shape() << " into " << destination.shape();
  if (destination.elements() == 0) return;
  if (CostRecorder* plan = destination.plan()) {
    return plan->Add({"accumulate", 0, 3.0 * static_cast<double>(destination.bytes())});
  }
  int64_t columns = destination.ndim() == 0 ? 1 : destination.dim(-1);
  int64_t rows = destination.elements() / columns;
  const bool dense = destination.is_dense() && source.is_dense();
  if (dense) {
    columns = destination.elements();
    rows = 1;
  }
  const int64_t destination_stride = dense ? columns : RowStride(destination);
  const int64_t source_stride = dense ? columns : RowStride(source);
  if (context.on_cuda()) {
    return cuda::CopyRows({.source = source.ref(),
                           .source_stride = source_stride,
                           .destination = destination.ref(),
                           .destination_stride = destination_stride,
                           .accumulate = true,
                           .rows = rows,
                           .count = columns},
                          context.cuda());
  }
  float* to = destination.data<float>();
  const float* from = source.data<float>();
  constexpr int64_t kGrain = 16384;  // elements: below it, waking a thread costs more than it saves
  const int64_t items = dense ? columns : rows, grain = dense ? kGrain : std::max<int64_t>(1, kGrain / columns);
  context.pool().ParallelFor(items, grain, [&](int64_t begin, int64_t end, int) {
    if (dense) {
      for (int64_t i = begin; i < end; ++i) to[i] += from[i];
      return;
    }
    for (int64_t row = begin; row < end; ++row) {
      float* to_row = to + row * destination_stride;
      const float* from_row = from + row * source_stride;
      for (int64_t i = 0; i < columns; ++i) to_row[i] += from_row[i];
    }
  });
}

}  // namespace shardit
