// Forward: one warp a token row, the row in registers, for rows of up to kMaxPacks packs a lane; a block a row and
// several walks over it for everything else.
#include <algorithm>

#include "core/ops/norm_kernel.cuh"

namespace shardit::cuda {
namespace {

constexpr int kThreads = 128;  // of the fast kernel: four rows

template <class T>
struct Tokens {
  const T* x;
  const T* y;  // null: no residual sum
  T* r;
  T* h;  // null: no norm
  float eps;
  float scale_offset;
  float* mean;  // null: not wanted
  float* rstd;
  int64_t rows;
  int64_t tokens;
  int width;
};

// Gate, scale and shift, all of one type. A null gate is 1.
template <class Row>
struct Modulation {
  const Row* gate;
  const Row* scale;
  const Row* shift;
  int64_t gate_stride;
  int64_t scale_stride;
  int64_t shift_stride;
};

// A row in a warp's registers: lane l holds packs l, l + 32, ... of it. Calls body(j, column) for the packs of a lane,
// its j-th one at `column`.
template <class T, int kPacks, class Body>
__device__ __forceinline__ void ForPacksOfRow(int width, const Body& body) {
  constexpr int kSize = kPackSize<T>;
#pragma unroll
  for (int j = 0; j < kPacks; ++j) {
    const int column = (static_cast<int>(threadIdx.x % kWarp) + j * kWarp) * kSize;
    if (column < width) body(j, column);
  }
}

// Loads a lane's part of the row that starts at `from`.
template <class T, int kPacks, class Element>
__device__ __forceinline__ void LoadRow(const Element* from, int width, Pack<Element, kPackSize<T>> (&row)[kPacks]) {
  ForPacksOfRow<T, kPacks>(width, [&](int j, int column) { row[j] = LoadPack<kPackSize<T>>(from + column); });
}

// r = x + gate y, rounded to what is stored: the norm is that of the stored row.
template <class T, class Row, int kPacks>
__device__ __forceinline__ void AddGated(const Tokens<T>& args, const Modulation<Row>& rows, int64_t row,
                                         const Pack<T, kPackSize<T>> (&x)[kPacks], float (&r)[kPacks][kPackSize<T>]) {
  constexpr int kSize = kPackSize<T>;
  Pack<T, kSize> y[kPacks];
  LoadRow<T>(args.y + row * args.width, args.width, y);
  Pack<Row, kSize> gate[kPacks];
  if (rows.gate != nullptr) LoadRow<T>(rows.gate + row / args.tokens * rows.gate_stride, args.width, gate);
  ForPacksOfRow<T, kPacks>(args.width, [&](int j, int column) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) r[j][i] = __fmaf_rn(rows.gate == nullptr ? 1.0f : gate[j][i], y[j][i], x[j][i]);
    const Pack<T, kSize> rounded = Pack<T, kSize>::Of(r[j]);
    StorePack(args.r + row * args.width + column, rounded);
#pragma unroll
    for (int i = 0; i < kSize; ++i) r[j][i] = rounded[i];
  });
}

template <class T, class Row, int kPacks>
__device__ __forceinline__ void Normalize(const Tokens<T>& args, const Modulation<Row>& rows, int64_t row,
                                          float (&r)[kPacks][kPackSize<T>]) {
  constexpr int kSize = kPackSize<T>;
  const int64_t image = row / args.tokens;
  Pack<Row, kSize> scale[kPacks], shift[kPacks];
  LoadRow<T>(rows.scale + image * rows.scale_stride, args.width, scale);
  LoadRow<T>(rows.shift + image * rows.shift_stride, args.width, shift);
  const float width = static_cast<float>(args.width);
  float sum = 0;
  ForPacksOfRow<T, kPacks>(args.width, [&](int j, int) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) sum += r[j][i];
  });
  const float mean = WarpSum(sum) / width;
  float squares = 0;
  ForPacksOfRow<T, kPacks>(args.width, [&](int j, int) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      r[j][i] -= mean;
      squares = __fmaf_rn(r[j][i], r[j][i], squares);
    }
  });
  const float rstd = 1.0f / __fsqrt_rn(WarpSum(squares) / width + args.eps);
  ForPacksOfRow<T, kPacks>(args.width, [&](int j, int column) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      r[j][i] = __fmaf_rn(r[j][i] * rstd, scale[j][i] + args.scale_offset, shift[j][i]);
    }
    StorePack(args.h + row * args.width + column, r[j]);
  });
  if (args.mean != nullptr && threadIdx.x % kWarp == 0) {
    args.mean[row] = mean;
    args.rstd[row] = rstd;
  }
}

