// shardit doctor: what works on this machine, and the line that starts several ranks on it.
#include <sys/sysinfo.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "launch/build_info.h"
#include "launch/command_line.h"
#include "launch/json/json.h"
#include "launch/machine/probes.h"

namespace shardit {
namespace {

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
  for (std::vector<Finding> more : {ProbeGpus(), ProbeFolder("."), ProbeLaunch(world_size)}) {
    findings.insert(findings.end(), more.begin(), more.end());
  }
  return findings;
}

absl::Status Report(bool json, int world_size) {
  const std::vector<Finding> findings = Examine(world_size);
  Json rows = Json::array();
  std::string text;
  bool all_good = true;
  for (const Finding& finding : findings) {
    all_good = all_good && finding.good;
    rows.push_back({{"name", finding.name}, {"good", finding.good}, {"detail", finding.detail}});
    absl::StrAppend(&text, text.empty() ? "" : "\n", finding.good ? "ok   " : "BAD  ", finding.name,
                    std::string(10 - finding.name.size(), ' '), finding.detail);
  }
  const absl::Status printed = Print(json ? JsonText(rows) : text);
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
