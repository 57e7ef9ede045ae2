// Backward. A block owns a run of tokens of one image; a thread owns the columns of one pack and walks the run's tokens
// kRows at a time, so that the sums over tokens stay in its registers and every tensor is read and written once. Where
// an image has several runs, or all images share one row, a second kernel adds up the runs (norm_kernel_sums.cu).
#include <algorithm>
#include <vector>

#include "core/ops/norm_kernel.cuh"

namespace shardit::cuda {
namespace {

template <class T>
struct BwdArgs {
  const T* dh;     // with a norm
  const T* dr_in;  // null: none
  const T* r;
  const T* y;  // with a gradient of the gate
  T* dx;       // null: it is dr_in already
  T* dy;       // null: not wanted
  const float* mean;
  const float* rstd;
  DeviceRows scale;
  float scale_offset;
  DeviceRows gate;  // null data: 1
  // A row a run.
  DeviceRowsGrad dscale;
  DeviceRowsGrad dshift;
  DeviceRowsGrad dgate;
  int64_t tokens;
  int64_t runs;  // of an image
  int width;
};

// The tokens of the block's run: rows [begin, end) of the token tensors, all of `image`.
struct Run {
  int64_t image;
  int64_t begin;
  int64_t end;
};

template <class T>
__device__ __forceinline__ Run RunOf(const BwdArgs<T>& args) {
  const int64_t image = blockIdx.x / args.runs, run = blockIdx.x - image * args.runs;
  const int64_t first = image * args.tokens;
  return {image, first + run * args.tokens / args.runs, first + (run + 1) * args.tokens / args.runs};
}

// A thread's part of kRows token rows.
template <class T, int kRows>
struct RowPacks {
  static constexpr int kSize = kPackSize<T>;
  Pack<T, kSize> pack[kRows];

  // Of `rows` rows; zeros for the others.
  __device__ __forceinline__ void Load(const T* from, int64_t width, int rows) {
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      pack[k] = {};
      if (k < rows) pack[k] = LoadPack<kSize>(from + k * width);
    }
  }
  __device__ __forceinline__ void ForgetValues() {
#pragma unroll
    for (int k = 0; k < kRows; ++k) Forget(pack[k]);
  }
};

// What a thread holds of its columns: the image's rows, the sums over tokens, and kRows tokens at a time.
template <class T, int kRows, bool kNorm, bool kGateGrad>
struct Columns {
  static constexpr int kSize = kPackSize<T>;
  float factor[kSize], gate[kSize];
  float dscale[kSize], dshift[kSize], dgate[kSize];
  RowPacks<T, kRows> dh, r, dr_in, y;
  float mean[kRows], rstd[kRows];

  __device__ __forceinline__ void Start(const BwdArgs<T>& args, int64_t image, int column, bool active) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      factor[i] = dscale[i] = dshift[i] = dgate[i] = 0;
      gate[i] = 1;
    }
    if (kNorm && active) args.scale.Load(image, column, factor);
    if (args.gate.data != nullptr && active) args.gate.Load(image, column, gate);
#pragma unroll
    for (int i = 0; i < kSize; ++i) factor[i] += args.scale_offset;
  }

  // Without branches between them, so that all loads are under way together.
  __device__ __forceinline__ void Load(const BwdArgs<T>& args, int64_t row, int column, int rows) {
    const int64_t at = row * args.width + column;
    if constexpr (kNorm) {
      dh.Load(args.dh + at, args.width, rows);
      r.Load(args.r + at, args.width, rows);
    }
    dr_in.Load(args.dr_in + at, args.width, args.dr_in == nullptr ? 0 : rows);
    if constexpr (kGateGrad) y.Load(args.y + at, args.width, rows);
    if constexpr (kNorm) {
#pragma unroll
      for (int k = 0; k < kRows; ++k) {
        mean[k] = k < rows ? args.mean[row + k] : 0.0f;
        rstd[k] = k < rows ? args.rstd[row + k] : 0.0f;
      }
    }
  }

  __device__ __forceinline__ float Xhat(int k, int i) const { return (r.pack[k][i] - mean[k]) * rstd[k]; }

  // The thread's part of the sums over g and g xhat of every row.
  __device__ __forceinline__ void SumTerms(float (&terms)[2 * kRows]) const {
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      terms[2 * k] = terms[2 * k + 1] = 0;
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        const float g = dh.pack[k][i] * factor[i];
        terms[2 * k] += g;
        terms[2 * k + 1] = __fmaf_rn(g, Xhat(k, i), terms[2 * k + 1]);
      }
    }
  }

  // Row k: dr = dr_in + rstd g - mean_term - slope xhat, what follows from it, and its part of the sums over tokens.
  __device__ __forceinline__ void Finish(const BwdArgs<T>& args, int k, int64_t at, float mean_term, float slope) {
    float dr[kSize], dy[kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      dr[i] = 0;
      if constexpr (kNorm) {
        const float d = dh.pack[k][i], xhat = Xhat(k, i);
        dscale[i] = __fmaf_rn(d, xhat, dscale[i]);
        dshift[i] += d;
        dr[i] = __fmaf_rn(-xhat, slope, __fmaf_rn(d * factor[i], rstd[k], -mean_term));
      }
      // Not fused: the same bits as adding a finished gradient, so that recomputation changes nothing.
      if (args.dr_in != nullptr) dr[i] += dr_in.pack[k][i];
      if constexpr (kGateGrad) dgate[i] = __fmaf_rn(dr[i], y.pack[k][i], dgate[i]);
      dy[i] = gate[i] * dr[i];
    }
    if (args.dx != nullptr) StorePack(args.dx + at, dr);
    if (args.dy != nullptr) StorePack(args.dy + at, dy);
  }
};