template <class T, class Row, int kPacks>
__global__ void __launch_bounds__(kThreads, kPacks* kPackSize<T> <= 40 ? 3 : 2)
    FwdKernel(Tokens<T> args, Modulation<Row> rows) {
  const int64_t row = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
  if (row >= args.rows) return;
  Pack<T, kPackSize<T>> x[kPacks];
  LoadRow<T>(args.x + row * args.width, args.width, x);
  float r[kPacks][kPackSize<T>];
  if (args.y != nullptr) {
    AddGated(args, rows, row, x, r);
  } else {
    ForPacksOfRow<T, kPacks>(args.width, [&](int j, int) {
#pragma unroll
      for (int i = 0; i < kPackSize<T>; ++i) r[j][i] = x[j][i];
    });
  }
  if (args.h != nullptr) Normalize(args, rows, row, r);
}

// Any width, alignment and mixture of types: a block a row; the row is read again for every walk.
template <class T>
__global__ void __launch_bounds__(kGenericThreads)
    GenericFwdKernel(Tokens<T> args, DeviceRows gate, DeviceRows scale, DeviceRows shift) {
  __shared__ float shared[2][kGenericThreads / kWarp][1];
  const int64_t row = blockIdx.x, image = row / args.tokens, offset = row * args.width;
  const T* r = args.x + offset;
  if (args.y != nullptr) {
    for (int i = threadIdx.x; i < args.width; i += kGenericThreads) {
      const float factor = gate.data == nullptr ? 1.0f : gate.At(image, i);
      args.r[offset + i] = FromFloat<T>(__fmaf_rn(factor, ToFloat(args.y[offset + i]), ToFloat(r[i])));
    }
    r = args.r + offset;  // a thread reads back what it wrote itself
  }
  if (args.h == nullptr) return;
  float sum[1] = {0};
  for (int i = threadIdx.x; i < args.width; i += kGenericThreads) sum[0] += ToFloat(r[i]);
  BlockSum(sum, shared[0]);
  const float mean = sum[0] / static_cast<float>(args.width);
  float squares[1] = {0};
  for (int i = threadIdx.x; i < args.width; i += kGenericThreads) {
    const float centred = ToFloat(r[i]) - mean;
    squares[0] = __fmaf_rn(centred, centred, squares[0]);
  }
  BlockSum(squares, shared[1]);
  const float rstd = 1.0f / __fsqrt_rn(squares[0] / static_cast<float>(args.width) + args.eps);
  for (int i = threadIdx.x; i < args.width; i += kGenericThreads) {
    const float factor = scale.At(image, i) + args.scale_offset;
    args.h[offset + i] = FromFloat<T>(__fmaf_rn((ToFloat(r[i]) - mean) * rstd, factor, shift.At(image, i)));
  }
  if (args.mean != nullptr && threadIdx.x == 0) {
    args.mean[row] = mean;
    args.rstd[row] = rstd;
  }
}

template <class T, class Row, int kPacks>
void LaunchFwd(const Tokens<T>& tokens, const NormFwdArgs& args, Stream stream) {
  const Modulation<Row> rows{.gate = static_cast<const Row*>(args.gate.data.raw()),
                             .scale = static_cast<const Row*>(args.scale.data.raw()),
                             .shift = static_cast<const Row*>(args.shift.data.raw()),
                             .gate_stride = args.gate.stride,
                             .scale_stride = args.scale.stride,
                             .shift_stride = args.shift.stride};
  Launch(FwdKernel<T, Row, kPacks>, static_cast<unsigned>(CeilDiv(tokens.rows, kThreads / kWarp)), kThreads, 0, stream,
         tokens, rows);
}

