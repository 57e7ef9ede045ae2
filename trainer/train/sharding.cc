#include "trainer/train/sharding.h"

#include <algorithm>

#include "model/dit_variants.h"
#include "parallel/pipeline/partition.h"

namespace shardit {

bool Sharding::holds(int unit) const {
  return std::any_of(parts.begin(), parts.end(),
                     [unit](const UnitRange& part) { return part.begin <= unit && unit < part.end; });
}

Sharding Sharding::Whole(const DitConfig& config) { return {.parts = {{0, static_cast<int>(config.depth) + 2}}}; }

Sharding MakeSharding(const DitConfig& config, const ParallelOptions& parallel, bool deterministic,
                      const MeshShape& shape, const MeshCoords& coords, DType compute) {
  Sharding sharding{.shape = shape, .coords = coords};
  const std::vector<UnitRange> stages = CutStages(config, shape.pp * static_cast<int>(parallel.virtual_stages));
  for (size_t stage = static_cast<size_t>(coords.pp); stage < stages.size(); stage += static_cast<size_t>(shape.pp)) {
    sharding.parts.push_back(stages[stage]);
  }
  sharding.zero_stage = shape.dp == 1 ? 0 : static_cast<int>(parallel.zero_stage);
  sharding.sequence_parallel = parallel.sequence_parallel && shape.tp > 1;
  sharding.deterministic = deterministic;
  sharding.schedule = parallel.schedule;
  sharding.bucket_bytes = parallel.bucket_mib << 20;
  sharding.compute = compute;
  return sharding;
}

std::vector<UnitRange> CutStages(const DitConfig& config, int stages) {
  // The ends of the chain go with the first and the last block.
  const std::vector<double> macs = UnitMacs(config);
  std::vector<int64_t> costs;
  for (size_t unit = 1; unit + 1 < macs.size(); ++unit) costs.push_back(static_cast<int64_t>(macs[unit]));
  costs.front() += static_cast<int64_t>(macs.front());
  costs.back() += static_cast<int64_t>(macs.back());
  std::vector<UnitRange> ranges;
  for (const Range& blocks : BalancedPartition(costs, stages)) {
    ranges.push_back({static_cast<int>(blocks.begin) + 1, static_cast<int>(blocks.end) + 1});
  }
  ranges.front().begin = 0;
  ranges.back().end += 1;
  return ranges;
}

std::vector<BoundaryTensor> BoundaryInputs(const Dit& model, const Sharding& sharding, int part, int64_t images,
                                           DType dtype) {
  if (sharding.parts[static_cast<size_t>(part)].begin == 0) return {};
  int64_t tokens = model.flow_tokens();
  if (sharding.sequence_parallel) tokens = PartRange(tokens, sharding.shape.tp, sharding.coords.tp).size();
  std::vector<BoundaryTensor> inputs{{Shape{images, tokens, model.config().width}, dtype}};
  const Shape condition = model.condition_shape(images);
  if (condition.ndim() > 0) inputs.push_back({condition, dtype});
  return inputs;
}

std::vector<Range> UnitRangesOf(const Sharding& sharding) {
  std::vector<Range> ranges;
  for (const UnitRange& part : sharding.parts) ranges.push_back({part.begin, part.end});
  return ranges;
}

std::vector<Parameter*> NarrowToRank(ParameterList& parameters, const Sharding& sharding) {
  std::vector<Parameter*> local;
  for (const auto& parameter : parameters.all()) {
    if (!sharding.holds(parameter->unit)) continue;
    parameter->value = Tensor::Meta(LocalShape(*parameter, sharding.tensor()));
    local.push_back(parameter.get());
  }
  return local;
}

}  // namespace shardit
