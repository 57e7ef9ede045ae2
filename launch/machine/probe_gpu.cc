// GPUs and what training on them needs.
#include <unistd.h>

#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/cuda/device_query.h"
#include "core/cuda/shared_library.h"
#include "core/tensor/device_memory.h"
#include "launch/machine/probes.h"

namespace shardit {
namespace {

// A library that the program opens itself, and its version. `missing` says what is lost without it.
Finding ExamineLibrary(const std::string& name, std::span<const char* const> file_names,
                       absl::FunctionRef<std::string(const cuda::SharedLibrary&)> version, bool needed,
                       const std::string& missing) {
  const auto library = cuda::SharedLibrary::Open(file_names);
  if (library.ok()) return {name, true, absl::StrCat(version(*library), ", ", library->path())};
  return {name, !needed, absl::StrCat(missing, "; ", library.status().message())};
}

// Both libraries number release a.b.c as 10000 a + 100 b + c.
std::string LibraryRelease(int64_t version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

std::string CublasLtVersion(const cuda::SharedLibrary& library) {
  size_t (*version)() = nullptr;
  return library.Load("cublasLtGetVersion", version).ok() ? LibraryRelease(static_cast<int64_t>(version()))
                                                          : "version unknown";
}

std::string NcclVersion(const cuda::SharedLibrary& library) {
  int (*get)(int*) = nullptr;
  int version = 0;
  return library.Load("ncclGetVersion", get).ok() && get(&version) == 0 ? LibraryRelease(version) : "version unknown";
}

std::string CudaRelease(int version) { return absl::StrCat(version / 1000, ".", version % 1000 / 10); }

// "8 x NVIDIA H100 80GB HBM3 (sm_90, 132 multiprocessors, 79.1 GiB, 78.6 free)": equal neighbours as one.
std::string DescribeGpus(const std::vector<cuda::DeviceInfo>& devices) {
  const auto words = [&](size_t i) {
    const double gib = 1.0 / (int64_t{1} << 30);
    const cuda::DeviceMemoryInfo memory = cuda::MemoryInfo(Device::Cuda(static_cast<int>(i)));
    return absl::StrFormat("%s (sm_%d%d, %d multiprocessors, %.1f GiB, %.1f free)", devices[i].name, devices[i].major,
                           devices[i].minor, devices[i].multiprocessors,
                           gib * static_cast<double>(devices[i].memory_bytes),
                           gib * static_cast<double>(memory.free_bytes));
  };
  std::string text;
  for (size_t i = 0; i < devices.size();) {
    const std::string first = words(i);
    size_t count = 1;
    while (i + count < devices.size() && words(i + count) == first) ++count;
    absl::StrAppend(&text, text.empty() ? "" : ", ", count, " x ", first);
    i += count;
  }
  return text;
}

// Which GPUs read each other's memory; without, what they send each other passes through the host.
std::string DescribePeers(int count) {
  std::string apart;
  for (int from = 0; from < count; ++from) {
    for (int to = 0; to < count; ++to) {
      if (!cuda::CanAccessPeer(from, to)) absl::StrAppend(&apart, apart.empty() ? "" : ", ", from, " to ", to);
    }
  }
  return apart.empty() ? "every GPU reads every other's memory" : "through the host: " + apart;
}

}  // namespace

std::vector<Finding> ProbeGpus() {
  const std::vector<cuda::DeviceInfo> devices = cuda::Devices();
  const cuda::Versions versions = cuda::CudaVersions();
  if (devices.empty()) {
    const bool present = access("/dev/nvidiactl", F_OK) == 0;
    const std::string why = !cuda::Built() ? "this build has no CUDA code"
                            : !present     ? "no NVIDIA driver on this machine"
                                           : cuda::WhyNoDevice();
    // A GPU that cannot be used is a fault; none is a kind of machine.
    return {{"gpu", !(present && cuda::Built()), absl::StrCat("none: ", why, "; training runs on the CPU")}};
  }
  const int count = static_cast<int>(devices.size());
  std::vector<Finding> findings = {{"gpu", true, DescribeGpus(devices)}};
  findings.push_back(
      {"driver", true,
       absl::StrCat("serves CUDA ", CudaRelease(versions.driver), "; built with ", CudaRelease(versions.built_with))});
  findings.push_back(
      ExamineLibrary("cuBLASLt", cuda::kCublasLtNames, CublasLtVersion, /*needed=*/true, "training on a GPU needs it"));
  findings.push_back(ExamineLibrary("NCCL", cuda::kNcclNames, NcclVersion, /*needed=*/count > 1,
                                    "without it ranks on several GPUs talk through the host"));
  if (count > 1) findings.push_back({"peers", true, DescribePeers(count)});
  return findings;
}

}  // namespace shardit
