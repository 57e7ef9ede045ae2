// ModelSampler: a trained model, loaded whole on this rank, that draws the samples of an index range.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/tensor/rank_context.h"
#include "model/dit.h"
#include "model/sampler.h"
#include "trainer/sample.h"

namespace shardit {

class ModelSampler {
 public:
  // Loads request.checkpoint into memory of the context's device and checks the sampling settings; num and out are not
  // used. The context outlives it. Not collective: ranks that load one run folder while it trains may find different
  // checkpoints.
  static absl::StatusOr<ModelSampler> Load(RankContext& context, const SampleRequest& request);

  const DitConfig& config() const { return model_->config(); }
  // Sample i is of class classes()[i % size].
  const std::vector<int64_t>& classes() const { return classes_; }
  int32_t LabelOf(int64_t sample) const;
  // Completed training steps; nullopt: a weight file that does not say.
  const std::optional<int64_t>& trained_steps() const { return trained_steps_; }

  // Latents [count, C, H, W] of samples first, first + 1, ...
  std::vector<float> Draw(int64_t first, int64_t count) const;

 private:
  ModelSampler(RankContext& context, std::unique_ptr<Dit> model, Sampler sampler);

  RankContext* context_;
  std::unique_ptr<Dit> model_;
  Sampler sampler_;
  std::vector<int64_t> classes_;
  std::optional<int64_t> trained_steps_;
  int64_t batch_ = 0;
};

}  // namespace shardit
