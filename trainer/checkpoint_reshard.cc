#include "trainer/checkpoint_reshard.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "model/dit.h"
#include "parallel/tensor/plan.h"
#include "trainer/run_config/run_config.h"

namespace shardit {
namespace {

// Parameters by stage: the model's units (core/nn/parameter_units.h) are the embedding, the blocks and the final layer.
absl::StatusOr<std::vector<std::vector<const Parameter*>>> Stages(const ParameterList& parameters, int64_t pp) {
  int64_t last = 0;
  for (const auto& parameter : parameters.all()) last = std::max<int64_t>(last, parameter->unit);
  const int64_t blocks = std::max<int64_t>(last - 1, 1);
  if (pp > blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("pp ", pp, " needs as many blocks, the model has ", blocks, "; choose a smaller --pp"));
  }
  std::vector<int64_t> stage_of_block;
  for (int64_t stage = 0; stage < pp; ++stage) {
    stage_of_block.insert(stage_of_block.end(), static_cast<size_t>(PartRange(blocks, pp, stage).size()), stage);
  }
  std::vector<std::vector<const Parameter*>> stages(static_cast<size_t>(pp));
  for (const auto& parameter : parameters.all()) {
    const int64_t block = std::clamp<int64_t>(parameter->unit - 1, 0, blocks - 1);
    stages[static_cast<size_t>(stage_of_block[static_cast<size_t>(block)])].push_back(parameter.get());
  }
  return stages;
}

// The elements [own.begin, own.end) of the parameters' local tensors laid one after another.
std::vector<PlannedSlice> SlicesOfRun(const std::vector<const Parameter*>& parameters, TensorPart part, Range own,
                                      StateGroup group) {
  std::vector<PlannedSlice> slices;
  int64_t offset = 0;
  for (const Parameter* parameter : parameters) {
    const int64_t size = LocalShape(*parameter, part).elements();
    const int64_t begin = std::max(own.begin - offset, int64_t{0}), end = std::min(own.end - offset, size);
    offset += size;
    if (begin >= end) continue;
    for (LocalRun& run : LocalRuns(*parameter, part, begin, end)) {
      slices.push_back({group, parameter->name, std::move(run.box)});
    }
  }
  return slices;
}

}  // namespace

absl::StatusOr<ShardPlan> PlanShards(const ParameterList& parameters, const RunLayout& layout) {
  CHECK_EQ(layout.world, layout.dp * layout.tp * layout.pp) << "[PlanShards]";
  RETURN_IF_ERROR(CheckDivides(parameters, static_cast<int>(layout.tp)));
  ASSIGN_OR_RETURN(const auto stages, Stages(parameters, layout.pp));
  ShardPlan plan(static_cast<size_t>(layout.world));
  for (int64_t rank = 0; rank < layout.world; ++rank) {
    const int64_t tp = rank % layout.tp, dp = rank / layout.tp % layout.dp, pp = rank / layout.tp / layout.dp;
    const TensorPart part{static_cast<int>(tp), static_cast<int>(layout.tp)};
    std::vector<const Parameter*> stored;
    int64_t elements = 0;
    for (const Parameter* parameter : stages[static_cast<size_t>(pp)]) {
      if (tp > 0 && parameter->shard.dim < 0) continue;
      stored.push_back(parameter);
      elements += LocalShape(*parameter, part).elements();
    }
    const Range own = PartRange(elements, layout.dp, dp);
    for (const StateGroup group : kStateGroups) {
      for (PlannedSlice& slice : SlicesOfRun(stored, part, own, group)) {
        plan[static_cast<size_t>(rank)].push_back(std::move(slice));
      }
    }
  }
  return plan;
}

absl::StatusOr<SaveReport> ReshardForLayout(const CheckpointReader& source, const RunLayout& layout,
                                            const std::string& out, FileSystem& fs) {
  ASSIGN_OR_RETURN(const ResolvedConfig config,
                   ParseRunConfig(source.state().config_text,
                                  absl::StrCat("configuration in ", Quoted(source.folder())), ConfigUse::kModel, 1));
  const Dit model(config.options.model);
  ASSIGN_OR_RETURN(const ShardPlan plan, PlanShards(model.parameters(), layout));
  return ReshardCheckpoint(source, plan, layout, out, fs);
}

}  // namespace shardit
