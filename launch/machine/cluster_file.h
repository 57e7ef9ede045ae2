// Reads a machine description (configs/cluster.proto, text format) for the planner.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "trainer/plan/cluster_figures.h"
#include "trainer/run_config/options.h"

namespace shardit {

// InvalidArgument (exit code 64) with file, field, expectation and value.
absl::StatusOr<ClusterFigures> LoadCluster(const std::string& path, Precision precision);

}  // namespace shardit
