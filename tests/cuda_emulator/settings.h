// The environment's settings, read once, and random numbers from the seed among them.
#pragma once

#include <atomic>
#include <cstdint>

namespace cuda_emulator {

struct Settings {
  std::atomic<uint64_t> seed;          // SHARDIT_CUDA_EMULATOR_SEED
  std::atomic<bool> immediate;         // SHARDIT_CUDA_EMULATOR_IMMEDIATE
  std::atomic<bool> protection;        // not SHARDIT_CUDA_EMULATOR_OPEN
  int devices;                         // SHARDIT_CUDA_EMULATOR_DEVICES
  std::atomic<uint64_t> memory_bytes;  // SHARDIT_CUDA_EMULATOR_MEMORY, per device
  std::atomic<uint64_t> shared_bytes;  // SHARDIT_CUDA_EMULATOR_SHARED, of a block
  int hang_seconds;  // SHARDIT_CUDA_EMULATOR_HANG_SECONDS: a wait this long for nothing ends the program
};

Settings& GlobalSettings();

// A small generator (xorshift64*), for choices that need speed and no quality.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 0x2545F4914F6CDD1Du) {
    if (state_ == 0) state_ = 1;
    Next();
    Next();
  }
  uint32_t Next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<uint32_t>((state_ * 0x2545F4914F6CDD1Du) >> 32);
  }
  // Uniform in [0, bound).
  uint32_t Below(uint32_t bound) { return static_cast<uint32_t>((uint64_t{Next()} * bound) >> 32); }

 private:
  uint64_t state_;
};

}  // namespace cuda_emulator
