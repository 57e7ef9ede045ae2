#include "trainer/train/train_state.h"

#include <algorithm>
#include <vector>

#include "core/base/status_macros.h"
#include "core/tensor/copy_rows.h"

namespace shardit {
namespace {

FlatLayoutOptions LayoutOptions(const Sharding& sharding) {
  return {.bucket_bytes = sharding.bucket_bytes,
          .bucket_per_unit = sharding.zero_stage == 3,
          .sequence_parallel = sharding.sequence_parallel};
}

Tensor ZeroRange(Allocator& allocator, MemoryOwner owner, int64_t elements, DType dtype = DType::kF32) {
  const MemoryOwnerScope scope(allocator, owner);
  return Tensor::Zeros(allocator, {elements}, dtype);
}

// Draws the elements of `box` of a parameter, whose values are numbered in the global tensor.
void FillBox(const Parameter& parameter, uint64_t seed, const Box& box, float* out) {
  const Box whole = WholeBox({parameter.shape.begin(), parameter.shape.end()});
  const absl::Status filled = ForEachRun(box, whole, box, [&](int64_t from, int64_t to, int64_t count) {
    FillInitial(parameter.init, seed, parameter.name, from, count, out + to);
    return absl::OkStatus();
  });
  CHECK(filled.ok());
}

}  // namespace

TrainState::TrainState(const DitConfig& config, const Sharding& sharding, Allocator& allocator)
    : sharding_(sharding),
      model_(config),
      ema_model_(config),
      layout_(NarrowToRank(model_.parameters(), sharding), LayoutOptions(sharding)),
      ema_layout_(NarrowToRank(ema_model_.parameters(), sharding), LayoutOptions(sharding)),
      kept_(layout_, sharding.zero_stage == 0 ? 1 : sharding.shape.dp,
            sharding.zero_stage == 0 ? 0 : sharding.coords.dp),
      owned_(layout_, sharding.shape.dp, sharding.coords.dp),
      weights_(ZeroRange(allocator, MemoryOwner::kWeights,
                         weights_placement() == Placement::kFlat ? layout_.size() : kept_.size())),
      compute_weights_(sharding.compute == DType::kF32
                           ? weights_
                           : ZeroRange(allocator, MemoryOwner::kWeights,
                                       compute_placement() == Placement::kFlat ? layout_.size() : kept_.size(),
                                       sharding.compute)),
      grads_(ZeroRange(allocator, MemoryOwner::kGradients,
                       grads_placement() == Placement::kFlat ? layout_.size() : kept_.size())),
      adam_m_(ZeroRange(allocator, MemoryOwner::kMoments, kept_.size())),
      adam_v_(ZeroRange(allocator, MemoryOwner::kMoments, kept_.size())),
      ema_(ZeroRange(allocator, MemoryOwner::kEma, kept_.size())) {
  model_.PlaceConstants(allocator);
  ema_model_.PlaceConstants(allocator);
  for (const auto& parameter : ema_model_.parameters().all()) parameter->requires_grad = false;
  if (compute_placement() == Placement::kFlat) {
    for (const FlatLayout::Entry& entry : layout_.entries())
      entry.parameter->value = layout_.View(compute_weights_, entry);
  }
  if (sharding_.zero_stage == 0) {
    for (const FlatLayout::Entry& entry : ema_layout_.entries()) entry.parameter->value = ema_layout_.View(ema_, entry);
  }
}

void TrainState::Initialize(uint64_t seed) {
  const Placement placement = weights_placement();
  // Flat weights are drawn whole on every rank, so that nothing need be sent.
  const ShardMap all(layout_, 1, 0);
  for (const StateRun& run : StateRuns(placement == Placement::kFlat ? all : kept_, placement, sharding_.tensor())) {
    CHECK(FillRange(weights_, run.begin, Volume(run.box), [&](float* out) {
            FillBox(*run.parameter, seed, run.box, out);
            return absl::OkStatus();
          }).ok());
  }
  StartFromWeights();
}

void TrainState::StartFromWeights() {
  for (const ShardMap::Run& run : kept_.runs()) {
    const int64_t from = weights_placement() == Placement::kFlat ? run.flat_begin : run.shard_begin;
    ema_.Narrow(0, run.shard_begin, run.count).CopyFrom(weights_.Narrow(0, from, run.count));
  }
  adam_m_.Zero();
  adam_v_.Zero();
  step = updates = skipped = 0;
}

void TrainState::RefreshComputeWeights(RankContext& context) {
  if (compute_weights_.dtype() == weights_.dtype()) return;
  const auto at = [](Placement placement, const ShardMap::Run& run) {
    return placement == Placement::kFlat ? run.flat_begin : run.shard_begin;
  };
  for (const ShardMap::Run& run : kept_.runs()) {
    CopyRows({.source = weights_.ref().At(at(weights_placement(), run)),
              .destination = compute_weights_.ref().At(at(compute_placement(), run)),
              .rows = 1,
              .count = run.count},
             context);
  }
}

absl::Status FillRange(const Tensor& range, int64_t begin, int64_t count,
                       absl::FunctionRef<absl::Status(float* out)> fill) {
  const Tensor part = range.Narrow(0, begin, count);
  if (part.device().is_cpu()) return fill(part.data());
  std::vector<float> values(static_cast<size_t>(count));
  RETURN_IF_ERROR(fill(values.data()));
  part.FromHost(values.data());
  return absl::OkStatus();
}

std::vector<StateRun> StateRuns(const ShardMap& map, Placement placement, const TensorPart& tensor) {
  std::vector<StateRun> runs;
  for (const ShardMap::Piece& piece : map.pieces()) {
    const int64_t begin = placement == Placement::kFlat ? piece.flat_begin() : piece.shard_begin;
    Parameter* parameter = piece.entry->parameter;
    for (LocalRun& run : LocalRuns(*parameter, tensor, piece.begin, piece.end)) {
      runs.push_back({parameter, std::move(run.box), begin + run.begin - piece.begin});
    }
  }
  return runs;
}

}  // namespace shardit