template <class T, int kRows, int kMaxThreads, int kMinBlocks, bool kNorm, bool kGateGrad>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks) BwdKernel(BwdArgs<T> args) {
  __shared__ float shared[2][kMaxThreads / kWarp][2 * kRows];
  const Run run = RunOf(args);
  const int column = static_cast<int>(threadIdx.x) * kPackSize<T>;
  const bool active = column < args.width;
  const float inverse_width = 1.0f / static_cast<float>(args.width);
  Columns<T, kRows, kNorm, kGateGrad> columns;
  columns.Start(args, run.image, column, active);
  int turn = 0;
  for (int64_t row = run.begin; row < run.end; row += kRows, turn ^= 1) {
    const int rows = active ? static_cast<int>(min(run.end - row, int64_t{kRows})) : 0;
    columns.Load(args, row, column, rows);
    float terms[2 * kRows] = {};
    if constexpr (kNorm) {
      columns.SumTerms(terms);
      BlockSum(terms, shared[turn]);
      columns.dh.ForgetValues();
      columns.r.ForgetValues();
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (k >= rows) break;
      const float scaled = kNorm ? columns.rstd[k] * inverse_width : 0.0f;
      columns.Finish(args, k, (row + k) * args.width + column, scaled * terms[2 * k], scaled * terms[2 * k + 1]);
    }
  }
  if (!active) return;
  if (kNorm && args.dscale.data != nullptr) args.dscale.Store(blockIdx.x, column, columns.dscale);
  if (kNorm && args.dshift.data != nullptr) args.dshift.Store(blockIdx.x, column, columns.dshift);
  if (kGateGrad) args.dgate.Store(blockIdx.x, column, columns.dgate);
}

// Adds to a sum that this thread alone writes.
__device__ __forceinline__ void AddTo(const DeviceRowsGrad& sums, int column, float value) {
  if (sums.data != nullptr) static_cast<float*>(sums.data)[blockIdx.x * sums.stride + column] += value;
}

