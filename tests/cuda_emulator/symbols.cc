#include "tests/cuda_emulator/symbols.h"

#include <cstdio>

namespace cuda_emulator {

std::string KernelName(const void* kernel) {
  char text[32];
  std::snprintf(text, sizeof(text), "%p", kernel);
  return text;
}

}  // namespace cuda_emulator
