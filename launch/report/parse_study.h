// The documents of studies (docs/formats.md) as structures. What a document lacks is absent in the result: a study that
// is half done, or of another version, still makes a report.
#pragma once

#include "launch/report/json_fields.h"
#include "launch/report/study.h"

namespace shardit {

// Without loss curves and pictures, which lie in other files. `grids` gets the path of each evaluation's picture as the
// document states it ("" where none), in the order of runs and evaluations.
Sweep ParseSweep(const Json& document, std::vector<std::vector<std::string>>* grids);
Scaling ParseScaling(const Json& document);

// metrics.jsonl: images seen and loss of every row; lines that are no such row (a torn end) are passed over.
LossCurve ParseLossCurve(const std::string& jsonl);

}  // namespace shardit
