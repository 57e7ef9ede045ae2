// One thread block at a time: its threads as fibers of the host thread that runs it, its barriers and its warps.
//
// A thread runs until it must wait for others; then another goes on. A thread that never waits costs a function call,
// and one fiber serves one after the other. Which thread begins or goes on first is drawn from the launch's seed, so
// that a result that depends on it differs from the right one for most seeds.
//
// Where no thread can go on and not all have finished, the program ends with a list of who waits where.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "tests/cuda_emulator/fiber.h"
#include "tests/cuda_emulator/settings.h"

namespace cuda_emulator {

constexpr int kWarpSize = 32;
constexpr int kMaxThreads = 1024;
constexpr int kMaxWarps = kMaxThreads / kWarpSize;
constexpr int kNamedBarriers = 16;
constexpr size_t kMaxSharedBytes = 227 << 10;
constexpr size_t kDefaultSharedBytes = 48 << 10;
constexpr unsigned kAllLanes = 0xffffffffu;

struct KernelRun {
  const void* kernel = nullptr;  // for messages
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  std::function<void()> thread;  // runs the kernel once, as the current CUDA thread
  uint64_t seed = 1;
};

// Runs every block of a kernel, in an order drawn from the seed, on the calling host thread.
void RunKernel(const KernelRun& run);

// What the last lane to arrive does for all: payloads[l] is what lane l gave, null where the lane is not among `lanes`.
using WarpFunction = void (*)(void* const payloads[kWarpSize], unsigned lanes);

// The current CUDA thread waits for the other lanes in `mask` that have not exited. `name` is a string literal, the
// same for all of them.
void WarpRendezvous(const char* name, unsigned mask, void* payload, WarpFunction function, Location where);

int CurrentLane();

// Fatal, with the kernel, the block and the thread.
[[noreturn]] void FatalInKernel(const std::string& message);

// A number from the launch's seed.
uint32_t RandomInKernel();

// The current thread's copies by cp.async that have not happened yet.
struct AsyncCopies {
  struct Copy {
    void* to;
    const void* from;
    int bytes;
    bool valid;
    int group;
  };
  std::vector<Copy> pending;  // in the order of issue
  int group = 0;              // that the next copy belongs to
};
AsyncCopies& CurrentAsyncCopies();

}  // namespace cuda_emulator
