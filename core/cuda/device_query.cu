#include "core/cuda/cuda_check.h"
#include "core/cuda/device_query.h"

namespace shardit::cuda {

std::vector<DeviceInfo> Devices() {
  int count = 0;
  // Without a driver this is an error, which means the same as a count of zero.
  if (cudaGetDeviceCount(&count) != cudaSuccess) return {};
  std::vector<DeviceInfo> devices;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDeviceProperties(&properties, i));
    devices.push_back({properties.name, properties.major, properties.minor, properties.multiProcessorCount,
                       static_cast<long long>(properties.totalGlobalMem)});
  }
  return devices;
}

bool Built() { return true; }

}  // namespace shardit::cuda
