// CUDA's small vectors, with its sizes and alignments, and the functions that make them.
#pragma once

#include <cstdint>

namespace cuda_emulator {

// Vectors of a power of two of bytes are aligned to their size, up to 16 bytes; vectors of three to their element.
template <class T>
struct Vector1 {
  T x;
};
template <class T>
struct alignas(2 * sizeof(T)) Vector2 {
  T x, y;
};
template <class T>
struct Vector3 {
  T x, y, z;
};
template <class T>
struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) Vector4 {
  T x, y, z, w;
};

}  // namespace cuda_emulator

#define CUDA_EMULATOR_VECTORS(name, type)                                        \
  using name##1 = cuda_emulator::Vector1<type>;                                  \
  using name##2 = cuda_emulator::Vector2<type>;                                  \
  using name##3 = cuda_emulator::Vector3<type>;                                  \
  using name##4 = cuda_emulator::Vector4<type>;                                  \
  constexpr name##1 make_##name##1(type x) { return {x}; }                       \
  constexpr name##2 make_##name##2(type x, type y) { return {x, y}; }            \
  constexpr name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; } \
  constexpr name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

CUDA_EMULATOR_VECTORS(char, signed char)
CUDA_EMULATOR_VECTORS(uchar, unsigned char)
CUDA_EMULATOR_VECTORS(short, short)
CUDA_EMULATOR_VECTORS(ushort, unsigned short)
CUDA_EMULATOR_VECTORS(int, int)
CUDA_EMULATOR_VECTORS(uint, unsigned int)
CUDA_EMULATOR_VECTORS(longlong, long long)
CUDA_EMULATOR_VECTORS(ulonglong, unsigned long long)
CUDA_EMULATOR_VECTORS(float, float)
CUDA_EMULATOR_VECTORS(double, double)

#undef CUDA_EMULATOR_VECTORS

struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};
