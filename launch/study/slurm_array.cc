#include "launch/study/slurm_array.h"

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "launch/batch_templates.h"
#include "launch/machine/shell.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

constexpr char kSummaryMinutes[] = "30";

absl::Status Refuse(const std::string& what, const std::string& expected, const std::string& value) {
  return WithExitCode(
      absl::InvalidArgumentError(absl::StrCat("slurm: ", what, ": expected ", expected, ", got ", Quoted(value))),
      ExitCode::kUsage);
}

// A value of an #SBATCH line: nothing that ends a word there, quotes it, or is a pattern of Slurm's ("%j").
absl::Status CheckWord(const std::string& what, const std::string& value, absl::string_view also) {
  for (const char c : value) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && !absl::StrContains(also, c)) {
      return Refuse(what, absl::StrCat("letters, digits and any of ", also), value);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckNoControls(const std::string& what, const std::string& value) {
  for (const char c : value) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) return Refuse(what, "one line", value);
  }
  return absl::OkStatus();
}

absl::Status CheckArray(const SlurmArray& array) {
  const SlurmResources& r = array.resources;
  RETURN_IF_ERROR(CheckWord("name", array.job_name, "._-"));
  RETURN_IF_ERROR(CheckWord("study folder", array.folder, "._-+=,@:/~"));
  RETURN_IF_ERROR(CheckWord("time", r.time, "-:"));
  RETURN_IF_ERROR(CheckWord("partition", r.partition, "._-,"));
  RETURN_IF_ERROR(CheckWord("account", r.account, "._-"));
  RETURN_IF_ERROR(CheckWord("qos", r.qos, "._-"));
  for (const std::string& line : r.setup) RETURN_IF_ERROR(CheckNoControls("setup line", line));
  for (const std::string& word : array.command) RETURN_IF_ERROR(CheckNoControls("command", word));
  for (const std::string& word : array.summary) RETURN_IF_ERROR(CheckNoControls("command", word));
  return absl::OkStatus();
}

std::string ShellLine(const std::vector<std::string>& argv) {
  return absl::StrJoin(argv, " ", [](std::string* out, const std::string& word) { *out += ShellWord(word); });
}

// Lines of the settings that are set.
std::string Lines(const std::vector<std::pair<std::string, std::string>>& settings) {
  std::string lines;
  for (const auto& [name, value] : settings) {
    if (!value.empty() && value != "0") absl::StrAppend(&lines, "#SBATCH --", name, "=", value, "\n");
  }
  if (!lines.empty()) lines.pop_back();
  return lines;
}

// Who pays, for both jobs.
std::vector<std::pair<std::string, std::string>> Account(const SlurmResources& r) {
  return {{"partition", r.partition}, {"account", r.account}, {"qos", r.qos}};
}

std::string ArrayResources(const SlurmResources& r) {
  std::vector<std::pair<std::string, std::string>> settings = {{"nodes", absl::StrCat(r.nodes)},
                                                               {"ntasks-per-node", absl::StrCat(r.tasks_per_node)},
                                                               {"cpus-per-task", absl::StrCat(r.cpus_per_task)},
                                                               {"gpus-per-node", absl::StrCat(r.gpus_per_node)},
                                                               {"time", r.time}};
  for (const auto& setting : Account(r)) settings.push_back(setting);
  return Lines(settings);
}

struct Answer {
  int exit_code = 0;
  std::string text;  // both outputs
};

Answer Ask(const std::string& command) {
  std::FILE* pipe = popen((command + " 2>&1 </dev/null").c_str(), "r");
  if (pipe == nullptr) return {127, "no shell"};
  Answer answer;
  std::array<char, 4096> part;
  while (const size_t got = std::fread(part.data(), 1, part.size(), pipe)) answer.text.append(part.data(), got);
  const int status = pclose(pipe);
  answer.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  return answer;
}

