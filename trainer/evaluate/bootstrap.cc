#include "trainer/evaluate/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/tensor/rng.h"
#include "trainer/evaluate/moments.h"

namespace shardit {
namespace {

// Of ascending values, linear between neighbours, as numpy.quantile.
double Quantile(const std::vector<double>& sorted, double fraction) {
  const double position = fraction * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], position - static_cast<double>(below));
}

}  // namespace

std::vector<uint32_t> ResampleCounts(uint64_t seed, int64_t replicate, Range samples) {
  CHECK(samples.size() >= 1 && samples.size() <= UINT32_MAX) << "[ResampleCounts] " << samples.size() << " samples";
  const RngKey key{seed, RngPurpose::kBootstrap, static_cast<uint64_t>(replicate)};
  std::vector<uint32_t> counts(static_cast<size_t>(samples.size()));
  for (int64_t draw = samples.begin; draw < samples.end; ++draw) {
    ++counts[BoundedFromWord(key.Word(static_cast<uint64_t>(draw)), static_cast<uint32_t>(samples.size()))];
  }
  return counts;
}

absl::StatusOr<std::vector<double>> BootstrapFrechet(const FeatureRows& rows, const FrechetReference& reference,
                                                     uint64_t seed, Range replicates) {
  std::vector<double> distances;
  for (int64_t replicate = replicates.begin; replicate < replicates.end; ++replicate) {
    const std::vector<uint32_t> counts = ResampleCounts(seed, replicate, {0, rows.count});
    Moments moments(rows.dim);
    moments.AddWeighted(rows.data, counts.data(), rows.count);
    ASSIGN_OR_RETURN(const Gaussian gaussian, moments.Estimate());
    ASSIGN_OR_RETURN(distances.emplace_back(), reference.DistanceTo(gaussian));
  }
  return distances;
}

std::vector<double> BootstrapFractions(std::span<const uint8_t> indicators, uint64_t seed, Range replicates) {
  const int64_t count = static_cast<int64_t>(indicators.size());
  std::vector<double> fractions;
  for (int64_t replicate = replicates.begin; replicate < replicates.end; ++replicate) {
    const std::vector<uint32_t> counts = ResampleCounts(seed, replicate, {0, count});
    const int64_t ones = std::inner_product(counts.begin(), counts.end(), indicators.begin(), int64_t{0});
    fractions.push_back(static_cast<double>(ones) / static_cast<double>(count));
  }
  return fractions;
}

Interval BootstrapInterval(double estimate, std::vector<double> replicates, double lowest, double highest) {
  CHECK(!replicates.empty()) << "[BootstrapInterval] no replicates";
  std::sort(replicates.begin(), replicates.end());
  const double mean =
      std::accumulate(replicates.begin(), replicates.end(), 0.0) / static_cast<double>(replicates.size());
  const auto bound = [&](double fraction) {
    return std::clamp(Quantile(replicates, fraction) - mean + estimate, lowest, highest);
  };
  return {bound(0.025), bound(0.975)};
}

}  // namespace shardit
