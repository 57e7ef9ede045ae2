// Bootstrap intervals (Efron, 1979): how far a score would move if other samples were drawn from the same generator.
// They cover that sampling noise and nothing else: neither the reference, which stays fixed, nor the extractor, nor the
// bias of the Frechet distance (see frechet.h) and of the Inception Score in the number of samples.
//
// A resample draws as many samples as there are, with replacement. Draw j of replicate r is a pure function of (seed,
// r, j): any rank computes any replicate, and the set of all of them does not depend on who computed which.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/math.h"
#include "trainer/evaluate/feature_rows.h"
#include "trainer/evaluate/frechet.h"

namespace shardit {

// How often each sample of a range is drawn, within the range, in replicate `replicate`: samples.size() numbers (>= 1)
// whose sum is samples.size().
std::vector<uint32_t> ResampleCounts(uint64_t seed, int64_t replicate, Range samples);

// The Frechet distance between the reference and each replicate of a range, in their order; ranks take ranges and
// concatenate. `rows` needs two rows. A replicate costs count dim^2 + some 10 dim^3 flops.
absl::StatusOr<std::vector<double>> BootstrapFrechet(const FeatureRows& rows, const FrechetReference& reference,
                                                     uint64_t seed, Range replicates);

// The mean of each replicate of the indicators (0 or 1), as for precision and recall. At least one.
std::vector<double> BootstrapFractions(std::span<const uint8_t> indicators, uint64_t seed, Range replicates);

struct Interval {
  double low = 0.0, high = 0.0;
};

// 95 %: the 2.5 and 97.5 percentiles (linearly interpolated) of the replicates, moved so that the replicates' mean lies
// on the estimate, and cut to [lowest, highest]. Moved, because a resample holds only 0.63 as many different samples:
// its score carries the bias in their number a second time, and for the Frechet distance of fewer samples than dims
// the estimate itself would lie outside. At least one replicate (CHECK).
Interval BootstrapInterval(double estimate, std::vector<double> replicates, double lowest, double highest);

}  // namespace shardit
