// The device language for an ordinary C++ compiler: qualifiers, thread coordinates, barriers, warp functions, atomics
// and arithmetic. A CUDA thread is a fiber of the host thread that runs its block; what makes threads wait for each
// other is in block.h.
//
// Collectives take one argument more than NVIDIA's, filled in by the compiler: the line they are called from, which a
// report of a deadlock names.
#pragma once

#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>  // before __noinline__ becomes a macro: it says __attribute__((__noinline__))
#include <source_location>
#include <type_traits>

#include "cuda_emulator.h"
#include "vector_types.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static thread_local  // one block at a time runs on a host thread
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) alignas(n)
#define __builtin_assume(condition) static_cast<void>(0)

extern constinit thread_local uint3 threadIdx;
extern constinit thread_local uint3 blockIdx;
extern constinit thread_local dim3 blockDim;
extern constinit thread_local dim3 gridDim;
constexpr int warpSize = 32;

namespace cuda_emulator {

enum class Shuffle { kIndex, kUp, kDown, kXor };
enum class Vote { kBallot, kAny, kAll };
enum class Reduction { kAdd, kMin, kMax, kAnd, kOr, kXor, kAddSigned, kMinSigned, kMaxSigned };
enum class Count { kNone, kCount, kAnd, kOr };

uint64_t WarpShuffle(Shuffle kind, unsigned mask, uint64_t value, int operand, int width, Location where);
unsigned WarpVote(Vote kind, unsigned mask, int predicate, Location where);
unsigned WarpReduce(Reduction kind, unsigned mask, unsigned value, Location where);
void WarpBarrier(unsigned mask, Location where);
unsigned ActiveMask();
int BlockBarrier(Count kind, int predicate, Location where);
[[noreturn]] void Trap();

template <class To, class From>
To Bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To bits;
  std::memcpy(static_cast<void*>(&bits), static_cast<const void*>(&value), sizeof(bits));
  return bits;
}

template <class T>
T ShuffleValue(Shuffle kind, unsigned mask, T value, int operand, int width, Location where) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
  uint64_t word = 0;
  std::memcpy(&word, static_cast<const void*>(&value), sizeof(value));
  word = WarpShuffle(kind, mask, word, operand, width, where);
  std::memcpy(static_cast<void*>(&value), &word, sizeof(value));
  return value;
}

}  // namespace cuda_emulator

// ---- Barriers and fences. Blocks and threads run one at a time on a host thread, so fences have nothing to order.
// ----

