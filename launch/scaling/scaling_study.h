// A scaling study: what its text says, and the points that it stands for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launch/study/launch_options.h"
#include "launch/study/slurm_array.h"
#include "trainer/run_config/run_config.h"

namespace shardit {

// One world of one series. Its folder, <study>/points/<name>, is a run folder.
struct SeriesPoint {
  std::string name;  // <series>-w<world>
  std::string series;
  bool weak = false;
  int64_t world = 1;
  int64_t smallest_world = 1;  // of the series: what efficiency is against
  ResolvedConfig config;       // for that world; every step is logged, nothing is validated or drawn
};

struct ScalingStudy {
  std::string name;
  std::string out;      // the study's folder
  std::string cluster;  // machine description; empty: this machine
  int64_t warmup_steps = 0, steps = 0;
  std::vector<SeriesPoint> points;
  LaunchOptions launch;
  SlurmResources slurm;  // `nodes` is not said: NodesOf
  std::string text;      // the study with every file it names merged in: needs nothing else, says the same
};

// Reads and checks everything: every point's layout fits its world. InvalidArgument (exit code 64) names file, series
// and field.
absl::StatusOr<ScalingStudy> LoadScaling(const std::string& path);

// Nodes that a point fills under Slurm; 0 where the study does not say how many ranks a node takes.
int64_t NodesOf(const ScalingStudy& study, const SeriesPoint& point);

std::string PointFolder(const ScalingStudy& study, const SeriesPoint& point);

}  // namespace shardit
