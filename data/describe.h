// What `data info` and `data verify` report.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/latent_file.h"

namespace shardit {

struct DataInfo {
  std::vector<LatentFileInfo> files;  // in name order
  int64_t count = 0;                  // samples over all files
  LatentShape shape;
  int64_t classes = 0;                // as the files state it; 0: none does
  int64_t max_label = 0;              // the largest label that occurs
  std::vector<int64_t> class_counts;  // samples by class: `classes` entries, or max_label + 1 where classes is 0
  uint64_t fingerprint = 0;           // Dataset::Fingerprint
};

// Opens and checks the files of a path or pattern and reads labels and attributes, not the samples.
absl::StatusOr<DataInfo> DescribeData(const std::string& path);

// Reads everything: what Open checks, and that every stored value is finite and every standard deviation is not
// negative. The error names the first sample that breaks the rule. Bounded memory (16 MiB and the cache of
// chunks).
absl::Status VerifyData(const std::string& path);

// Names for reports: "float32", "moments", "contiguous".
const char* TypeName(LatentType type);
const char* KindName(LatentKind kind);
const char* LayoutName(LatentLayout layout);

}  // namespace shardit
