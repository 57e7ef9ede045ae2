// Statistics of a reference set as other programs store them: an .npz with `mu` [d] and `sigma` [d, d], and in ADM's
// files also `mu_s` and `sigma_s` of the spatial features that sFID uses. Any numeric type is read; fp64 is written.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/file.h"
#include "trainer/evaluate/moments.h"

namespace shardit {

// No extractor in use has more dims; what a file may make us allocate is bounded by it (512 MiB a matrix).
inline constexpr int64_t kMaxStatisticsDim = 8192;

struct ReferenceStatistics {
  Gaussian features;
  std::optional<Gaussian> spatial;
};

// Whether the archive holds `mu` and `sigma`; other archives are sample sets. Errors as NpzReader::Open.
absl::StatusOr<bool> HoldsStatistics(const std::string& path);

// Refuses, naming file and array: wrong shapes or dims above kMaxStatisticsDim, damage (the archive's checksums),
// numbers that are not finite, a negative variance, and asymmetry above 1e-4 of the largest variance (fp32 rounding is
// below; the two triangles are averaged). NotFound where an array is missing.
absl::StatusOr<ReferenceStatistics> ReadStatisticsFile(const std::string& path);

// Atomic: the file appears whole or not at all.
absl::Status WriteStatisticsFile(FileSystem& fs, const std::string& path, const ReferenceStatistics& statistics);

}  // namespace shardit
