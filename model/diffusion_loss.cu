#include "core/base/exact_digits.h"
#include "core/base/math.h"
#include "core/cuda/launch.cuh"
#include "model/diffusion_loss.h"

namespace shardit::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kVector = 4;  // elements of a thread
constexpr int64_t kChunk = kThreads * kVector;
constexpr double kLn2 = 0.69314718055994530942;
constexpr unsigned kAllLanes = 0xffffffffu;

struct Sums {
  double mse = 0;
  double vb = 0;
};

// A term of the loss and its derivative. Formulas and their order are those of diffusion_loss.cc, where the reasons
// are.
struct Term {
  double value;
  double derivative;
};

__device__ __forceinline__ double Clamp(double x, double low, double high) { return fmin(fmax(x, low), high); }

__device__ __forceinline__ Term Kl(const LossConstants& image, double z, double difference) {
  const double e_minus_1 = expm1(fmin(-z, 700.0));
  const double inverse = (e_minus_1 + 1.0) * image.inverse_variance;
  const double distance = difference * difference * inverse;
  return {0.5 * (z + e_minus_1 + distance), -(0.5 * (e_minus_1 + distance))};
}

struct BinEdge {
  double argument;
  double slope;
};
__device__ __forceinline__ BinEdge EdgeAt(double x) {
  constexpr double kSlope = 0.79788456080286535588;  // sqrt(2/pi)
  const double x2 = x * x;
  const double u = x * kSlope * fma(x2, 0.044715, 1.0);
  const double slope = x * kSlope * fma(x2, 3 * 0.044715, 1.0);
  return {Clamp(u + u, -700.0, 700.0), slope};
}

// Not inlined: one image in a thousand is at the first step, and the registers are the others'.
__device__ __noinline__ Term Nll(double x_0, double centered, double log_variance) {
  constexpr double kHalfBin = 1.0 / 255.0, kOpen = 0.999, kFloor = 1e-12;
  constexpr double kTwiceSlope = 1.59576912160573071176;  // 2 sqrt(2/pi)
  const double inverse_sigma = exp(Clamp(-0.5 * log_variance, -300.0, 300.0));
  const double middle = inverse_sigma * centered, h = inverse_sigma * kHalfBin;
  const BinEdge a = EdgeAt(middle + h), b = EdgeAt(middle - h);
  const double square = fma(3.0 * middle, middle, h * h);
  const double width = (h + h) * kTwiceSlope * fma(square, 0.044715, 1.0);
  const double gap = -expm1(-width);

  const double exp_a = exp(-a.argument), exp_b = exp(b.argument);
  const double below_a = 1.0 / (1.0 + exp_a), above_a = exp_a * below_a;
  const double above_b = 1.0 / (1.0 + exp_b), below_b = exp_b * above_b;

  double probability, derivative;
  if (x_0 < -kOpen) {
    probability = below_a;
    derivative = -(above_a * a.slope);
  } else if (x_0 > kOpen) {
    probability = above_b;
    derivative = below_b * b.slope;
  } else {
    probability = below_a * above_b * gap;
    derivative = below_b * b.slope / (below_a * gap) - above_a * a.slope / (above_b * gap);
  }
  return {-log(fmax(probability, kFloor)), probability < kFloor ? 0.0 : -derivative};
}

// One element: its terms, and its gradients in place of the prediction and the variance value.
template <bool kLearnSigma>
__device__ __forceinline__ Sums RunElement(const LossConstants& image, double d_mse, double d_vb, double x_0,
                                           double noise, float& prediction, float& value) {
  const double predicted = prediction;
  const double error = predicted - fma(image.target.noise, noise, image.target.x_0 * x_0);
  prediction = static_cast<float>(error * d_mse);
  Sums sums{error * error, 0};
  if constexpr (kLearnSigma) {
    const double x_t = fma(image.sqrt_one_minus_alpha_bar, noise, image.sqrt_alpha_bar * x_0);
    const double predicted_x_0 = fma(image.predicted_x0.output, predicted, image.predicted_x0.x_t * x_t);
    const double v = value, z = fma(0.5, v, 0.5) * image.log_range;
    Term term;
    if (image.first_step != 0) {
      const double mean = fma(image.posterior_x0, predicted_x_0, image.posterior_xt * x_t);
      term = Nll(x_0, x_0 - mean, z + image.log_variance);
    } else {
      term = Kl(image, z, image.posterior_x0 * (x_0 - predicted_x_0));
    }
    // fmin and fmax lose NaN.
    const double both = predicted + v;
    const bool is_nan = both != both;
    sums.vb = is_nan ? both : term.value;
    value = static_cast<float>(is_nan ? both : term.derivative * d_vb);
  }
  return sums;
}

