// Whether a file can be written, asked before the hours of work that are for it.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace shardit {

// OK where a file can be made or replaced at `path`: its folder is there, entries can be made in it, and `path` itself
// is no folder. Else an error with exit code 73. Writes nothing, so a full disk is not noticed.
absl::Status CheckOutputPath(const std::string& path);

}  // namespace shardit