// Any width, alignment and mixture of types: two walks over every row, the sums of the run in memory.
template <class T>
__global__ void __launch_bounds__(kGenericThreads) GenericBwdKernel(const __grid_constant__ BwdArgs<T> args) {
  __shared__ float shared[2][kGenericThreads / kWarp][2];
  const Run run = RunOf(args);
  const bool norm = args.dh != nullptr;
  const float inverse_width = 1.0f / static_cast<float>(args.width);
  const float zero[1] = {0};
  for (int i = threadIdx.x; i < args.width; i += kGenericThreads) {
    for (const DeviceRowsGrad* sums : {&args.dscale, &args.dshift, &args.dgate}) {
      if (sums->data != nullptr) sums->Store(blockIdx.x, i, zero);
    }
  }
  int turn = 0;
  for (int64_t row = run.begin; row < run.end; ++row, turn ^= 1) {
    const int64_t offset = row * args.width;
    const float mean = norm ? args.mean[row] : 0.0f, rstd = norm ? args.rstd[row] : 0.0f;
    const auto factor = [&](int i) { return args.scale.At(run.image, i) + args.scale_offset; };
    const auto xhat = [&](int i) { return (ToFloat(args.r[offset + i]) - mean) * rstd; };
    float terms[2] = {0, 0};
    if (norm) {
      for (int i = threadIdx.x; i < args.width; i += kGenericThreads) {
        const float g = ToFloat(args.dh[offset + i]) * factor(i);
        terms[0] += g;
        terms[1] = __fmaf_rn(g, xhat(i), terms[1]);
      }
      BlockSum(terms, shared[turn]);
    }
    for (int i = threadIdx.x; i < args.width; i += kGenericThreads) {
      float dr = 0;
      if (norm) {
        const float d = ToFloat(args.dh[offset + i]);
        AddTo(args.dscale, i, d * xhat(i));
        AddTo(args.dshift, i, d);
        dr = d * factor(i) * rstd - rstd * inverse_width * (terms[0] + xhat(i) * terms[1]);
      }
      if (args.dr_in != nullptr) dr += ToFloat(args.dr_in[offset + i]);
      if (args.y != nullptr) AddTo(args.dgate, i, dr * ToFloat(args.y[offset + i]));
      const float gate = args.gate.data == nullptr ? 1.0f : args.gate.At(run.image, i);
      if (args.dx != nullptr) args.dx[offset + i] = FromFloat<T>(dr);
      if (args.dy != nullptr) args.dy[offset + i] = FromFloat<T>(gate * dr);
    }
  }
}

// How a shape is cut: threads of a block of the fast kernel (0: the generic one), and runs of tokens of an image.
struct Cut {
  int threads = 0;
  int64_t runs = 1;
};

bool PacksFitEverywhere(const NormBwdArgs& args, int pack) {
  return args.shape.width % pack == 0 && PacksFit(args.dh, pack) && PacksFit(args.dr_in, pack) &&
         PacksFit(args.dx, pack) && PacksFit(args.r, pack) && PacksFit(args.y, pack) && PacksFit(args.dy, pack) &&
         PacksFit(args.scale.data, pack, args.scale.stride) && PacksFit(args.gate.data, pack, args.gate.stride);
}

Cut CutOf(const NormBwdArgs& args, int pack, int multiprocessors) {
  constexpr int kMaxThreads = 512;       // of a block of the fast kernel
  constexpr int kResidentThreads = 480;  // of a multiprocessor, by registers
  constexpr int64_t kMinRun = 4;         // tokens
  constexpr int64_t kGoodRun = 32;       // tokens: longer ones gain little by writing fewer sums
  const auto& [images, tokens, width] = args.shape;
  const int64_t threads = RoundUp(CeilDiv(width, pack), kWarp);
  Cut cut;
  if (threads <= kMaxThreads && PacksFitEverywhere(args, pack)) cut.threads = static_cast<int>(threads);
  // All blocks of a wave run at once; two waves even out differences between multiprocessors.
  const int64_t wave = multiprocessors * CeilDiv(kResidentThreads, cut.threads == 0 ? kGenericThreads : cut.threads);
  const int64_t blocks = std::clamp(images * tokens / kGoodRun, wave, 2 * wave);
  cut.runs = std::clamp<int64_t>(blocks / std::max<int64_t>(1, images), 1, std::max<int64_t>(1, tokens / kMinRun));
  return cut;
}

template <class T, int kRows, int kMaxThreads, int kMinBlocks>
void LaunchBwd(const BwdArgs<T>& args, int64_t blocks, int threads, Stream stream) {
  const bool norm = args.dh != nullptr, gate_grad = args.dgate.data != nullptr;
  const auto kernel = norm ? (gate_grad ? BwdKernel<T, kRows, kMaxThreads, kMinBlocks, true, true>
                                        : BwdKernel<T, kRows, kMaxThreads, kMinBlocks, true, false>)
                           : (gate_grad ? BwdKernel<T, kRows, kMaxThreads, kMinBlocks, false, true>
                                        : BwdKernel<T, kRows, kMaxThreads, kMinBlocks, false, false>);
  Launch(kernel, static_cast<unsigned>(blocks), static_cast<unsigned>(threads), 0, stream, args);
}

// kRows and the blocks of a multiprocessor are such that the registers of a thread suffice.
void LaunchFast(const BwdArgs<float>& args, int64_t blocks, int threads, Stream stream) {
  threads <= 288 ? LaunchBwd<float, 2, 288, 2>(args, blocks, threads, stream)
                 : LaunchBwd<float, 2, 512, 1>(args, blocks, threads, stream);
}

