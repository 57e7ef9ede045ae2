// A sweep: what its text (configs/sweep.proto) says, and the runs that it stands for. Pure but for reading the files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launch/study/launch_options.h"
#include "launch/study/slurm_array.h"
#include "trainer/run_config/run_config.h"

namespace shardit {

// The sweep's own copy of its text, in its folder.
inline constexpr char kSweepFile[] = "sweep.textproto";

struct SweepRun {
  int64_t index = 0;  // in the sweep: the element of a job array
  std::string name;   // "<model>-p<patch>-<conditioning>-s<seed>": complete, so the same run has the same name for ever
  std::string model;
  ResolvedConfig config;           // for launch.ranks ranks
  std::string text;                // the run description as `train` gets it
  std::vector<int64_t> evaluated;  // steps that are scored, ascending; none where nothing is scored
};

// How every run is scored: the flags of `evaluate`.
struct SweepEvaluation {
  int64_t samples = 0;
  std::string sampler;  // "ddpm" or "ddim"
  int64_t steps = 0;
  double cfg_scale = 1;
  int64_t cfg_channels = 3;
  int64_t seed = 0;
  std::string weights;  // "ema" or "model"
  std::string extractor, reference;
  std::vector<std::string> metrics;  // none: all
  int64_t bootstrap = 0;
};

struct SweepBudget {
  int64_t images = 0;  // each 0 where it is not what was given
  double train_gflops = 0;
};

struct SweepStudy {
  std::string name;
  std::string folder;
  std::string cluster;  // machine description; empty: this machine
  SweepBudget budget;
  std::optional<SweepEvaluation> evaluation;
  LaunchOptions launch;
  SlurmResources slurm;  // tasks_per_node is always said
  std::vector<SweepRun> runs;
  std::string text;  // with every file it names merged in: needs nothing else, says the same

  std::string RunPath(const SweepRun& run) const;     // the run folder
  std::string ConfigPath(const SweepRun& run) const;  // what `train` reads
  std::string CheckpointPath(const SweepRun& run, int64_t step) const;
  // "<run>/evaluation/0001600" + ending: ".json" the scores, ".png" the grid.
  std::string EvaluationPath(const SweepRun& run, int64_t step, const std::string& ending) const;
};

// Reads, merges, applies `sets` ("launch.ranks=2", "run.train.steps=100") and checks everything that can be checked
// before a run begins: names, every run's configuration, what is scored. InvalidArgument (exit code 64) names file, run
// and field.
absl::StatusOr<SweepStudy> LoadSweep(const std::string& path, const std::vector<std::string>& sets);

// The same for the description that a study's folder holds, which has no base files: they are merged into it, and a
// folder from elsewhere is not to name files beyond it.
absl::StatusOr<SweepStudy> LoadStoredSweep(const std::string& path);

// The same for one text, `name` standing for its file in errors.
absl::StatusOr<SweepStudy> ParseSweepText(const std::string& text, const std::string& name,
                                          const std::vector<std::string>& sets = {});

}  // namespace shardit
