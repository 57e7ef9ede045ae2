#include "launch/study/sweep_tasks.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "launch/machine/shell.h"
#include "launch/study/sweep_state.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/run_config/text_scan.h"

namespace shardit {
namespace {

std::vector<std::string> Join(std::vector<std::string> words, const std::vector<std::string>& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

std::string FormatNumber(double value) {
  char text[64];
  return std::string(text, std::to_chars(text, text + sizeof(text), value).ptr);
}

// Features of every evaluation of the study: those of the reference are extracted once.
std::string FeatureFolder(const SweepStudy& sweep) { return JoinPath(sweep.folder, "features"); }

// Files in the feature folder, over all sets: grows while an evaluation gets on.
int64_t CountFeatureFiles(const SweepStudy& sweep) {
  int64_t count = 0;
  const absl::StatusOr<std::vector<FolderEntry>> sets = ListFolder(FeatureFolder(sweep));
  if (!sets.ok()) return 0;
  for (const FolderEntry& set : *sets) {
    const auto files = ListFolder(JoinPath(FeatureFolder(sweep), set.name));
    if (files.ok()) count += static_cast<int64_t>(files->size());
  }
  return count;
}

std::vector<std::string> TrainWords(const SweepStudy& sweep, const SweepRun& run) {
  std::vector<std::string> words = {OwnPath(), "train", "--config", sweep.ConfigPath(run), "--out", sweep.RunPath(run)};
  if (sweep.launch.threads > 0) {
    words.insert(words.end(), {"--set", absl::StrCat("train.threads=", sweep.launch.threads)});
  }
  return words;
}

std::vector<std::string> EvaluateWords(const SweepStudy& sweep, const SweepRun& run, int64_t step) {
  const SweepEvaluation& asked = *sweep.evaluation;
  std::vector<std::string> words = {OwnPath(),        "evaluate",
                                    "--samples",      sweep.CheckpointPath(run, step),
                                    "--reference",    asked.reference,
                                    "--extractor",    asked.extractor,
                                    "--num",          absl::StrCat(asked.samples),
                                    "--sampler",      asked.sampler,
                                    "--steps",        absl::StrCat(asked.steps),
                                    "--cfg-scale",    FormatNumber(asked.cfg_scale),
                                    "--cfg-channels", absl::StrCat(asked.cfg_channels),
                                    "--seed",         absl::StrCat(asked.seed),
                                    "--weights",      asked.weights,
                                    "--bootstrap",    absl::StrCat(asked.bootstrap),
                                    "--work",         FeatureFolder(sweep),
                                    "--out",          sweep.EvaluationPath(run, step, ".json"),
                                    "--grid",         sweep.EvaluationPath(run, step, ".png")};
  if (!asked.metrics.empty()) words.insert(words.end(), {"--metrics", absl::StrJoin(asked.metrics, ",")});
  if (sweep.launch.threads > 0) words.insert(words.end(), {"--threads", absl::StrCat(sweep.launch.threads)});
  return words;
}

bool IsScored(const SweepStudy& sweep, const SweepRun& run) {
  return std::all_of(run.evaluated.begin(), run.evaluated.end(),
                     [&](int64_t step) { return FindScores(sweep, run, step).has_value(); });
}

// A checkpoint that is yet to be scored is read to the last byte here: training replaces one that is damaged, an
// evaluation could only fail.
Stage TrainStage(const SweepStudy& sweep, const SweepRun& run, const std::vector<std::string>& launch) {
  return {.name = "train",
          .argv = Join(launch, TrainWords(sweep, run)),
          .done = [&sweep, &run] { return TrainingIsDone(sweep, run, !IsScored(sweep, run)); },
          .progress = [&sweep, &run] { return NewestStep(sweep, run); }};
}

Stage EvaluateStage(const SweepStudy& sweep, const SweepRun& run, int64_t step,
                    const std::vector<std::string>& launch) {
  const auto done = [&sweep, &run, step]() -> absl::StatusOr<bool> {
    if (FindScores(sweep, run, step).has_value()) return true;
    RETURN_IF_ERROR(MakeFolders(PosixFileSystem(), ParentFolder(sweep.EvaluationPath(run, step, ".json"))));
    if (KindOfPath(sweep.CheckpointPath(run, step)) == PathKind::kFolder) return false;
    return absl::FailedPreconditionError(
        absl::StrCat(run.name, ": step ", step, " is to be scored, but its checkpoint was not kept; remove the run's ",
                     "folder to train it again, or leave that step out"));
  };
  return {.name = absl::StrCat("evaluate step ", step),
          .argv = Join(launch, EvaluateWords(sweep, run, step)),
          .done = done,
          .progress = [&sweep] { return CountFeatureFiles(sweep); }};
}

}  // namespace

Task MakeTask(const SweepStudy& sweep, const SweepRun& run, const std::vector<std::string>& launch) {
  Task task{.name = run.name, .index = run.index, .folder = sweep.RunPath(run)};
  task.stages.push_back(TrainStage(sweep, run, launch));
  for (const int64_t step : run.evaluated) task.stages.push_back(EvaluateStage(sweep, run, step, launch));
  return task;
}

absl::Status WriteSweepFiles(const SweepStudy& sweep) {
  FileSystem& fs = PosixFileSystem();
  const std::string path = JoinPath(sweep.folder, kSweepFile);
  if (KindOfPath(path) == PathKind::kFile) {
    const absl::StatusOr<SweepStudy> known = LoadStoredSweep(path);
    if (known.ok() && known->name != sweep.name) {
      return WithExitCode(
          absl::FailedPreconditionError(absl::StrCat(Quoted(sweep.folder), " holds the study ", Quoted(known->name),
                                                     ", not ", Quoted(sweep.name), "; give another out")),
          ExitCode::kUsage);
    }
  }
  RETURN_IF_ERROR(MakeFolders(fs, JoinPath(sweep.folder, "configs")));
  for (const SweepRun& run : sweep.runs) RETURN_IF_ERROR(AtomicWriteFile(fs, sweep.ConfigPath(run), run.text));
  return AtomicWriteFile(fs, path, sweep.text);
}

absl::Status CheckScoreFiles(const SweepStudy& sweep) {
  if (!sweep.evaluation.has_value()) return absl::OkStatus();
  for (const std::string& path : {sweep.evaluation->reference, sweep.evaluation->extractor}) {
    const absl::StatusOr<RandomAccessFile> file = RandomAccessFile::Open(path);
    if (!file.ok()) {
      return WithExitCode(
          absl::InvalidArgumentError(absl::StrCat("evaluation: ", std::string(file.status().message()))),
          ExitCode::kUsage);
    }
  }
  return absl::OkStatus();
}

}  // namespace shardit
