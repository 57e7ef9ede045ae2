#include "core/ops/activation.cuh"
#include "core/ops/relu.h"

namespace shardit::cuda {
namespace {

struct ReluOf {
  static __device__ __forceinline__ float Value(float x) { return x < 0 ? 0.0f : x; }  // false for a NaN
  static __device__ __forceinline__ float Gradient(float y, float dy) { return y > 0 ? dy : 0.0f; }
};

}  // namespace

void ReluFwd(const ReluFwdArgs& args, CudaContext& context) {
  ActivationFwd<ReluOf>(args.x, args.y, args.count, context.stream);
}

void ReluBwd(const ReluBwdArgs& args, CudaContext& context) {
  ActivationBwd<ReluOf>(args.y, args.dy, args.dx, args.accumulate, args.count, context.stream);
}

}  // namespace shardit::cuda