// Writes the script and submits it; the job's id.
absl::StatusOr<std::string> Submit(const std::string& path, const std::string& script) {
  RETURN_IF_ERROR(AtomicWriteFile(PosixFileSystem(), path, script));
  const Answer answer = Ask(absl::StrCat("timeout 60 sbatch --parsable ", ShellWord(path)));
  // "123", or "123;cluster"; warnings may stand before it.
  const std::vector<std::string> lines = absl::StrSplit(answer.text, '\n', absl::SkipWhitespace());
  const std::string last = lines.empty() ? "" : lines.back();
  const std::string id = std::vector<std::string>(absl::StrSplit(last, ';')).front();
  int64_t number = 0;
  if (answer.exit_code == 0 && absl::SimpleAtoi(id, &number) && number > 0) return absl::StrCat(number);
  return WithExitCode(absl::UnavailableError(absl::StrCat(
                          "sbatch did not take ", Quoted(path), ": exit ", answer.exit_code, ", ", Quoted(last),
                          answer.exit_code == 127 ? "; is Slurm installed? --launcher local needs none" : "")),
                      ExitCode::kIo);
}

}  // namespace

std::string ArraySpec(const std::vector<int64_t>& indices, int64_t max_running) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < indices.size();) {
    size_t end = begin + 1;
    while (end < indices.size() && indices[end] == indices[end - 1] + 1) ++end;
    parts.push_back(end - begin == 1 ? absl::StrCat(indices[begin])
                                     : absl::StrCat(indices[begin], "-", indices[end - 1]));
    begin = end;
  }
  return absl::StrCat(absl::StrJoin(parts, ","), max_running > 0 ? absl::StrCat("%", max_running) : "");
}

absl::StatusOr<std::string> ArrayScript(const SlurmArray& array) {
  RETURN_IF_ERROR(CheckArray(array));
  return absl::StrReplaceAll(kSweepBatch,
                             {{"@JOB_NAME@", array.job_name},
                              {"@ARRAY@", ArraySpec(array.indices, array.resources.max_running)},
                              {"@LOG@", JoinPath(array.folder, "%A_%a.log")},
                              {"@SIGNAL_SECONDS@", absl::StrCat(array.resources.signal_seconds)},
                              {"@RESOURCE_LINES@", ArrayResources(array.resources)},
                              {"@SETUP_LINES@", absl::StrJoin(array.resources.setup, "\n")},
                              {"@COMMAND@", absl::StrCat(ShellLine(array.command), " \"$SLURM_ARRAY_TASK_ID\"")}});
}

absl::StatusOr<std::string> SummaryScript(const SlurmArray& array, const std::string& array_job) {
  RETURN_IF_ERROR(CheckArray(array));
  RETURN_IF_ERROR(CheckWord("job id", array_job, "_:"));
  std::vector<std::pair<std::string, std::string>> settings = Account(array.resources);
  settings.push_back({"time", kSummaryMinutes});
  return absl::StrReplaceAll(kSummaryBatch, {{"@JOB_NAME@", array.job_name + "-summary"},
                                             {"@DEPENDENCY@", "afterany:" + array_job},
                                             {"@ARRAY_JOBS@", absl::StrReplaceAll(array_job, {{":", ","}})},
                                             {"@LOG@", JoinPath(array.folder, "%j_summary.log")},
                                             {"@RESOURCE_LINES@", Lines(settings)},
                                             {"@SETUP_LINES@", absl::StrJoin(array.resources.setup, "\n")},
                                             {"@COMMAND@", ShellLine(array.summary)}});
}

absl::StatusOr<SubmittedStudy> SubmitArray(const SlurmArray& array, const std::string& stem) {
  SubmittedStudy submitted;
  RETURN_IF_ERROR(MakeFolders(PosixFileSystem(), array.folder));
  ASSIGN_OR_RETURN(const std::string script, ArrayScript(array));
  ASSIGN_OR_RETURN(submitted.array_job, Submit(JoinPath(array.folder, stem + ".sbatch"), script));
  if (array.summary.empty()) return submitted;
  ASSIGN_OR_RETURN(submitted.summary_job, SubmitSummary(array, submitted.array_job, stem));
  return submitted;
}

absl::StatusOr<std::string> SubmitSummary(const SlurmArray& array, const std::string& array_jobs,
                                          const std::string& stem) {
  ASSIGN_OR_RETURN(const std::string script, SummaryScript(array, array_jobs));
  return Submit(JoinPath(array.folder, stem + "_summary.sbatch"), script);
}

}  // namespace shardit