// Up to four elements, as one access where they lie aligned and whole.
__device__ __forceinline__ void LoadSome(const float* from, int64_t count, bool whole, float (&some)[kVector]) {
  if (whole) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    some[0] = four.x, some[1] = four.y, some[2] = four.z, some[3] = four.w;
    return;
  }
  for (int k = 0; k < kVector; ++k) some[k] = k < count ? from[k] : 0.0f;
}
__device__ __forceinline__ void StoreSome(const float (&some)[kVector], int64_t count, bool whole, float* to) {
  if (whole) {
    *reinterpret_cast<float4*>(to) = float4{some[0], some[1], some[2], some[3]};
    return;
  }
  for (int k = 0; k < kVector && k < count; ++k) to[k] = some[k];
}

// Over the thread block, always in the same order; thread 0 gets the sum.
__device__ __forceinline__ Sums AddThreads(Sums sums) {
  __shared__ double mse[kThreads / kWarp], vb[kThreads / kWarp];
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    sums.mse += __shfl_xor_sync(kAllLanes, sums.mse, distance);
    sums.vb += __shfl_xor_sync(kAllLanes, sums.vb, distance);
  }
  if (threadIdx.x % kWarp == 0) {
    mse[threadIdx.x / kWarp] = sums.mse;
    vb[threadIdx.x / kWarp] = sums.vb;
  }
  __syncthreads();
  if (threadIdx.x != 0) return {};
  Sums total;
  for (int warp = 0; warp < kThreads / kWarp; ++warp) {
    total.mse += mse[warp];
    total.vb += vb[warp];
  }
  return total;
}

// One thread block a chunk of an image: few images must keep a whole device busy.
template <bool kLearnSigma>
__global__ void __launch_bounds__(kThreads)
    LossKernel(const DeviceLossArgs args, int64_t chunks, bool aligned, Sums* partials) {
  const int64_t n = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
  const LossConstants image = args.constants[n];
  const double elements = static_cast<double>(args.elements), scale = args.grad_scale / args.denominator;
  const double d_mse = 2.0 * scale / elements, d_vb = 0.5 * image.log_range * scale / (elements * kLn2);
  const int64_t first = chunk * kChunk + kVector * static_cast<int64_t>(threadIdx.x), count = args.elements - first;
  Sums sums;
  if (count > 0) {
    const int64_t in = n * args.elements + first, out = n * args.elements * (kLearnSigma ? 2 : 1) + first;
    const bool whole = aligned && count >= kVector;
    float x_0[kVector], noise[kVector], prediction[kVector], value[kVector] = {};
    LoadSome(args.x_0 + in, count, whole, x_0);
    LoadSome(args.noise + in, count, whole, noise);
    LoadSome(args.output + out, count, whole, prediction);
    if constexpr (kLearnSigma) LoadSome(args.output + out + args.elements, count, whole, value);
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
      if (k >= count) continue;
      const Sums one = RunElement<kLearnSigma>(image, d_mse, d_vb, x_0[k], noise[k], prediction[k], value[k]);
      sums.mse += one.mse;
      sums.vb += one.vb;
    }
    if (args.d_output != nullptr) {
      StoreSome(prediction, count, whole, args.d_output + out);
      if constexpr (kLearnSigma) StoreSome(value, count, whole, args.d_output + out + args.elements);
    }
  }
  sums = AddThreads(sums);
  if (threadIdx.x == 0) partials[blockIdx.x] = sums;
}

