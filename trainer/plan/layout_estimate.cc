#include "trainer/plan/layout_estimate.h"

#include <algorithm>

#include "core/base/math.h"
#include "trainer/train/sharding.h"

namespace shardit {
namespace {

// What is the same for every term of an estimate.
struct Layout {
  const RunOptions& options;
  const ParallelOptions& parallel;
  int64_t micro_batch;
  int64_t micro_batches;
  const ClusterFigures& figures;
  const RankPlacement& placement;
  const UnitCosts& units;

  double pp() const { return static_cast<double>(parallel.pp); }
  double dp() const { return static_cast<double>(parallel.dp); }
  double rounds() const { return static_cast<double>(micro_batches); }
  double compute_bytes() const { return static_cast<double>(SizeOf(ComputeType(options.train.precision))); }
  // Blocks of the largest part of the chain.
  int64_t part_blocks() const { return CeilDiv(options.model.depth, parallel.pp * parallel.virtual_stages); }
  // Blocks of the rank that has most.
  int64_t blocks() const {
    return std::min(CeilDiv(options.model.depth, parallel.pp), part_blocks() * parallel.virtual_stages);
  }
  // One micro-batch through the slowest rank, by a member of UnitCost. The ends of the chain lie on one rank only where
  // there is one.
  template <class Member>
  double Rank(Member member) const {
    const double ends = static_cast<double>(units.embedding.*member) + static_cast<double>(units.final_layer.*member);
    const double share = parallel.pp == 1 ? 1.0 : 0.5;
    return static_cast<double>(blocks()) * static_cast<double>(units.block.*member) + share * ends;
  }
};

// Elements of the flat range of the rank that holds most.
double LargestRankElements(const Layout& layout) {
  const UnitCosts& units = layout.units;
  const double blocks = static_cast<double>(layout.blocks() * units.block.parameters);
  const double input = static_cast<double>(units.embedding.parameters);
  const double output = static_cast<double>(units.final_layer.parameters);
  return blocks + (layout.parallel.pp == 1 ? input + output : std::max(input, output));
}

// Parts of one micro-batch in flight on the first rank (parallel/pipeline/schedule.h).
double InFlight(const Layout& layout) {
  const double ranks = layout.pp(), parts = static_cast<double>(layout.parallel.virtual_stages);
  switch (layout.parallel.schedule) {
    case ScheduleKind::kGpipe:
      return layout.rounds();
    case ScheduleKind::kOneFOneB:
    case ScheduleKind::kZeroBubbleH1:
      return std::min(layout.rounds(), ranks);
    case ScheduleKind::kInterleaved:
      return std::min(parts * layout.rounds(), 2 * (ranks - 1) + (parts - 1) * ranks + 1);
  }
  return layout.rounds();
}

int64_t PeakBytes(const Layout& layout) {
  const double elements = LargestRankElements(layout), state = 4 * elements, share = state / layout.dp();
  // Of what forward reads: the fp32 weights themselves, or a bf16 copy beside them.
  const double compute = layout.compute_bytes(), copy = compute == 4 ? 0 : compute * elements;
  const int zero = static_cast<int>(layout.parallel.zero_stage);
  const double unit_elements = static_cast<double>(std::max(
      {layout.units.block.parameters, layout.units.embedding.parameters, layout.units.final_layer.parameters}));
  const double bucket = zero == 3 ? 4 * unit_elements
                                  : std::max(4 * unit_elements, static_cast<double>(layout.parallel.bucket_mib << 20));
  const double weights = zero == 3 ? share + copy / layout.dp() + 2 * compute * unit_elements
                                   : (copy > 0 && zero >= 1 ? share : state) + copy;
  const double gradients = zero >= 2 ? share + 2 * bucket : state;
  const double rest = 3 * (zero >= 1 ? share : state);
  const UnitCosts& units = layout.units;
  double part = static_cast<double>(layout.part_blocks() * units.block.saved_bytes);
  part += static_cast<double>(layout.parallel.pp == 1 ? units.embedding.saved_bytes + units.final_layer.saved_bytes
                                                      : units.embedding.saved_bytes);
  const double working = static_cast<double>(
      std::max({units.block.working_bytes, units.embedding.working_bytes, units.final_layer.working_bytes}));
  return static_cast<int64_t>(weights + gradients + rest + InFlight(layout) * part + working);
}

double BubbleSeconds(const Layout& layout, double forward, double backward, double weights) {
  const double others = layout.pp() - 1;
  switch (layout.parallel.schedule) {
    case ScheduleKind::kGpipe:
    case ScheduleKind::kOneFOneB:
      return others * (forward + backward + weights);
    case ScheduleKind::kInterleaved:
      return others * (forward + backward + weights) / static_cast<double>(layout.parallel.virtual_stages);
    case ScheduleKind::kZeroBubbleH1:
      return others * std::max(0.0, forward + backward - weights);
  }
  return 0;
}

// Communication over the data axis that no pass hides.
double DataSeconds(const Layout& layout, double forward, double backward) {
  if (layout.parallel.dp == 1) return 0;
  const LinkFigures& link = LinkOf(layout.figures, layout.placement, layout.parallel.tp, layout.parallel.dp);
  const double element = (layout.dp() - 1) / layout.dp() * LargestRankElements(layout) / link.bytes_per_second;
  const double once = 4 * element, gather = layout.compute_bytes() * element;  // gradients one way, weights back
  const double bucket = once / std::max<double>(1.0, static_cast<double>(layout.blocks()));  // the last: never hidden
  switch (layout.parallel.zero_stage) {
    case 0:
      return std::max(2 * bucket, 2 * once - backward);
    case 1:
      return std::max(bucket, once - backward) + std::max(bucket, gather - forward);
    case 2:
      return layout.rounds() * std::max(0.0, once - backward) + bucket + std::max(bucket, gather - forward);
    default:
      // The first unit of a part is waited for, each way.
      return layout.rounds() * (std::max(0.0, gather - forward) + std::max(0.0, once + gather - backward) +
                                2 * bucket * static_cast<double>(layout.parallel.virtual_stages));
  }
}

double OptimizerSeconds(const Layout& layout) {
  const double kept = LargestRankElements(layout) / (layout.parallel.zero_stage >= 1 ? layout.dp() : 1.0);
  const double memory = static_cast<double>(layout.placement.threads) * layout.figures.memory_bytes_per_second;
  const double update_bytes = 36 + (layout.compute_bytes() == 4 ? 0 : layout.compute_bytes());
  return (update_bytes * kept + 4 * LargestRankElements(layout) / layout.dp()) / memory;
}

}  // namespace

LayoutEstimate EstimateLayout(const RunOptions& options, const ParallelOptions& parallel, int64_t micro_batch,
                              const ClusterFigures& figures, const RankPlacement& placement, UnitCostCache& units) {
  const Layout layout{
      .options = options,
      .parallel = parallel,
      .micro_batch = micro_batch,
      .micro_batches = options.train.global_batch / (parallel.dp * micro_batch),
      .figures = figures,
      .placement = placement,
      .units = units.Get(static_cast<int>(parallel.tp), parallel.sequence_parallel, micro_batch, parallel.recompute)};
  const double forward = layout.Rank(&UnitCost::forward), backward = layout.Rank(&UnitCost::backward);
  const double weights = layout.Rank(&UnitCost::weights);
  LayoutEstimate estimate{.parallel = parallel, .micro_batch = micro_batch, .peak_bytes = PeakBytes(layout)};
  estimate.fits =
      static_cast<double>(estimate.peak_bytes) <= kUsableMemory * static_cast<double>(placement.memory_bytes);
  estimate.tp_exposed = layout.rounds() * layout.Rank(&UnitCost::waited);
  estimate.compute = layout.rounds() * (forward + backward + weights) - estimate.tp_exposed;
  if (parallel.pp > 1) estimate.pp_bubble = BubbleSeconds(layout, forward, backward, weights);
  estimate.dp_exposed = DataSeconds(layout, forward, backward + weights);
  estimate.optimizer = OptimizerSeconds(layout);
  estimate.seconds =
      estimate.compute + estimate.tp_exposed + estimate.pp_bubble + estimate.dp_exposed + estimate.optimizer;
  if (figures.devices_are_cores) {
    // The cores of a node do all its ranks' work, copying included; waiting costs them nothing.
    const double sent =
        layout.rounds() * layout.Rank(&UnitCost::tp_bytes) + (parallel.dp > 1 ? 8 * LargestRankElements(layout) : 0.0);
    const double work = (estimate.compute + estimate.optimizer) * static_cast<double>(placement.threads) +
                        sent / figures.intra_node.bytes_per_second;
    const double cores =
        work * static_cast<double>(placement.ranks_per_node) / static_cast<double>(figures.devices_per_node);
    estimate.shared_cores = std::max(0.0, cores - estimate.seconds);
    estimate.seconds += estimate.shared_cores;
  }
  return estimate;
}

}  // namespace shardit
