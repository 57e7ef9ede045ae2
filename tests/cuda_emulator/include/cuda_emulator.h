// What the emulator has beyond CUDA's own interface: switches for tests, and the software versions of the PTX
// instructions that core/cuda/ptx.cuh wraps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

namespace cuda_emulator {

// ---- For tests. ----

// The seed of every choice that CUDA leaves open: the order of threads, blocks and streams. Environment:
// SHARDIT_CUDA_EMULATOR_SEED, default 1.
void SetSeed(uint64_t seed);

// False: device memory stays accessible to the host. Environment: SHARDIT_CUDA_EMULATOR_OPEN=1.
void SetProtection(bool on);

// True: every operation runs before the call that issued it returns. Environment: SHARDIT_CUDA_EMULATOR_IMMEDIATE=1.
void SetImmediate(bool on);

// Bytes that a device has, and those of dynamic shared memory that a block may ask for, at most 227 KiB; what they were
// before. Environment: SHARDIT_CUDA_EMULATOR_MEMORY, SHARDIT_CUDA_EMULATOR_SHARED.
uint64_t SetMemory(uint64_t bytes);
uint64_t SetSharedMemory(uint64_t bytes);

// ---- In kernels. ----

using Location = std::source_location;

// The block's dynamic shared memory, aligned to 1024 bytes and filled with 0xFF when the block starts.
void* DynamicShared();

// Barrier `id` in [0, 16) for `threads` threads, a multiple of the warp size: sync waits, arrive does not.
void NamedBarrierSync(int id, int threads, Location where = Location::current());
void NamedBarrierArrive(int id, int threads, Location where = Location::current());

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32: d = a b + c. Products are exact, sums fp32 in the order of k.
void MmaM16N8K16Bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4],
                     Location where = Location::current());
// mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32: operands are read as tf32, their lower 13 bits ignored.
void MmaM16N8K8Tf32(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4],
                    Location where = Location::current());

// ldmatrix.sync.aligned.m8n8{.x1, .x2, .x4}{.trans}.shared.b16: lane l gives the address of row l % 8 of matrix l / 8,
// 16-byte aligned; lanes beyond the last matrix give anything.
void LdMatrixX1(uint32_t r[1], const void* shared_row, Location where = Location::current());
void LdMatrixX2(uint32_t r[2], const void* shared_row, Location where = Location::current());
void LdMatrixX4(uint32_t r[4], const void* shared_row, Location where = Location::current());
void LdMatrixX1Trans(uint32_t r[1], const void* shared_row, Location where = Location::current());
void LdMatrixX2Trans(uint32_t r[2], const void* shared_row, Location where = Location::current());
void LdMatrixX4Trans(uint32_t r[4], const void* shared_row, Location where = Location::current());

// cp.async: a copy of 4, 8 or 16 bytes, aligned to its size, or zeros where not valid. By the seed it happens at once
// or as late as allowed: in the wait for its group. Groups end at a commit; WaitGroup(n) leaves the n latest pending.
void CpAsync(void* shared, const void* global, int bytes, bool valid);
inline void CpAsync16(void* shared, const void* global, bool valid) { CpAsync(shared, global, 16, valid); }
void CpAsyncCommit();
void CpAsyncWaitGroup(int pending);
void CpAsyncWaitAll();

}  // namespace cuda_emulator
