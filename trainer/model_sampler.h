// ModelSampler: a trained model, loaded whole on this rank, that draws the samples of an index range.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/tensor/rank_context.h"
#include "model/dit.h"
#include "model/sampler.h"
#include "trainer/sample.h"

namespace shardit {

// Which weights a path names. Rank 0 finds out and tells the others: a run folder's newest checkpoint must be the same
// one on all ranks, also while the run goes on.
struct ModelIdentity {
  std::string path;    // of a run folder, that of its newest checkpoint
  std::string sha256;  // of the weight file; of a checkpoint, of its manifest, which holds checksums of all the rest

  std::string Pack() const;
  static ModelIdentity Unpack(const std::string& packed);
};

// Whether there is a model at a path: a .safetensors file, a checkpoint or a run folder.
bool IsModelPath(const std::string& path);

// Reads all of a weight file.
absl::StatusOr<ModelIdentity> IdentifyModel(const std::string& path);

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

  // Of a weight file: which weights it says that it holds ("ema", "model"; empty: it does not say), and a hash of the
  // configuration that it was loaded with, 16 hexadecimal digits (empty: a checkpoint, whose manifest holds its own).
  const std::string& stored_weights() const { return stored_weights_; }
  const std::string& config_hash() const { return config_hash_; }
  // Samples a forward pass.
  int64_t batch() const { return batch_; }

  // Latents [count, C, H, W] of samples first, first + 1, ... A sample that is not finite, of a model that has
  // diverged, is an InvalidArgument with exit code 77: as bytes it would look like a black image.
  absl::StatusOr<std::vector<float>> Draw(int64_t first, int64_t count) const;

 private:
  ModelSampler(RankContext& context, std::unique_ptr<Dit> model, Sampler sampler);

  RankContext* context_;
  std::unique_ptr<Dit> model_;
  Sampler sampler_;
  std::vector<int64_t> classes_;
  std::optional<int64_t> trained_steps_;
  std::string stored_weights_, config_hash_;
  int64_t batch_ = 0;
};

// What is drawn from, and how: path, kind "model", sha256, step, config_hash, weights, sampler, steps, eta, cfg_scale,
// cfg_channels, seed and classes. All but the path determine the samples, on one device and at one batch.
nlohmann::ordered_json DescribeSampling(const ModelIdentity& identity, const ModelSampler& sampler,
                                        const SampleRequest& request);

}  // namespace shardit
