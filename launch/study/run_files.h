// What a study reads in run folders that may be half written, damaged or gone: everything that can be read, nothing
// that cannot.
#pragma once

#include <string>
#include <vector>

#include "launch/json/json.h"

namespace shardit {

// The rows of metrics.jsonl in order of their steps; damaged lines, and what follows the first 256 MiB, are left out.
std::vector<Json> ReadMetrics(const std::string& run_folder);

}  // namespace shardit
