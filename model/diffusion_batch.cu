#include "core/base/math.h"
#include "core/cuda/launch.cuh"
#include "model/diffusion_batch.h"
#include "model/diffusion_draws.h"

namespace shardit::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 4;  // elements of a thread: those of one Philox block
constexpr int64_t kChunk = kThreads * kVector;
constexpr int kConstantWords = sizeof(LossConstants) / sizeof(double);

// x_t of Diffusion::AddNoise: fp64, two products and a sum, rounded once.
__device__ __forceinline__ float Noised(const LossConstants& step, float x_0, float noise) {
  return static_cast<float>(step.sqrt_alpha_bar * x_0 + step.sqrt_one_minus_alpha_bar * noise);
}

// What an image has once: by the first threads of its first block.
__device__ __forceinline__ void WriteImage(const NoiseArgs& args, int64_t n, int64_t position, int64_t t) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kConstantWords) {
    reinterpret_cast<double*>(args.constants + n)[thread] = reinterpret_cast<const double*>(args.table + t)[thread];
  }
  if (thread != 0) return;
  args.t[n] = t;
  args.y[n] = LabelDroppedAt(args.seed, position, args.label_dropout) ? args.null_class : args.labels[n];
}

__global__ void __launch_bounds__(kThreads) NoiseKernel(const NoiseArgs args, int64_t chunks, bool aligned) {
  const int64_t n = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
  const int64_t position = args.positions[n], t = TimestepAt(args.seed, position, args.steps);
  if (chunk == 0) WriteImage(args, n, position, t);
  const int64_t first = chunk * kChunk + kVector * static_cast<int64_t>(threadIdx.x);
  if (first >= args.elements) return;
  const LossConstants& step = args.table[t];
  const PhiloxBlock words = NoiseKey(args.seed, position).Block(static_cast<uint64_t>(first / kVector));
  float noise[kVector];
  for (int k = 0; k < kVector; ++k) noise[k] = NormalFromWord(words.word[k]);
  const int64_t at = n * args.elements + first;
  if (aligned) {
    const float4 x_0 = *reinterpret_cast<const float4*>(args.x_0 + at);
    *reinterpret_cast<float4*>(args.noise + at) = float4{noise[0], noise[1], noise[2], noise[3]};
    *reinterpret_cast<float4*>(args.x_t + at) = float4{Noised(step, x_0.x, noise[0]), Noised(step, x_0.y, noise[1]),
                                                       Noised(step, x_0.z, noise[2]), Noised(step, x_0.w, noise[3])};
    return;
  }
  for (int k = 0; k < kVector && first + k < args.elements; ++k) {
    args.noise[at + k] = noise[k];
    args.x_t[at + k] = Noised(step, args.x_0[at + k], noise[k]);
  }
}

bool IsAligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % (kVector * sizeof(float)) == 0; }

}  // namespace

void DrawNoise(const NoiseArgs& args, CudaContext& context) {
  const int64_t chunks = CeilDiv(args.elements, kChunk);
  const bool aligned =
      args.elements % kVector == 0 && IsAligned(args.x_0) && IsAligned(args.noise) && IsAligned(args.x_t);
  Launch(NoiseKernel, static_cast<unsigned>(args.images * chunks), kThreads, 0, context.stream, args, chunks, aligned);
}

}  // namespace shardit::cuda
