#include "launch/study/sweep_state.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "launch/json/json.h"
#include "launch/study/hash_cache.h"
#include "trainer/checkpoint/checkpoint_names.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/evaluate/image_source.h"
#include "trainer/extractor/file_hash.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/run_config/text_scan.h"

namespace shardit {
namespace {

// Ok where a run with the configuration `saved` is this run. A text that does not parse tells nothing, and is left to
// the trainer, which reads it too.
absl::Status CheckSameRun(const std::string& folder, const std::string& saved, const SweepRun& run) {
  const absl::StatusOr<ConfigDiff> diff = DiffRunConfigs(saved, run.config.text);
  if (!diff.ok()) return absl::OkStatus();
  std::vector<std::string> differences = diff->frozen;
  differences.insert(differences.end(), diff->reported.begin(), diff->reported.end());
  for (const std::string& line : diff->free) {
    const bool bends_schedule = run.config.options.optimizer.schedule != LearningRateSchedule::kConstant;
    if (bends_schedule && absl::StartsWith(line, "train.steps:")) differences.push_back(line);
  }
  if (differences.empty()) return absl::OkStatus();
  return WithExitCode(absl::InvalidArgumentError(absl::StrCat(
                          Quoted(folder), " holds another run than ", run.name, ": ", absl::StrJoin(differences, ", "),
                          " (there -> here); give another out, or move that folder away")),
                      ExitCode::kUsage);
}

bool IsNumber(const Json& object, const char* key, double expected) { return NumberField(object, key) == expected; }

bool IsText(const Json& object, const char* key, const std::string& expected) {
  return Member(object, key) == Json(expected);
}

// Extractors and references may have gigabytes, and every scored step of every run is compared with them after every
// task.
absl::StatusOr<std::string> FileHash(const std::string& path) {
  static HashCache* const cache = new HashCache(Sha256OfFile);
  return cache->Of(path);
}

absl::StatusOr<std::string> ImagesHash(const std::string& path) {
  static HashCache* const cache = new HashCache(ImageSourceSha256);
  return cache->Of(path);
}

// A file's hash, where both are there to be compared.
bool IsHash(const Json& object, const char* key, const std::string& path) {
  const absl::StatusOr<std::string> hash = FileHash(path);
  return !hash.ok() || IsText(object, key, *hash);
}

// By content, so that a file replaced in place is another reference; by name where it is no longer there.
bool IsReference(const Json& object, const std::string& path) {
  const absl::StatusOr<std::string> hash = ImagesHash(path);
  return hash.ok() ? IsText(object, "sha256", *hash) : IsText(object, "path", path);
}

}  // namespace

absl::StatusOr<bool> TrainingIsDone(const SweepStudy& sweep, const SweepRun& run, bool to_the_last_byte) {
  const std::string folder = sweep.RunPath(run);
  const int64_t last = run.config.options.train.steps;
  const absl::StatusOr<CheckpointReader> reader = CheckpointReader::Open(sweep.CheckpointPath(run, last));
  if (reader.ok() && reader->state().step == last) {
    RETURN_IF_ERROR(CheckSameRun(folder, reader->state().config_text, run));
    return !to_the_last_byte || reader->Verify().empty();
  }
  const auto config = ReadWholeFile(JoinPath(folder, "config.textproto"), kMaxConfigBytes);
  if (config.ok()) RETURN_IF_ERROR(CheckSameRun(folder, *config, run));
  return false;
}

int64_t NewestStep(const SweepStudy& sweep, const SweepRun& run) {
  const auto checkpoints = ListCheckpoints(JoinPath(sweep.RunPath(run), "checkpoints"));
  return checkpoints.ok() && !checkpoints->empty() ? checkpoints->back().step : 0;
}

std::optional<Json> FindScores(const SweepStudy& sweep, const SweepRun& run, int64_t step) {
  std::optional<Json> document = ReadJson(sweep.EvaluationPath(run, step, ".json"));
  if (!document.has_value() || !sweep.evaluation.has_value()) return std::nullopt;
  const SweepEvaluation& asked = *sweep.evaluation;
  const Json& samples = Member(*document, "samples");
  const bool same_samples =
      IsNumber(*document, "n", static_cast<double>(asked.samples)) && IsText(samples, "sampler", asked.sampler) &&
      IsNumber(samples, "steps", static_cast<double>(asked.steps)) && IsNumber(samples, "cfg_scale", asked.cfg_scale) &&
      IsNumber(samples, "cfg_channels", static_cast<double>(asked.cfg_channels)) &&
      IsNumber(samples, "seed", static_cast<double>(asked.seed)) && IsText(samples, "weights", asked.weights) &&
      IsNumber(samples, "step", static_cast<double>(step)) &&
      IsHash(samples, "sha256", JoinPath(sweep.CheckpointPath(run, step), std::string(kManifestFile)));
  const bool same_measure = IsNumber(*document, "bootstrap", static_cast<double>(asked.bootstrap)) &&
                            IsReference(Member(*document, "reference"), asked.reference) &&
                            IsHash(Member(*document, "extractor"), "sha256", asked.extractor);
  return same_samples && same_measure ? document : std::nullopt;
}

absl::StatusOr<bool> RunIsDone(const SweepStudy& sweep, const SweepRun& run) {
  ASSIGN_OR_RETURN(const bool trained, TrainingIsDone(sweep, run, false));
  if (!trained) return false;
  for (const int64_t step : run.evaluated) {
    if (!FindScores(sweep, run, step).has_value()) return false;
  }
  return true;
}

}  // namespace shardit
