#include "trainer/train/train_state.h"

namespace shardit {

TrainState::TrainState(const DitConfig& config, Allocator& allocator)
    : model_(config),
      ema_model_(config),
      layout_(model_.parameters()),
      weights_(Tensor::Zeros(allocator, {layout_.size()})),
      grads_(Tensor::Zeros(allocator, {layout_.size()})),
      adam_m_(Tensor::Zeros(allocator, {layout_.size()})),
      adam_v_(Tensor::Zeros(allocator, {layout_.size()})),
      ema_(Tensor::Zeros(allocator, {layout_.size()})) {
  const FlatLayout ema_layout(ema_model_.parameters());
  for (const FlatLayout::Entry& entry : layout_.entries()) entry.parameter->value = layout_.View(weights_, entry);
  for (const FlatLayout::Entry& entry : ema_layout.entries()) {
    entry.parameter->value = ema_layout.View(ema_, entry);
    entry.parameter->requires_grad = false;
  }
}

void TrainState::Initialize(uint64_t seed) {
  model_.parameters().Initialize(seed);
  StartFromWeights();
}

void TrainState::StartFromWeights() {
  ema_.CopyFrom(weights_);
  adam_m_.Zero();
  adam_v_.Zero();
  step = updates = skipped = 0;
}

}  // namespace shardit
