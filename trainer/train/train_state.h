// TrainState: everything that a run must not lose, as far as it lives on this rank. Weights, gradients, AdamW's moments
// and the EMA are flat fp32 ranges over one layout of the rank's parameters, kept whole or as the rank's shard of the
// data axis:
//
//   ZeRO stage     weights   gradients   moments, EMA
//   0              flat      flat        flat
//   1              flat      flat        shard
//   2              flat      shard       shard
//   3              shard     shard       shard
//
// Where forward computes in bf16, it reads a bf16 copy, which lies where the table says of weights and which the
// optimizer keeps up to date; the fp32 weights then lie with the moments, since the optimizer alone reads them.
//
// The model's parameters are views of the flat weights (of that copy, where there is one) (in stage 3 whoever gathers
// units gives them values); a second model, for evaluation and sampling, takes the EMA the same way. Padding between
// parameters is zero everywhere.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "model/dit.h"
#include "parallel/data/flat_layout.h"
#include "parallel/data/shard_map.h"
#include "trainer/train/sharding.h"

namespace shardit {

class TrainState {
 public:
  // Allocates; contents are undefined until Initialize or a checkpoint fills them.
  TrainState(const DitConfig& config, const Sharding& sharding, Allocator& allocator);
  // The whole model on one rank.
  TrainState(const DitConfig& config, Allocator& allocator) : TrainState(config, Sharding::Whole(config), allocator) {}
  TrainState(const TrainState&) = delete;
  TrainState& operator=(const TrainState&) = delete;

  // Weights from the seed, EMA equal to them, moments zero, counters zero. The same model on every layout.
  void Initialize(uint64_t seed);
  // As the start of a run whose weights are already in place: the EMA becomes equal to them, the rest zero.
  void StartFromWeights();

  const Sharding& sharding() const { return sharding_; }
  Dit& model() { return model_; }
  // Reads the EMA weights. Never trained: its parameters want no gradient. In place in stage 0 only.
  Dit& ema_model() { return ema_model_; }
  const FlatLayout& layout() const { return layout_; }
  const FlatLayout& ema_layout() const { return ema_layout_; }  // equal, of the EMA model's parameters
  // What this rank's state covers: all of the layout in stage 0, else its shard of the data axis.
  const ShardMap& kept() const { return kept_; }
  // What this rank answers for where replicas share work (norm, checkpoint): its part of the data axis in every stage.
  const ShardMap& owned() const { return owned_; }
  Placement compute_placement() const { return sharding_.zero_stage == 3 ? Placement::kShard : Placement::kFlat; }
  Placement weights_placement() const {
    const bool copied = sharding_.compute != DType::kF32 && sharding_.zero_stage >= 1;
    return copied ? Placement::kShard : compute_placement();
  }
  Placement grads_placement() const { return sharding_.zero_stage >= 2 ? Placement::kShard : Placement::kFlat; }

  const Tensor& weights() const { return weights_; }
  // What forward reads: weights() itself where it computes in fp32.
  const Tensor& compute_weights() const { return compute_weights_; }
  const Tensor& grads() const { return grads_; }
  const Tensor& adam_m() const { return adam_m_; }
  const Tensor& adam_v() const { return adam_v_; }
  const Tensor& ema() const { return ema_; }

  // Makes compute_weights() follow weights(), after other hands than the optimizer's changed them: the part that this
  // rank keeps; the rest comes with the next gather.
  void RefreshComputeWeights(RankContext& context);

  int64_t step = 0;     // completed steps, skipped ones included: where the sample stream stands
  int64_t updates = 0;  // optimizer and EMA updates: steps that were not skipped
  int64_t skipped = 0;  // steps skipped for a non-finite loss or gradient

 private:
  const Sharding sharding_;
  Dit model_;
  Dit ema_model_;
  const FlatLayout layout_, ema_layout_;
  const ShardMap kept_, owned_;
  Tensor weights_, compute_weights_, grads_, adam_m_, adam_v_, ema_;
};

// Elements of `range` that belong together: a run of one parameter that is a box of the global tensor, and where it
// lies in a tensor of the state.
struct StateRun {
  Parameter* parameter = nullptr;
  Box box;            // of the global tensor
  int64_t begin = 0;  // element of the state's tensor
};
// Fills elements [begin, begin + count) of a dense tensor of the state with what `fill` writes into host memory.
absl::Status FillRange(const Tensor& range, int64_t begin, int64_t count,
                       absl::FunctionRef<absl::Status(float* out)> fill);

// The boxes of the global parameters that a map covers, and where they lie in a range of that placement.
std::vector<StateRun> StateRuns(const ShardMap& map, Placement placement, const TensorPart& tensor);

}  // namespace shardit
