#include "trainer/checkpoint_reshard.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/cost_recorder.h"
#include "core/base/status_macros.h"
#include "core/tensor/allocator.h"
#include "model/dit.h"
#include "parallel/mesh.h"
#include "parallel/tensor/plan.h"
#include "trainer/checkpoint_export.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/run_config/run_config.h"
#include "trainer/train/state_checkpoint.h"
#include "trainer/train/train_state.h"

namespace shardit {
namespace {

absl::Status CheckFits(const DitConfig& config, const ParallelOptions& parallel) {
  const Dit model(config);
  RETURN_IF_ERROR(WithExitCode(CheckDivides(model.parameters(), static_cast<int>(parallel.tp)), ExitCode::kUsage));
  if (parallel.pp * parallel.virtual_stages <= config.depth) return absl::OkStatus();
  return WithExitCode(absl::InvalidArgumentError(absl::StrCat(
                          "pp ", parallel.pp, " x virtual_stages ", parallel.virtual_stages,
                          " needs as many blocks, the model has ", config.depth, "; choose a smaller --pp")),
                      ExitCode::kUsage);
}

// What the rank would write, from a state that nothing backs.
std::vector<PlannedSlice> SlicesOfRank(const DitConfig& config, const Sharding& sharding) {
  CostRecorder unused;
  Allocator planning(Device::Cpu(), &unused);
  const TrainState state(config, sharding, planning);
  std::vector<PlannedSlice> planned;
  for (SliceRef& slice : StateSlices(state)) {
    planned.push_back({slice.group, std::move(slice.name), std::move(slice.box)});
  }
  return planned;
}

}  // namespace

absl::StatusOr<ShardPlan> PlanShards(const DitConfig& config, ParallelOptions parallel, const RunLayout& layout) {
  CHECK_EQ(layout.world, layout.dp * layout.tp * layout.pp) << "[PlanShards]";
  parallel.dp = layout.dp, parallel.tp = layout.tp, parallel.pp = layout.pp;
  parallel.zero_stage = layout.zero_stage;
  RETURN_IF_ERROR(CheckFits(config, parallel));
  const MeshShape shape{
      .pp = static_cast<int>(layout.pp), .dp = static_cast<int>(layout.dp), .tp = static_cast<int>(layout.tp)};
  ShardPlan plan;
  for (int rank = 0; rank < shape.ranks(); ++rank) {
    const bool deterministic = false;  // moves no element
    plan.push_back(SlicesOfRank(config, MakeSharding(config, parallel, deterministic, shape, CoordsOf(shape, rank))));
  }
  return plan;
}

absl::StatusOr<SaveReport> ReshardForLayout(const CheckpointReader& source, const RunLayout& layout,
                                            const std::string& out, FileSystem& fs) {
  ASSIGN_OR_RETURN(const ResolvedConfig config,
                   ParseRunConfig(source.state().config_text,
                                  absl::StrCat("configuration in ", Quoted(source.folder())), ConfigUse::kModel, 1));
  RETURN_IF_ERROR(CheckModelFits(config.options.model, source, StateGroup::kModel));
  ASSIGN_OR_RETURN(const ShardPlan plan, PlanShards(config.options.model, config.options.parallel, layout));
  return ReshardCheckpoint(source, plan, layout, out, fs);
}

}  // namespace shardit