void LaunchFast(const BwdArgs<__nv_bfloat16>& args, int64_t blocks, int threads, Stream stream) {
  threads <= 160 ? LaunchBwd<__nv_bfloat16, 3, 160, 3>(args, blocks, threads, stream)
                 : LaunchBwd<__nv_bfloat16, 2, 512, 1>(args, blocks, threads, stream);
}

// Gives every wanted sum its place: the gradient itself where a run is all there is to a row of it, else scratch.
template <class T>
std::vector<RunSums> PlaceSums(const NormBwdArgs& args, const Cut& cut, CudaContext& context, BwdArgs<T>& device) {
  struct Wanted {
    const ImageRowsGrad& grad;
    DeviceRowsGrad& place;
  };
  std::vector<Wanted> in_scratch;
  const auto place = [&](const ImageRowsGrad& grad, bool wanted, DeviceRowsGrad& to) {
    if (!wanted || grad.data.raw() == nullptr) return;
    const bool one_run = cut.runs == 1 && (grad.stride != 0 || args.shape.images == 1);
    if (one_run && cut.threads != 0 && PacksFit(grad.data, kPackSize<T>, grad.stride)) {
      to = DeviceRowsGrad(grad);
    } else {
      in_scratch.push_back({grad, to});
    }
  };
  place(args.dscale, device.dh != nullptr, device.dscale);
  place(args.dshift, device.dh != nullptr, device.dshift);
  place(args.dgate, true, device.dgate);

  const int64_t elements = RoundUp(args.shape.images * cut.runs * args.shape.width, 4);  // 16-byte aligned
  float* scratch = nullptr;
  if (!in_scratch.empty()) {
    const int64_t count = static_cast<int64_t>(in_scratch.size());
    scratch = static_cast<float*>(context.scratch->Get(count * elements * static_cast<int64_t>(sizeof(float))));
  }
  std::vector<RunSums> sums;
  for (const Wanted& wanted : in_scratch) {
    wanted.place = DeviceRowsGrad(scratch, args.shape.width);
    sums.push_back({scratch, DeviceRowsGrad(wanted.grad), wanted.grad.stride == 0});
    scratch += elements;
  }
  return sums;
}

}  // namespace

void NormBwd(const NormBwdArgs& args, CudaContext& context) {
  CHECK(args.dgate.data.raw() == nullptr || args.y.raw() != nullptr) << "[norm] the gate's gradient needs y";
  WithType(args.dx.dtype(), [&](auto element) {
    using T = decltype(element);
    const bool norm = args.dh.raw() != nullptr;
    // Without a norm dr is dr_in: nothing to write where it lies in place.
    const bool in_place = !norm && args.dx.raw() == args.dr_in.raw();
    BwdArgs<T> device{.dh = static_cast<const T*>(args.dh.raw()),
                      .dr_in = static_cast<const T*>(args.dr_in.raw()),
                      .r = static_cast<const T*>(args.r.raw()),
                      .y = static_cast<const T*>(args.y.raw()),
                      .dx = in_place ? nullptr : static_cast<T*>(args.dx.raw()),
                      .dy = static_cast<T*>(args.dy.raw()),
                      .mean = args.mean,
                      .rstd = args.rstd,
                      .scale = DeviceRows(args.scale),
                      .scale_offset = args.scale_offset,
                      .gate = DeviceRows(args.gate),
                      .dscale = {},
                      .dshift = {},
                      .dgate = {},
                      .tokens = args.shape.tokens,
                      .runs = 1,
                      .width = static_cast<int>(args.shape.width)};
    if (in_place && device.dy == nullptr && args.dgate.data.raw() == nullptr) return;
    if (args.shape.width == 0) return;
    const Cut cut = CutOf(args, kPackSize<T>, context.multiprocessors);
    device.runs = cut.runs;
    const std::vector<RunSums> sums = PlaceSums(args, cut, context, device);
    const int64_t blocks = args.shape.images * cut.runs;
    if (cut.threads != 0) {
      LaunchFast(device, blocks, cut.threads, context.stream);
    } else {
      Launch(GenericBwdKernel<T>, static_cast<unsigned>(blocks), kGenericThreads, 0, context.stream, device);
    }
    AddUpRuns(sums, args.shape, cut.runs, context.stream);
  });
}

}  // namespace shardit::cuda
