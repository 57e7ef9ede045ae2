// Which committed checkpoints to remove, as a pure function, and the removal itself.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/file.h"

namespace shardit {

struct Retention {
  int64_t keep_last = 0;   // the newest k; 0 keeps all
  int64_t keep_every = 0;  // besides those, every step that n divides; 0 = none
};

// `steps`: committed steps up to and including `newest`, all of which open, ascending. `newest` itself has been
// verified to the last byte and is never in the result, so at least one verified checkpoint remains.
std::vector<int64_t> StepsToRemove(std::span<const int64_t> steps, int64_t newest, const Retention& retention);

// Applies the rule to the folders of run `run_id` in `checkpoints`. Folders that do not open, belong to another run or
// are newer than `newest` are neither counted nor touched. A folder first gets a temporary name, durably, and is
// emptied then: a crash never leaves half of one under a committed name. Of a link, the link is removed. Returns the
// removed steps.
absl::StatusOr<std::vector<int64_t>> ApplyRetention(FileSystem& fs, const std::string& checkpoints,
                                                    const std::string& run_id, const std::string& attempt,
                                                    int64_t newest, const Retention& retention);

// Removes the temporary folders of run `run_id` (any attempt), unfinished replacements of `latest`, and nothing else.
absl::Status RemoveTempFolders(FileSystem& fs, const std::string& checkpoints, const std::string& run_id);

}  // namespace shardit
