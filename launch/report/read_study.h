// Finds the studies of a folder and reads what a report needs of them.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "launch/report/study.h"

namespace shardit {

// Reads the sweep and the scaling study that lie in `folder`, and in each of its subfolders (one level). A sweep is
// collected anew from its runs where its description (sweep.textproto) is there, else read from results.json; a scaling
// study is scaling.json. Loss curves and pictures are looked for where the documents say and in the runs' own folders,
// and read only where they lie below the study with every link followed. A document that cannot be used is a problem of
// the study, not an error, unless there is nothing else. NotFound (exit code 65) where there is no study.
absl::StatusOr<Study> ReadStudy(const std::string& folder);

}  // namespace shardit
