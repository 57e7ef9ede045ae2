// Stands in for core/cuda/*.cu in a build without CUDA.
#include "core/cuda/device_query.h"
#include "core/cuda/graph.h"
#include "core/cuda/nvtx.h"
#include "core/cuda/unavailable.h"
#include "core/tensor/cuda_context.h"

namespace shardit {

NvtxRange::NvtxRange(const char* name) {}
NvtxRange::~NvtxRange() {}

}  // namespace shardit

namespace shardit::cuda {

std::vector<DeviceInfo> Devices() { return {}; }
bool CanAccessPeer(int from, int to) { return from == to; }
std::string WhyNoDevice() { return "this build has no CUDA code"; }
Versions CudaVersions() { return {}; }
bool Built() { return false; }
std::unique_ptr<Runtime> Runtime::Make(Device device, const CudaOptions& options) { return nullptr; }
std::unique_ptr<Graph> Graph::Capture(Stream stream, absl::FunctionRef<void()> body) { Unavailable(); }
bool IsCapturing(Stream stream) { return false; }

}  // namespace shardit::cuda
