#include <cstdlib>

#include "core/cuda/cuda_check.h"
#include "core/cuda/device_query.h"

namespace shardit::cuda {

namespace {

// What CUDA reads when it starts. A receive holds its stream until its send comes, which nothing may make wait for it:
// not a queue of the hardware, of which there are to be as many as streams, nor a kernel that is loaded at its first
// launch, which can wait for all that runs. The user's own choice stays.
void SetEnvironment() {
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);
  setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/0);
}

}  // namespace

std::vector<DeviceInfo> Devices() {
  SetEnvironment();
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

bool CanAccessPeer(int from, int to) {
  if (from == to) return true;
  int can = 0;
  CUDA_CHECK(cudaDeviceCanAccessPeer(&can, from, to));
  return can != 0;
}

std::string WhyNoDevice() {
  SetEnvironment();
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count == 0) return cudaGetErrorString(cudaErrorNoDevice);
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

Versions CudaVersions() {
  SetEnvironment();
  Versions versions;
  // Without a driver both may be errors.
  if (cudaDriverGetVersion(&versions.driver) != cudaSuccess) versions.driver = 0;
  if (cudaRuntimeGetVersion(&versions.built_with) != cudaSuccess) versions.built_with = 0;
  return versions;
}

bool Built() { return true; }

}  // namespace shardit::cuda