__global__ void __launch_bounds__(kThreads)
    FinishKernel(const DeviceLossArgs args, int64_t chunks, const Sums* partials) {
  const int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (n >= args.images) return;
  Sums sums;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    sums.mse += partials[n * chunks + chunk].mse;
    sums.vb += partials[n * chunks + chunk].vb;
  }
  const double elements = static_cast<double>(args.elements);
  args.per_image[n] = {sums.mse / elements, sums.vb / (elements * kLn2)};
}

// Few threads add, each to digits of its own, so that nothing is atomic before the end.
constexpr int kAdders = 16;
constexpr int64_t kImagesOfAdder = 4;
constexpr int kAddThreads = 128;
constexpr int kTotals = 3;
constexpr int kTotalLimbs = kTotals * exact::kLimbs;

__device__ __forceinline__ void AddTo(int64_t* limbs, double value) {
  const exact::Term term = exact::TermOf(value);
  for (int k = 0; k < 3; ++k) {
    if (term.part[k] != 0) limbs[term.limb + k] += term.part[k];
  }
}

__global__ void __launch_bounds__(kAddThreads) AddImagesKernel(const ImageLoss* images, int64_t count, int64_t* limbs) {
  __shared__ int64_t digits[kAdders * kTotalLimbs];
  for (int i = threadIdx.x; i < kAdders * kTotalLimbs; i += kAddThreads) digits[i] = 0;
  __syncthreads();
  if (threadIdx.x < kAdders) {
    int64_t* const own = digits + threadIdx.x * kTotalLimbs;
    const int64_t first = (int64_t{blockIdx.x} * kAdders + threadIdx.x) * kImagesOfAdder;
    for (int64_t n = first; n < first + kImagesOfAdder && n < count; ++n) {
      const double mse = images[n].mse, vb = images[n].vb;
      AddTo(own, mse + vb);
      AddTo(own + exact::kLimbs, mse);
      AddTo(own + 2 * exact::kLimbs, vb);
    }
  }
  __syncthreads();
  for (int limb = threadIdx.x; limb < kTotalLimbs; limb += kAddThreads) {
    int64_t sum = 0;
    for (int adder = 0; adder < kAdders; ++adder) sum += digits[adder * kTotalLimbs + limb];
    // Integers: the order in which thread blocks arrive does not show.
    if (sum != 0) atomicAdd(reinterpret_cast<unsigned long long*>(limbs + limb), static_cast<unsigned long long>(sum));
  }
}

bool IsAligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % (kVector * sizeof(float)) == 0; }

}  // namespace

void DiffusionLoss(const DeviceLossArgs& args, CudaContext& context) {
  CHECK_GT(args.elements, 0) << "[diffusion_loss] elements";
  CHECK_GT(args.denominator, 0) << "[diffusion_loss] denominator";
  const int64_t chunks = CeilDiv(args.elements, kChunk), blocks = args.images * chunks;
  auto* partials = static_cast<Sums*>(context.scratch->Get(blocks * static_cast<int64_t>(sizeof(Sums))));
  const bool aligned = args.elements % kVector == 0 && IsAligned(args.x_0) && IsAligned(args.noise) &&
                       IsAligned(args.output) && IsAligned(args.d_output);
  Launch(args.learn_sigma ? LossKernel<true> : LossKernel<false>, static_cast<unsigned>(blocks), kThreads, 0,
         context.stream, args, chunks, aligned, partials);
  Launch(FinishKernel, static_cast<unsigned>(CeilDiv(args.images, kThreads)), kThreads, 0, context.stream, args, chunks,
         partials);
}

void AddImageLosses(const ImageLoss* images, int64_t count, int64_t* limbs, CudaContext& context) {
  const int64_t blocks = CeilDiv(count, kAdders * kImagesOfAdder);
  Launch(AddImagesKernel, static_cast<unsigned>(blocks), kAddThreads, 0, context.stream, images, count, limbs);
}

}  // namespace shardit::cuda
