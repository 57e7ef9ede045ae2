// TrainState: everything that a run must not lose. Weights, gradients, AdamW's moments and the EMA are flat fp32 ranges
// of one layout; the model's parameters are views of the first, and a second model, for evaluation and sampling, views
// the EMA.
//
// Data-parallel replicas hold equal states, bit for bit.
#pragma once

#include <cstdint>
#include <memory>

#include "model/dit.h"
#include "parallel/data/flat_layout.h"

namespace shardit {

class TrainState {
 public:
  // Allocates; contents are undefined until Initialize or a checkpoint fills them.
  TrainState(const DitConfig& config, Allocator& allocator);
  TrainState(const TrainState&) = delete;
  TrainState& operator=(const TrainState&) = delete;

  // Weights from the seed, EMA equal to them, moments zero, counters zero.
  void Initialize(uint64_t seed);
  // As the start of a run whose weights are already in place: the EMA becomes equal to them, the rest zero.
  void StartFromWeights();

  Dit& model() { return model_; }
  // Reads the EMA weights. Never trained: its parameters want no gradient.
  Dit& ema_model() { return ema_model_; }
  const FlatLayout& layout() const { return layout_; }

  const Tensor& weights() const { return weights_; }  // each [layout().size()]
  const Tensor& grads() const { return grads_; }
  const Tensor& adam_m() const { return adam_m_; }
  const Tensor& adam_v() const { return adam_v_; }
  const Tensor& ema() const { return ema_; }

  int64_t step = 0;     // completed steps, skipped ones included: where the sample stream stands
  int64_t updates = 0;  // optimizer and EMA updates: steps that were not skipped
  int64_t skipped = 0;  // steps skipped for a non-finite loss or gradient

 private:
  Dit model_;
  Dit ema_model_;
  FlatLayout layout_;
  Tensor weights_, grads_, adam_m_, adam_v_, ema_;
};

}  // namespace shardit