inline void __syncthreads(cuda_emulator::Location where = cuda_emulator::Location::current()) {
  cuda_emulator::BlockBarrier(cuda_emulator::Count::kNone, 0, where);
}
inline int __syncthreads_count(int predicate, cuda_emulator::Location where = cuda_emulator::Location::current()) {
  return cuda_emulator::BlockBarrier(cuda_emulator::Count::kCount, predicate, where);
}
inline int __syncthreads_and(int predicate, cuda_emulator::Location where = cuda_emulator::Location::current()) {
  return cuda_emulator::BlockBarrier(cuda_emulator::Count::kAnd, predicate, where);
}
inline int __syncthreads_or(int predicate, cuda_emulator::Location where = cuda_emulator::Location::current()) {
  return cuda_emulator::BlockBarrier(cuda_emulator::Count::kOr, predicate, where);
}
inline void __syncwarp(unsigned mask = 0xffffffff, cuda_emulator::Location where = cuda_emulator::Location::current()) {
  cuda_emulator::WarpBarrier(mask, where);
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() {}
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// ---- Warp functions. ----

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              cuda_emulator::Location where = cuda_emulator::Location::current()) {
  return cuda_emulator::ShuffleValue(cuda_emulator::Shuffle::kIndex, mask, value, source, width, where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 cuda_emulator::Location where = cuda_emulator::Location::current()) {
  return cuda_emulator::ShuffleValue(cuda_emulator::Shuffle::kUp, mask, value, static_cast<int>(delta), width, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   cuda_emulator::Location where = cuda_emulator::Location::current()) {
  return cuda_emulator::ShuffleValue(cuda_emulator::Shuffle::kDown, mask, value, static_cast<int>(delta), width, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                  cuda_emulator::Location where = cuda_emulator::Location::current()) {
  return cuda_emulator::ShuffleValue(cuda_emulator::Shuffle::kXor, mask, value, lanes, width, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              cuda_emulator::Location where = cuda_emulator::Location::current()) {
  return cuda_emulator::WarpVote(cuda_emulator::Vote::kBallot, mask, predicate, where);
}
inline int __any_sync(unsigned mask, int predicate,
                      cuda_emulator::Location where = cuda_emulator::Location::current()) {
  return static_cast<int>(cuda_emulator::WarpVote(cuda_emulator::Vote::kAny, mask, predicate, where));
}
inline int __all_sync(unsigned mask, int predicate,
                      cuda_emulator::Location where = cuda_emulator::Location::current()) {
  return static_cast<int>(cuda_emulator::WarpVote(cuda_emulator::Vote::kAll, mask, predicate, where));
}
inline unsigned __activemask() { return cuda_emulator::ActiveMask(); }

#define CUDA_EMULATOR_REDUCE(name, type, kind)                                                                      \
  inline type name(unsigned mask, type value, cuda_emulator::Location where = cuda_emulator::Location::current()) { \
    return static_cast<type>(                                                                                       \
        cuda_emulator::WarpReduce(cuda_emulator::Reduction::kind, mask, static_cast<unsigned>(value), where));      \
  }
CUDA_EMULATOR_REDUCE(__reduce_add_sync, unsigned, kAdd)
CUDA_EMULATOR_REDUCE(__reduce_min_sync, unsigned, kMin)
CUDA_EMULATOR_REDUCE(__reduce_max_sync, unsigned, kMax)
CUDA_EMULATOR_REDUCE(__reduce_add_sync, int, kAddSigned)
CUDA_EMULATOR_REDUCE(__reduce_min_sync, int, kMinSigned)
CUDA_EMULATOR_REDUCE(__reduce_max_sync, int, kMaxSigned)
CUDA_EMULATOR_REDUCE(__reduce_and_sync, unsigned, kAnd)
CUDA_EMULATOR_REDUCE(__reduce_or_sync, unsigned, kOr)
CUDA_EMULATOR_REDUCE(__reduce_xor_sync, unsigned, kXor)
#undef CUDA_EMULATOR_REDUCE

// ---- Memory: cache hints are without effect; atomics return the old value. ----

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
T __ldcg(const T* address) {
  return *address;
}
template <class T>
T __ldca(const T* address) {
  return *address;
}
template <class T>
void __stcs(T* address, T value) {
  *address = value;
}
template <class T>
void __stcg(T* address, T value) {
  *address = value;
}
template <class T>
void __stwt(T* address, T value) {
  *address = value;
}

namespace cuda_emulator {

template <class T, class Update>
T AtomicUpdate(T* address, Update update) {
  T old, wanted;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    wanted = update(old);
  } while (!__atomic_compare_exchange(address, &old, &wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace cuda_emulator

#define CUDA_EMULATOR_ATOMICS(type)                                                                        \
  inline type atomicAdd(type* address, type value) {                                                       \
    return cuda_emulator::AtomicUpdate(address, [=](type old) { return static_cast<type>(old + value); }); \
  }                                                                                                        \
  inline type atomicMin(type* address, type value) {                                                       \
    return cuda_emulator::AtomicUpdate(address, [=](type old) { return old < value ? old : value; });      \
  }                                                                                                        \
  inline type atomicMax(type* address, type value) {                                                       \
    return cuda_emulator::AtomicUpdate(address, [=](type old) { return old > value ? old : value; });      \
  }                                                                                                        \
  inline type atomicAnd(type* address, type value) {                                                       \
    return cuda_emulator::AtomicUpdate(address, [=](type old) { return old & value; });                    \
  }                                                                                                        \
  inline type atomicOr(type* address, type value) {                                                        \
    return cuda_emulator::AtomicUpdate(address, [=](type old) { return old | value; });                    \
  }                                                                                                        \
  inline type atomicXor(type* address, type value) {                                                       \
    return cuda_emulator::AtomicUpdate(address, [=](type old) { return old ^ value; });                    \
  }                                                                                                        \
  inline type atomicExch(type* address, type value) {                                                      \
    return cuda_emulator::AtomicUpdate(address, [=](type) { return value; });                              \
  }                                                                                                        \
  inline type atomicCAS(type* address, type expected, type value) {                                        \
    return cuda_emulator::AtomicUpdate(address, [=](type old) { return old == expected ? value : old; });  \
  }
CUDA_EMULATOR_ATOMICS(int)
CUDA_EMULATOR_ATOMICS(unsigned int)
CUDA_EMULATOR_ATOMICS(unsigned long long int)
#undef CUDA_EMULATOR_ATOMICS
inline int atomicSub(int* address, int value) { return atomicAdd(address, -value); }
inline unsigned atomicSub(unsigned* address, unsigned value) { return atomicAdd(address, 0u - value); }
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return cuda_emulator::AtomicUpdate(address, [=](unsigned old) { return old >= limit ? 0u : old + 1; });
}
inline float atomicAdd(float* address, float value) {
  return cuda_emulator::AtomicUpdate(address, [=](float old) { return old + value; });
}
inline double atomicAdd(double* address, double value) {
  return cuda_emulator::AtomicUpdate(address, [=](double old) { return old + value; });
}
inline float atomicExch(float* address, float value) {
  return cuda_emulator::AtomicUpdate(address, [=](float) { return value; });
}

// ---- Arithmetic. ----

inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x))); }
inline double __fma_rn(double x, double y, double z) { return std::fma(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline double __dsqrt_rn(double x) { return std::sqrt(x); }
inline double __drcp_rn(double x) { return 1.0 / x; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float fdividef(float x, float y) { return x / y; }
inline float __fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }

// The approximate functions, here as exact as the host's. Macros: glibc declares these names for itself.
#define __expf(x) std::exp(static_cast<float>(x))
#define __exp10f(x) std::pow(10.0f, static_cast<float>(x))
#define __logf(x) std::log(static_cast<float>(x))
#define __log2f(x) std::log2(static_cast<float>(x))
#define __log10f(x) std::log10(static_cast<float>(x))
#define __powf(x, y) std::pow(static_cast<float>(x), static_cast<float>(y))
#define __sinf(x) std::sin(static_cast<float>(x))
#define __cosf(x) std::cos(static_cast<float>(x))
#define __tanf(x) std::tan(static_cast<float>(x))
#define __tanhf(x) std::tanh(static_cast<float>(x))

inline int __float_as_int(float x) { return cuda_emulator::Bits<int>(x); }
inline unsigned __float_as_uint(float x) { return cuda_emulator::Bits<unsigned>(x); }
inline float __int_as_float(int x) { return cuda_emulator::Bits<float>(x); }
inline float __uint_as_float(unsigned x) { return cuda_emulator::Bits<float>(x); }
inline long long __double_as_longlong(double x) { return cuda_emulator::Bits<long long>(x); }
inline double __longlong_as_double(long long x) { return cuda_emulator::Bits<double>(x); }

// Conversions saturate, and NaN becomes 0, as on the GPU.
namespace cuda_emulator {

template <class Integer, class Float>
Integer Saturate(Float whole) {
  if (std::isnan(whole)) return 0;
  if (whole <= static_cast<Float>(std::numeric_limits<Integer>::min())) return std::numeric_limits<Integer>::min();
  if (whole >= static_cast<Float>(std::numeric_limits<Integer>::max())) return std::numeric_limits<Integer>::max();
  return static_cast<Integer>(whole);
}

}  // namespace cuda_emulator

inline int __float2int_rn(float x) { return cuda_emulator::Saturate<int>(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return cuda_emulator::Saturate<int>(std::trunc(x)); }
inline int __float2int_rd(float x) { return cuda_emulator::Saturate<int>(std::floor(x)); }
inline int __float2int_ru(float x) { return cuda_emulator::Saturate<int>(std::ceil(x)); }
inline unsigned __float2uint_rn(float x) { return cuda_emulator::Saturate<unsigned>(std::nearbyint(x)); }
inline unsigned __float2uint_rz(float x) { return cuda_emulator::Saturate<unsigned>(std::trunc(x)); }
inline long long __float2ll_rn(float x) { return cuda_emulator::Saturate<long long>(std::nearbyint(x)); }
inline long long __double2ll_rn(double x) { return cuda_emulator::Saturate<long long>(std::nearbyint(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline double __ll2double_rn(long long x) { return static_cast<double>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= ((x >> bit) & 1u) << (31 - bit);
  return reversed;
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = (uint64_t{y} << 32) | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= static_cast<unsigned>((bytes >> (8 * ((selector >> (4 * i)) & 7))) & 0xff) << (8 * i);
  }
  return result;
}
inline int __mulhi(int x, int y) { return static_cast<int>((static_cast<long long>(x) * y) >> 32); }
inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<unsigned>((uint64_t{x} * y) >> 32); }
__extension__ using CudaEmulatorInt128 = __int128;
__extension__ using CudaEmulatorUint128 = unsigned __int128;
inline long long __mul64hi(long long x, long long y) {
  return static_cast<long long>((static_cast<CudaEmulatorInt128>(x) * y) >> 64);
}
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return static_cast<unsigned long long>((static_cast<CudaEmulatorUint128>(x) * y) >> 64);
}

#define CUDA_EMULATOR_MIN_MAX(type)                            \
  constexpr type min(type x, type y) { return y < x ? y : x; } \
  constexpr type max(type x, type y) { return x < y ? y : x; }
CUDA_EMULATOR_MIN_MAX(int)
CUDA_EMULATOR_MIN_MAX(unsigned int)
CUDA_EMULATOR_MIN_MAX(long int)
CUDA_EMULATOR_MIN_MAX(unsigned long int)
CUDA_EMULATOR_MIN_MAX(long long int)
CUDA_EMULATOR_MIN_MAX(unsigned long long int)
#undef CUDA_EMULATOR_MIN_MAX
inline float min(float x, float y) { return std::fmin(x, y); }
inline float max(float x, float y) { return std::fmax(x, y); }
inline double min(double x, double y) { return std::fmin(x, y); }
inline double max(double x, double y) { return std::fmax(x, y); }

inline long long clock64() { return 0; }
inline void __nanosleep(unsigned) {}
[[noreturn]] inline void __trap() { cuda_emulator::Trap(); }
