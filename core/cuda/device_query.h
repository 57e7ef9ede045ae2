// What GPUs there are. Safe to call anywhere: a machine without driver or GPU simply has none. Defined in every build;
// one without CUDA always answers none.
#pragma once

#include <string>
#include <vector>

namespace shardit::cuda {

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  long long memory_bytes = 0;
};

std::vector<DeviceInfo> Devices();

// True where this program was built with its CUDA code.
bool Built();

}  // namespace shardit::cuda
