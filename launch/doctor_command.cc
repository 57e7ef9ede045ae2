// shardit doctor: what works on this machine, and the line that starts several ranks on it.
#include <sys/sysinfo.h>
#include <unistd.h>

#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/file.h"
#include "core/cuda/device_query.h"
#include "core/cuda/shared_library.h"
#include "core/tensor/device_memory.h"
#include "launch/build_info.h"
#include "launch/command_line.h"
#include "launch/machine/launch_line.h"
#include "nlohmann/json.hpp"

namespace shardit {
namespace {

struct Finding {
  std::string name;
  bool good = true;
  std::string detail;
};

Finding ExamineRanks(int world_size) {
  if (world_size > 1) return {"ranks", true, absl::StrCat(world_size, " ranks of this launch line found each other")};
  const absl::StatusOr<std::string> line = FindLaunchLine(2);
  if (!line.ok()) return {"ranks", false, std::string(line.status().message())};
  return {"ranks", true, absl::StrCat(*line, " -n 2 shardit train ...")};
}

std::string InstructionSet() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return "AVX-512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "AVX2";
  return "baseline: an AVX2 processor is several times as fast";
}

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

// One line where there is no GPU.
void ExamineGpus(std::vector<Finding>& findings) {
  const std::vector<cuda::DeviceInfo> devices = cuda::Devices();
  const cuda::Versions versions = cuda::CudaVersions();
  if (devices.empty()) {
    const bool present = access("/dev/nvidiactl", F_OK) == 0;
    const std::string why = !cuda::Built() ? "this build has no CUDA code"
                            : !present     ? "no NVIDIA driver on this machine"
                                           : cuda::WhyNoDevice();
    // A GPU that cannot be used is a fault; none is a kind of machine.
    findings.push_back({"gpu", !(present && cuda::Built()), absl::StrCat("none: ", why, "; training runs on the CPU")});
    return;
  }
  const int count = static_cast<int>(devices.size());
  findings.push_back({"gpu", true, DescribeGpus(devices)});
  findings.push_back(
      {"driver", true,
       absl::StrCat("serves CUDA ", CudaRelease(versions.driver), "; built with ", CudaRelease(versions.built_with))});
  findings.push_back(
      ExamineLibrary("cuBLASLt", cuda::kCublasLtNames, CublasLtVersion, /*needed=*/true, "training on a GPU needs it"));
  findings.push_back(ExamineLibrary("NCCL", cuda::kNcclNames, NcclVersion, /*needed=*/count > 1,
                                    "without it ranks on several GPUs talk through the host"));
  if (count > 1) findings.push_back({"peers", true, DescribePeers(count)});
}

std::vector<Finding> Examine(int world_size) {
  std::vector<Finding> findings;
  std::string version = kVersionText;
  for (char& c : version) {
    if (c == '\n') c = ',';
  }
  findings.push_back({"program", true, version});
  findings.push_back({"cores", true, absl::StrCat(std::thread::hardware_concurrency(), ", ", InstructionSet())});
  struct sysinfo memory = {};
  sysinfo(&memory);
  const uint64_t mib = (static_cast<uint64_t>(memory.totalram) * memory.mem_unit) >> 20;
  findings.push_back({"memory", true, absl::StrCat(mib, " MiB")});
  ExamineGpus(findings);
  const absl::StatusOr<int64_t> free_bytes = FreeBytes(".");
  const bool writable = access(".", W_OK) == 0;
  findings.push_back({"folder", writable && free_bytes.ok(),
                      !free_bytes.ok() ? std::string(free_bytes.status().message())
                                       : absl::StrCat(writable ? "writable, " : "not writable, ", *free_bytes >> 20,
                                                      " MiB free in the current folder")});
  findings.push_back(ExamineRanks(world_size));
  return findings;
}

absl::Status Report(bool json, int world_size) {
  const std::vector<Finding> findings = Examine(world_size);
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  std::string text;
  bool all_good = true;
  for (const Finding& finding : findings) {
    all_good = all_good && finding.good;
    rows.push_back({{"name", finding.name}, {"good", finding.good}, {"detail", finding.detail}});
    absl::StrAppend(&text, text.empty() ? "" : "\n", finding.good ? "ok   " : "BAD  ", finding.name,
                    std::string(10 - finding.name.size(), ' '), finding.detail);
  }
  const absl::Status printed = Print(json ? rows.dump(2) : text);
  if (!printed.ok() || all_good) return printed;
  return absl::UnavailableError("doctor: something does not work on this machine; see the lines marked BAD");
}

}  // namespace

void AddDoctorCommand(CommandLine& line) {
  struct Flags {
    bool json = false, probe = false;
  };
  CLI::App* command = line.Add("doctor", "Say what works on this machine", "shardit doctor");
  auto* flags = line.Keep<Flags>();
  command->add_flag("--json", flags->json, "Print one JSON array");
  command->add_flag("--probe", flags->probe, "Only start and meet the other ranks");
  line.OnEveryRank(command, [flags](World& world) -> absl::Status {
    world.comm().Barrier({.tag = "doctor", .control = true}).Wait();
    if (flags->probe) {
      return world.rank() == 0 ? Print(absl::StrCat("shardit probe: ", world.size(), " ranks")) : absl::OkStatus();
    }
    return world.rank() == 0 ? Report(flags->json, world.size()) : absl::OkStatus();
  });
}

}  // namespace shardit
