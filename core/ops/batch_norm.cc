#include "core/ops/batch_norm.h"

#include <utility>

#include "core/cuda/nvtx.h"

namespace shardit {
namespace {

// The elements of a statistic, [channels]; null where it is undefined.
const float* PerChannel(const Tensor& tensor, const char* name, int64_t channels) {
  if (!tensor.defined()) return nullptr;
  CHECK(tensor.shape() == Shape({channels}) && tensor.is_dense() && tensor.dtype() == DType::kF32)
      << "[batch_norm] " << name << " " << tensor.shape() << " " << Name(tensor.dtype()) << ", expected "
      << Name(DType::kF32) << " [" << channels << "]";
  return tensor.data();
}

}  // namespace

Var BatchNormInference(Tape& tape, const Var& x_NHWC, const BatchNormStatistics& statistics, bool relu) {
  const NvtxRange range("batch_norm");
  const Tensor& x = x_NHWC.value();
  CHECK(x.ndim() >= 1 && x.elements() > 0 && x.is_dense())
      << "[batch_norm] x " << x.shape() << " with strides " << x.strides();
  CHECK(!tape.Records({&x_NHWC})) << "[batch_norm] has no backward: an x of shape " << x.shape() << " wants a gradient";
  CHECK(statistics.mean.defined() && statistics.variance.defined()) << "[batch_norm] mean and variance are needed";
  const int64_t channels = x.dim(-1);
  Tensor y = Tensor::Empty(tape.allocator(), x.shape(), x.dtype());
  BatchNorm({.x = x.ref(),
             .y = y.ref(),
             .mean = PerChannel(statistics.mean, "mean", channels),
             .variance = PerChannel(statistics.variance, "variance", channels),
             .gamma = PerChannel(statistics.gamma, "gamma", channels),
             .beta = PerChannel(statistics.beta, "beta", channels),
             .epsilon = statistics.epsilon,
             .relu = relu,
             .rows = x.elements() / channels,
             .channels = channels},
            tape.context());
  return Var(std::move(y));
}

}  // namespace shardit
