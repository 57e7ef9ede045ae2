#include "trainer/train/compute_device.h"

#include <algorithm>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/base/math.h"
#include "core/cuda/device_query.h"
#include "core/cuda/peak_flops.h"
#include "core/tensor/device_memory.h"
#include "parallel/comm/agree_status.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

absl::Status Refuse(std::string message) { return WithExitCode(absl::InvalidArgumentError(message), ExitCode::kUsage); }

// What is wrong with asking for a GPU on this host; OK where nothing is.
absl::Status CheckGpu(const World& world) {
  if (!cuda::Built()) {
    return Refuse(
        "CUDA is asked for (train.device, --device), but this program was built without CUDA code; build it where nvcc "
        "is found, or ask for CPU");
  }
  if (cuda::Devices().empty()) {
    return Refuse(absl::StrCat("CUDA is asked for (train.device, --device), but host ", world.host_name(),
                               " has no GPU that the driver shows; `shardit doctor` says more, or ask for CPU"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Device> ChooseDevice(World& world, DeviceChoice choice, Precision precision) {
  const absl::Status gpu = choice == DeviceChoice::kCpu ? Refuse("") : CheckGpu(world);
  int32_t missing = gpu.ok() ? 0 : 1;
  // World: with one host that has no GPU, AUTO means the CPU for everybody.
  world.comm().AllReduce(&missing, &missing, 1, ReduceOp::kMax, {.tag = "device", .control = true}).Wait();
  absl::Status verdict;
  if (choice == DeviceChoice::kCuda) verdict = gpu;
  if (missing != 0 && verdict.ok() && precision != Precision::kFp32) {
    verdict = Refuse(absl::StrCat("train.precision: ", precision == Precision::kBf16 ? "BF16" : "TF32",
                                  " needs a GPU on every host (CPUs compute in fp32); set train.precision to FP32, or "
                                  "run where `shardit doctor` shows a GPU"));
  }
  const absl::Status agreed = AgreeStatus(world.comm(), verdict);
  if (!agreed.ok()) return verdict.ok() ? WithExitCode(agreed, ExitCode::kUsage) : verdict;
  if (missing != 0) return Device::Cpu();
  return Device::Cuda(world.local_rank() % static_cast<int>(cuda::Devices().size()));
}

int64_t MemoryBudget(const World& world, Device device) {
  constexpr int64_t kOutside = int64_t{512} << 20;  // bytes: cuBLASLt's and kernels' scratch, NCCL's buffers, modules
  const int64_t devices = static_cast<int64_t>(cuda::Devices().size());
  const int64_t sharers = CeilDiv(int64_t{world.local_size()}, devices);
  return std::max<int64_t>(0, cuda::MemoryInfo(device).free_bytes - kOutside) / sharers;
}

double PeakFlops(Device device) {
  constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
  if (device.is_cpu()) return kUnknown;
  return cuda::PeakBf16Flops(cuda::Devices()[static_cast<size_t>(device.index)].name).value_or(kUnknown);
}

std::string DescribeDevice(Device device, const CpuShare& share) {
  if (device.is_cpu()) return absl::StrCat("cpu (", share.threads, " threads)");
  return absl::StrCat("cuda:", device.index, " (", cuda::Devices()[static_cast<size_t>(device.index)].name, ")");
}

RankContext MakeRankContext(const RankDevice& device, const CpuShare& share) {
  const CudaOptions cuda{.tf32 = device.precision == Precision::kTf32,
                         .deterministic = device.deterministic,
                         .tune_products = device.tune && !device.deterministic,
                         .reserve_bytes = device.reserve_bytes};
  return device.device.is_cpu() ? RankContext(share.threads, share.cpus)
                                : RankContext(device.device, cuda, share.threads, share.cpus);
}

}  // namespace shardit
