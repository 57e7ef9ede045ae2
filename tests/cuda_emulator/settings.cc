#include "tests/cuda_emulator/settings.h"

#include <cstdio>
#include <cstdlib>

#include "cuda_emulator.h"
#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/fatal.h"

namespace cuda_emulator {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : std::strtoull(text, nullptr, 0);
}

}  // namespace

void Fatal(const std::string& message) {
  std::fprintf(stderr, "CUDA emulator: %s\n", message.c_str());
  std::fflush(stderr);
  std::abort();
}

Settings& GlobalSettings() {
  static Settings settings{
      .seed = FromEnvironment("SHARDIT_CUDA_EMULATOR_SEED", 1),
      .immediate = FromEnvironment("SHARDIT_CUDA_EMULATOR_IMMEDIATE", 0) != 0,
      .protection = FromEnvironment("SHARDIT_CUDA_EMULATOR_OPEN", 0) == 0,
      .devices = static_cast<int>(FromEnvironment("SHARDIT_CUDA_EMULATOR_DEVICES", 1)),
      .memory_bytes = FromEnvironment("SHARDIT_CUDA_EMULATOR_MEMORY", uint64_t{4} << 30),
      .shared_bytes = FromEnvironment("SHARDIT_CUDA_EMULATOR_SHARED", kMaxSharedBytes),
      .hang_seconds = static_cast<int>(FromEnvironment("SHARDIT_CUDA_EMULATOR_HANG_SECONDS", 120))};
  return settings;
}

void SetSeed(uint64_t seed) { GlobalSettings().seed = seed; }
void SetImmediate(bool on) { GlobalSettings().immediate = on; }
uint64_t SetMemory(uint64_t bytes) { return GlobalSettings().memory_bytes.exchange(bytes); }
uint64_t SetSharedMemory(uint64_t bytes) { return GlobalSettings().shared_bytes.exchange(bytes); }

}  // namespace cuda_emulator