// The narrowest kernel of the list that holds the row; false where there is none.
template <class T, class Row, int... kPacks>
bool LaunchNarrowest(const Tokens<T>& tokens, const NormFwdArgs& args, Stream stream) {
  bool launched = false;
  (void)((tokens.width <= kPacks * kWarp * kPackSize<T> &&
          (LaunchFwd<T, Row, kPacks>(tokens, args, stream), launched = true)) ||
         ...);
  return launched;
}

// Whether the rows that are there can be read as packs, being of type `dtype`.
bool RowsFit(const NormFwdArgs& args, DType dtype, int pack) {
  for (const ImageRows* rows : {&args.gate, &args.scale, &args.shift}) {
    if (rows->data.raw() == nullptr) continue;
    if (rows->data.dtype() != dtype || !PacksFit(rows->data, pack, rows->stride)) return false;
  }
  return true;
}

bool TokensFit(const NormFwdArgs& args, int pack) {
  return args.shape.width % pack == 0 && PacksFit(args.x, pack) && PacksFit(args.y, pack) && PacksFit(args.r, pack) &&
         PacksFit(args.h, pack);
}

// Widths of up to 2048. 384, 768, 1024 and 1152 (S, B, L, XL) leave the fewest lanes idle.
bool LaunchFast(const Tokens<float>& tokens, const NormFwdArgs& args, Stream stream) {
  if (!TokensFit(args, kPackSize<float>) || !RowsFit(args, DType::kF32, kPackSize<float>)) return false;
  return LaunchNarrowest<float, float, 1, 2, 3, 4, 6, 8, 9, 12, 16>(tokens, args, stream);
}

bool LaunchFast(const Tokens<__nv_bfloat16>& tokens, const NormFwdArgs& args, Stream stream) {
  constexpr int kPack = kPackSize<__nv_bfloat16>;
  if (!TokensFit(args, kPack)) return false;
  if (RowsFit(args, DType::kBF16, kPack)) {
    return LaunchNarrowest<__nv_bfloat16, __nv_bfloat16, 1, 2, 3, 4, 5, 6, 8>(tokens, args, stream);
  }
  if (RowsFit(args, DType::kF32, kPack)) {
    return LaunchNarrowest<__nv_bfloat16, float, 1, 2, 3, 4, 5, 6, 8>(tokens, args, stream);
  }
  return false;
}

}  // namespace

void NormFwd(const NormFwdArgs& args, CudaContext& context) {
  CHECK(args.y.raw() == nullptr || args.r.raw() != nullptr) << "[norm] a residual sum has nowhere to go";
  CHECK(args.h.raw() == nullptr || (args.scale.data.raw() != nullptr && args.shift.data.raw() != nullptr))
      << "[norm] no scale or shift";
  WithType(args.x.dtype(), [&](auto element) {
    using T = decltype(element);
    const Tokens<T> tokens{.x = static_cast<const T*>(args.x.raw()),
                           .y = static_cast<const T*>(args.y.raw()),
                           .r = static_cast<T*>(args.r.raw()),
                           .h = static_cast<T*>(args.h.raw()),
                           .eps = args.eps,
                           .scale_offset = args.scale_offset,
                           .mean = args.mean,
                           .rstd = args.rstd,
                           .rows = args.shape.images * args.shape.tokens,
                           .tokens = args.shape.tokens,
                           .width = static_cast<int>(args.shape.width)};
    if (tokens.rows == 0 || tokens.width == 0 || LaunchFast(tokens, args, context.stream)) return;
    Launch(GenericFwdKernel<T>, static_cast<unsigned>(tokens.rows), kGenericThreads, 0, context.stream, tokens,
           DeviceRows(args.gate), DeviceRows(args.scale), DeviceRows(args.shift));
  });
}

}  // namespace shardit::cuda
