// Sampling from a checkpoint or a weight file. Sample i depends on (seed, i) and the settings only, so any number of
// ranks, and any batch size, gives the same set.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/dit.h"
#include "model/sampler.h"
#include "parallel/comm/world.h"
#include "trainer/run_config/options.h"

namespace shardit {

struct SampleRequest {
  std::string checkpoint;   // checkpoint folder, run folder (its newest checkpoint) or .safetensors file
  std::string config_path;  // model configuration for weight files that carry none; empty: from the file
  bool ema = true;          // EMA weights of a checkpoint, or the live ones
  int64_t num = 1;
  int64_t steps = 250;
  bool ddim = false;
  double eta = 0.0;  // DDIM only
  double cfg_scale = 1.0;
  int cfg_channels = 3;  // 3: guidance acts on the first three channels; 0: on all
  uint64_t seed = 0;
  std::vector<int64_t> classes;  // sample i is of class classes[i % size]; empty: all of the model's classes
  int64_t batch = 0;             // samples a forward pass; 0: chosen
  int64_t threads = 0;           // 0 = cores / local ranks
  DeviceChoice device = DeviceChoice::kAuto;
  Precision precision = Precision::kFp32;  // fp32 or, on a GPU, TF32
  std::string out;                         // .npz (arr_0, uint8 NHWC; plus labels) or .png (grid, one row a class)
};

// Collective over the world; every rank samples its part and rank 0 writes the file, atomically.
absl::Status RunSample(World& world, const SampleRequest& request);

// Latents [labels.size(), C, H, W] of sample indices first, first + 1, ..., drawn in passes of `batch` samples; as
// collective as `model` is. A short last pass is filled up, so that a sample's bits depend on `batch` but not on its
// neighbours.
std::vector<float> DrawSamples(RankContext& context, const SampledModel& model, const Sampler& sampler, int64_t batch,
                               int64_t first, const std::vector<int32_t>& labels);

// A whole model on this rank.
SampledModel SampledModelOf(RankContext& context, const Dit& model);

}  // namespace shardit
