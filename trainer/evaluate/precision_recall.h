// Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991, section 2): around every feature vector of a
// set lies a ball that reaches to its k-th nearest neighbour in the set, and the balls together are the set's manifold.
// Precision is the fraction of samples that lie on the reference's manifold, recall that of the reference on the
// samples'. As in ADM's evaluator k is 3, a vector is not its own neighbour, equal vectors are neighbours at distance
// 0, and a ball holds its surface (distance <= radius).
//
// Distances are squared, from dot products in blocks (dgemm). Where those cannot decide by their rounding error (a tie,
// two equal vectors) the distance is summed again from differences in a fixed order. Decisions are therefore those of
// the exact formula in double, whatever the blocks, threads and ranks.
//
// Cost: 2 rows * count * dim flops a call; about 0.2 GB beside the sets for 50,000 x 2048, which are views.
// Rows are independent: a rank computes a range of them, and ranges are concatenated.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/math.h"
#include "trainer/evaluate/feature_rows.h"

namespace shardit {

inline constexpr int64_t kManifoldNeighbours = 3;

// Squared radii of the balls around rows [rows.begin, rows.end) of `set`, which has more than `neighbours` rows
// (CHECK). All numbers must be finite (the caller's to check).
std::vector<double> SquaredRadii(const FeatureRows& set, Range rows, int64_t neighbours = kManifoldNeighbours);

// For rows [rows.begin, rows.end) of `queries`: 1 where the row lies in a ball around a row of `manifold`, else 0.
// `squared_radii` has one entry a row of `manifold` (CHECK). Equal dims (CHECK).
std::vector<uint8_t> OnManifold(const FeatureRows& queries, Range rows, const FeatureRows& manifold,
                                std::span<const double> squared_radii);

// The fraction of ones, at least one indicator: precision of the samples' indicators, recall of the reference's.
double Fraction(std::span<const uint8_t> indicators);

}  // namespace shardit
