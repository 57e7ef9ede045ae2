// Taking a step's name from a folder that must be kept: "0000400" becomes "0000400.aside-1", which nothing here reads,
// replaces or removes. It stays a checkpoint: renamed back, it counts again.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/file.h"

namespace shardit {

// Renames the folder of `step` to the first such name that is free, and returns its path. Not yet durable.
absl::StatusOr<std::string> SetAside(FileSystem& fs, const std::string& checkpoints, int64_t step);

// All folders of steps after `step`, durably, good or bad: what they hold is no longer ahead of the run. Returns their
// paths.
absl::StatusOr<std::vector<std::string>> SetAsideNewer(FileSystem& fs, const std::string& checkpoints, int64_t step);

}  // namespace shardit
