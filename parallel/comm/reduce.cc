#include "parallel/comm/reduce.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/base/check.h"

namespace shardit {
namespace {

// Elements that the general tree handles at a time: its temporaries, two a level, stay in the first-level cache.
constexpr int64_t kBlock = 512;

struct Sum {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>) {
      using Unsigned = std::make_unsigned_t<T>;
      return static_cast<T>(static_cast<Unsigned>(static_cast<Unsigned>(a) + static_cast<Unsigned>(b)));
    } else {
      return a + b;
    }
  }
};
// The comparison a != a lets a NaN on the left through; one on the right wins because the first comparison is false.
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return a < b || a != a ? a : b;
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};

int LeftHalf(int n) {
  int half = 1;
  while (2 * half < n) half *= 2;
  return half;
}

// ivdep: `out` may be one of the inputs at the same index, which the compiler's own overlap test would send to the
// scalar loop.
template <class T, class Op>
void Reduce2(const T* a, const T* b, T* out, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] = Op()(a[i], b[i]);
}

template <class T, class Op>
void Reduce4(const T* a, const T* b, const T* c, const T* d, T* out, int64_t count) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] = Op()(Op()(a[i], b[i]), Op()(c[i], d[i]));
}

// Both halves go to temporaries, because `out` may be an input that the right half still has to read.
template <class T, class Op>
void ReduceBlock(const void* const* inputs, int n, int64_t begin, T* out, int64_t count) {
  const auto in = [&](int r) { return static_cast<const T*>(inputs[r]) + begin; };
  if (n == 1) {
    if (in(0) != out) std::memcpy(out, in(0), count * sizeof(T));
  } else if (n == 2) {
    Reduce2<T, Op>(in(0), in(1), out, count);
  } else if (n == 4) {
    Reduce4<T, Op>(in(0), in(1), in(2), in(3), out, count);
  } else {
    T left[kBlock], right[kBlock];
    const int half = LeftHalf(n);
    ReduceBlock<T, Op>(inputs, half, begin, left, count);
    ReduceBlock<T, Op>(inputs + half, n - half, begin, right, count);
    Reduce2<T, Op>(left, right, out, count);
  }
}

template <class T, class Op>
void ReduceAll(std::span<const void* const> inputs, void* out, int64_t count) {
  const int n = static_cast<int>(inputs.size());
  const int64_t block = n <= 2 || n == 4 ? count : kBlock;
  for (int64_t begin = 0; begin < count; begin += block) {
    ReduceBlock<T, Op>(inputs.data(), n, begin, static_cast<T*>(out) + begin, std::min(block, count - begin));
  }
}

// The same on bf16 inputs, in fp32.
template <class Op>
void ReduceWide(const void* const* inputs, int n, int64_t begin, float* out, int64_t count) {
  if (n == 1) {
    const BFloat16* const in = static_cast<const BFloat16*>(inputs[0]) + begin;
    for (int64_t i = 0; i < count; ++i) out[i] = in[i].ToFloat();
    return;
  }
  float right[kBlock];
  const int half = LeftHalf(n);
  ReduceWide<Op>(inputs, half, begin, out, count);
  ReduceWide<Op>(inputs + half, n - half, begin, right, count);
  Reduce2<float, Op>(out, right, out, count);
}

template <class Op>
void ReduceBFloat16(std::span<const void* const> inputs, void* out, int64_t count) {
  float sum[kBlock];
  BFloat16* const rounded = static_cast<BFloat16*>(out);
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t block = std::min(kBlock, count - begin);
    ReduceWide<Op>(inputs.data(), static_cast<int>(inputs.size()), begin, sum, block);
    for (int64_t i = 0; i < block; ++i) rounded[begin + i] = BFloat16::FromFloat(sum[i]);
  }
}

void ReduceBFloat16(ReduceOp op, std::span<const void* const> inputs, void* out, int64_t count) {
  switch (op) {
    case ReduceOp::kSum:
      return ReduceBFloat16<Sum>(inputs, out, count);
    case ReduceOp::kMin:
      return ReduceBFloat16<Min>(inputs, out, count);
    case ReduceOp::kMax:
      return ReduceBFloat16<Max>(inputs, out, count);
  }
}

template <class T>
void ReduceTyped(ReduceOp op, std::span<const void* const> inputs, void* out, int64_t count) {
  switch (op) {
    case ReduceOp::kSum:
      return ReduceAll<T, Sum>(inputs, out, count);
    case ReduceOp::kMin:
      return ReduceAll<T, Min>(inputs, out, count);
    case ReduceOp::kMax:
      return ReduceAll<T, Max>(inputs, out, count);
  }
}

}  // namespace

void TreeReduce(DType dtype, ReduceOp op, std::span<const void* const> inputs, void* out, int64_t count) {
  CHECK(!inputs.empty());
  switch (dtype) {
    case DType::kF32:
      return ReduceTyped<float>(op, inputs, out, count);
    case DType::kF64:
      return ReduceTyped<double>(op, inputs, out, count);
    case DType::kI32:
      return ReduceTyped<int32_t>(op, inputs, out, count);
    case DType::kI64:
      return ReduceTyped<int64_t>(op, inputs, out, count);
    case DType::kU8:
      return ReduceTyped<uint8_t>(op, inputs, out, count);
    case DType::kBF16:
      return ReduceBFloat16(op, inputs, out, count);
  }
}

}  // namespace shardit
