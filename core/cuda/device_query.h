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

// Whether kernels on device `from` can read the memory of device `to`. Both exist.
bool CanAccessPeer(int from, int to);

// Why Devices() is empty, in CUDA's words; empty where it is not.
std::string WhyNoDevice();

// Of CUDA, as 1000 * major + 10 * minor: the newest that the machine's driver serves (0: no driver), and the one that
// this program was built with (0: none).
struct Versions {
  int driver = 0;
  int built_with = 0;
};
Versions CudaVersions();

// True where this program was built with its CUDA code.
bool Built();

}  // namespace shardit::cuda
