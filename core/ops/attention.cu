#include <limits>
#include <utility>

#include "core/ops/attention_paths.cuh"

namespace shardit::cuda {
namespace attention {

int64_t SharedLimit(const CudaContext& context) {
  int bytes = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, context.stream.device.index));
  return bytes;
}

namespace {

void CheckShape(const AttentionShape& shape) {
  CHECK(shape.batch >= 0 && shape.heads >= 1 && shape.head_dim >= 1 && shape.queries >= 1 && shape.keys >= 1)
      << "[Attention] batch " << shape.batch << " heads " << shape.heads << " head_dim " << shape.head_dim
      << " queries " << shape.queries << " keys " << shape.keys;
  CHECK_GT(shape.scale, 0.0f) << "[Attention] the row's largest score is found before scaling";
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  CHECK(shape.queries < kMost / 2 && shape.keys < kMost / 2) << "[Attention] rows are counted in 32 bits";
}

void CheckTypes(std::initializer_list<ConstHeadsView> views) {
  for (const ConstHeadsView& view : views) {
    const DType dtype = view.data.dtype(), expected = views.begin()->data.dtype();
    CHECK(dtype == expected && (dtype == DType::kF32 || dtype == DType::kBF16))
        << "[Attention] operands of " << Name(dtype) << " and " << Name(expected);
  }
}

// Whether all rows of all heads can be moved 16 bytes at a time.
bool Aligned(std::initializer_list<ConstHeadsView> views) {
  for (const ConstHeadsView& view : views) {
    const int64_t bytes = SizeOf(view.data.dtype());
    const int64_t offsets = reinterpret_cast<intptr_t>(view.data.raw()) | (view.batch_stride * bytes) |
                            (view.row_stride * bytes) | (view.head_stride * bytes);
    if (offsets % 16 != 0) return false;
  }
  return true;
}

}  // namespace
}  // namespace attention

void AttentionFwd(const AttentionFwdArgs& args, CudaContext& context) {
  const std::initializer_list<ConstHeadsView> views = {args.q, args.k, args.v, args.out};
  attention::CheckShape(args.shape);
  attention::CheckTypes(views);
  if (args.shape.batch == 0) return;
  const bool tensor = args.q.data.dtype() == DType::kBF16 && attention::Aligned(views);
  if (tensor && attention::TensorFwd(args, context)) return;
  attention::AnyFwd(args, context);
}

void AttentionBwd(const AttentionBwdArgs& args, CudaContext& context) {
  const std::initializer_list<ConstHeadsView> views = {args.q,     args.k,  args.v,  args.out,
                                                       args.d_out, args.dq, args.dk, args.dv};
  attention::CheckShape(args.shape);
  attention::CheckTypes(views);
  CHECK(args.lse != nullptr) << "[Attention] backward needs the log-sum-exp of forward";
  if (args.shape.batch == 0) return;
  const bool tensor = args.q.data.dtype() == DType::kBF16 && attention::Aligned(views);
  if (tensor && attention::TensorBwd(args, context)) return;
  attention::AnyBwd(args, context);
}

}  // namespace shardit::cuda
