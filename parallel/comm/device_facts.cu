#include "core/cuda/graph.h"
#include "core/cuda/launch.cuh"
#include "parallel/comm/device_facts.h"

namespace shardit::cuda {

std::string DeviceBusId(Device device) {
  char id[32] = "";
  CUDA_CHECK(cudaDeviceGetPCIBusId(id, sizeof(id), device.index));
  return id;
}

bool IsRecorded(Stream stream) { return IsCapturing(stream); }

}  // namespace shardit::cuda
