#include "trainer/train/compute_device.h"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/base/log.h"
#include "core/cuda/device_query.h"
#include "core/cuda/peak_flops.h"
#include "core/tensor/device_memory.h"
#include "parallel/comm/agree_status.h"
#include "parallel/comm/device_comm.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/train/step_comms.h"

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
  const bool has_driver = access("/dev/nvidiactl", F_OK) == 0;
  int32_t facts[] = {gpu.ok() ? 0 : 1, has_driver ? 1 : 0};
  // World: with one host that has no GPU, AUTO means the CPU for everybody.
  world.comm().AllReduce(facts, facts, 2, ReduceOp::kMax, {.tag = "device", .control = true}).Wait();
  const bool missing = facts[0] != 0;
  if (choice == DeviceChoice::kAuto && missing && facts[1] != 0 && world.rank() == 0) {
    LOG_WARN("train.device: AUTO takes the CPU, although a host has NVIDIA's driver (/dev/nvidiactl): {}",
             gpu.ok()         ? "another host has no GPU that can be used"
             : !cuda::Built() ? "this program was built without CUDA code"
             : has_driver     ? cuda::WhyNoDevice()
                              : "this host has no GPU");
  }
  absl::Status verdict;
  if (choice == DeviceChoice::kCuda) verdict = gpu;
  if (missing && verdict.ok() && precision != Precision::kFp32) {
    verdict = Refuse(absl::StrCat("train.precision: ", precision == Precision::kBf16 ? "BF16" : "TF32",
                                  " needs a GPU on every host (CPUs compute in fp32); set train.precision to FP32, or "
                                  "run where `shardit doctor` shows a GPU"));
  }
  const absl::Status agreed = AgreeStatus(world.comm(), verdict);
  if (!agreed.ok()) return verdict.ok() ? WithExitCode(agreed, ExitCode::kUsage) : verdict;
  if (missing) return Device::Cpu();
  return Device::Cuda(world.local_rank() % static_cast<int>(cuda::Devices().size()));
}

int64_t MemoryBudget(World& world, Device device, const MeshShape& shape) {
  // Bytes: the code of cuBLASLt and NCCL, which is loaded whole, cuBLASLt's workspace, kernels' scratch and trials.
  constexpr int64_t kOutside = int64_t{1} << 30;
  const int sharers = RanksOnDevice(world.comm(), device);
  const int64_t comms = sharers == 1 ? StepComms::DeviceBytes(shape) : 0;  // ranks that share a device have no NCCL
  return std::max<int64_t>(0, cuda::MemoryInfo(device).free_bytes / sharers - kOutside - comms);
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
