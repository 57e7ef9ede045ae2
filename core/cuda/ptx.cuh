// The instructions that CUDA C++ has no name for, one function each, for sm_80 and newer. Source: PTX ISA, "Warp Level
// Matrix Multiply-Accumulate Instructions" (fragment layouts are there) and "Asynchronous copy".
//
// Warp-wide functions are called by all 32 lanes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#ifdef SHARDIT_CUDA_EMULATION
#include "cuda_emulator.h"
#endif

namespace shardit::cuda {

// d = a b + c: a [16, 16] and b [16, 8] bf16, c and d [16, 8] fp32; d may be c. Lane l, with g = l / 4 and i = l % 4,
// holds (two bf16 a register, the lower column or row in the lower half):
//   a[0] row g, columns 2i, 2i+1     a[1] row g+8     a[2] row g, columns 2i+8, 2i+9     a[3] row g+8, those columns
//   b[0] rows 2i, 2i+1, column g     b[1] rows 2i+8, 2i+9, column g
//   c[0], c[1] row g, columns 2i, 2i+1     c[2], c[3] row g+8
__device__ __forceinline__ void MmaM16N8K16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                            const float (&c)[4]) {
#ifdef SHARDIT_CUDA_EMULATION
  ::cuda_emulator::MmaM16N8K16Bf16(d, a, b, c);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};\n"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#endif
}

// The same with a [16, 8] and b [8, 8], for the last 8 of a sum that no 16 divides:
//   a[0] row g, columns 2i, 2i+1     a[1] row g+8     b rows 2i, 2i+1, column g
__device__ __forceinline__ void MmaM16N8K8(float (&d)[4], const uint32_t (&a)[2], uint32_t b, const float (&c)[4]) {
#ifdef SHARDIT_CUDA_EMULATION
  const uint32_t padded_a[4] = {a[0], a[1], 0, 0}, padded_b[2] = {b, 0};
  ::cuda_emulator::MmaM16N8K16Bf16(d, padded_a, padded_b, c);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};\n"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#endif
}

// Loads four 8 x 8 matrices of 16-bit elements: lanes 8 j .. 8 j + 7 give the addresses of the rows (16 bytes each,
// 16-byte aligned) of matrix j, which becomes r[j]: lane l gets elements 2 (l % 4) and the next of row l / 4.
// Transposed: lane l gets elements l / 4 of rows 2 (l % 4) and the next.
__device__ __forceinline__ void LoadMatrixX4(uint32_t (&r)[4], const void* shared_row) {
#ifdef SHARDIT_CUDA_EMULATION
  ::cuda_emulator::LdMatrixX4(r, shared_row);
#else
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
#endif
}

__device__ __forceinline__ void LoadMatrixX4Transposed(uint32_t (&r)[4], const void* shared_row) {
#ifdef SHARDIT_CUDA_EMULATION
  ::cuda_emulator::LdMatrixX4Trans(r, shared_row);
#else
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
#endif
}

// Two matrices: lanes 0 .. 15 give the addresses; those of the others are ignored but must be valid.
__device__ __forceinline__ void LoadMatrixX2(uint32_t (&r)[2], const void* shared_row) {
#ifdef SHARDIT_CUDA_EMULATION
  ::cuda_emulator::LdMatrixX2(r, shared_row);
#else
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(address)
               : "memory");
#endif
}

__device__ __forceinline__ void LoadMatrixX2Transposed(uint32_t (&r)[2], const void* shared_row) {
#ifdef SHARDIT_CUDA_EMULATION
  ::cuda_emulator::LdMatrixX2Trans(r, shared_row);
#else
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(address)
               : "memory");
#endif
}

// Copies 16 bytes from global to shared memory, both 16-byte aligned, in the background; zeros where not `valid` (the
// source is then not read). Groups: CopyCommit closes one; CopyWait<n> waits until at most n of this thread's groups
// are under way. Other threads see the bytes after a __syncthreads() that follows the wait.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global, bool valid = true) {
#ifdef SHARDIT_CUDA_EMULATION
  ::cuda_emulator::CpAsync16(shared, global, valid);
#else
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
#endif
}

__device__ __forceinline__ void CopyCommit() {
#ifdef SHARDIT_CUDA_EMULATION
  ::cuda_emulator::CpAsyncCommit();
#else
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

template <int kGroups>
__device__ __forceinline__ void CopyWait() {
#ifdef SHARDIT_CUDA_EMULATION
  ::cuda_emulator::CpAsyncWaitGroup(kGroups);
#else
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kGroups) : "memory");
#endif
}

// 2^x, the device's approximation (ex2.approx, 2 ulp).
__device__ __forceinline__ float Exp2Approximate(float x) {
#ifdef SHARDIT_CUDA_EMULATION
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
#endif
}

}  // namespace shardit::cuda
