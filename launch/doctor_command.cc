// shardit doctor: what works on this machine, and the line that starts several ranks on it.
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "launch/build_info.h"
#include "launch/command_line.h"
#include "nlohmann/json.hpp"

namespace shardit {
namespace {

struct Finding {
  std::string name;
  bool good = true;
  std::string detail;
};

constexpr char kProbeAnswer[] = "shardit probe: 2 ranks";

std::string OwnPath() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  return length > 0 ? std::string(path, static_cast<size_t>(length)) : "shardit";
}

// A path as one word of a shell command.
std::string ShellWord(const std::string& text) {
  std::string word = "'";
  for (const char c : text) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return word + "'";
}

// Whether the launch line starts two ranks that find each other.
bool Works(const std::string& launcher) {
  const std::string command =
      absl::StrCat("timeout 60 ", launcher, " -n 2 ", ShellWord(OwnPath()), " doctor --probe 2>/dev/null");
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return false;
  std::string answer;
  char part[256];
  while (std::fgets(part, sizeof(part), pipe) != nullptr) answer += part;
  return pclose(pipe) == 0 && answer.find(kProbeAnswer) != std::string::npos;
}

Finding FindLaunchLine(int world_size) {
  if (world_size > 1) return {"ranks", true, absl::StrCat(world_size, " ranks of this launch line found each other")};
  for (const char* line : {"mpirun", "mpirun --oversubscribe --bind-to none",
                           "mpirun --allow-run-as-root --oversubscribe --bind-to none"}) {
    if (Works(line)) return {"ranks", true, absl::StrCat(line, " -n 2 shardit train ...")};
  }
  return {"ranks", false, "no launch line started two ranks; is openmpi-bin installed? try: mpirun -n 2 hostname"};
}

std::string InstructionSet() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return "AVX-512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "AVX2";
  return "baseline: an AVX2 processor is several times as fast";
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
  const bool gpu = access("/dev/nvidia0", F_OK) == 0;
  findings.push_back({"devices", true, absl::StrCat(gpu ? "a GPU is present; " : "", "this build trains on the CPU")});
  const absl::StatusOr<int64_t> free_bytes = FreeBytes(".");
  const bool writable = access(".", W_OK) == 0;
  findings.push_back({"folder", writable && free_bytes.ok(),
                      !free_bytes.ok() ? std::string(free_bytes.status().message())
                                       : absl::StrCat(writable ? "writable, " : "not writable, ", *free_bytes >> 20,
                                                      " MiB free in the current folder")});
  findings.push_back(FindLaunchLine(world_size));
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
