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
  // .npz: of latents that are images, with 1 or 3 channels, arr_0 (uint8 NHWC) and arr_1 (their labels); of others
  // latents (float32 [N, C, H, W]) and labels. .png: a grid with one row a class, of other latents in false colour.
  std::string out;
};

// Collective over the world; every rank gets the same status. Ranks draw chunks of samples into the folder
// `<out>.parts` (shared by all), from which rank 0 makes the file, atomically; then the folder goes. A signal
// (trainer/train/stop_signal.h) ends it at a chunk's boundary with Cancelled (exit code 75); the same call goes on from
// the chunks that are there, also after a kill, and gives the same file. Memory for a chunk and the model; for a .png,
// of the picture. That the output cannot be written or is larger than a PNG may be is found before the first sample is
// drawn. Exit code 77 for a sample that is not finite.
absl::Status RunSample(World& world, const SampleRequest& request);

// Latents [labels.size(), C, H, W] of sample indices first, first + 1, ..., drawn in passes of `batch` samples; as
// collective as `model` is. A short last pass is filled up, so that a sample's bits depend on `batch` but not on its
// neighbours.
std::vector<float> DrawSamples(RankContext& context, const SampledModel& model, const Sampler& sampler, int64_t batch,
                               int64_t first, const std::vector<int32_t>& labels);

// A whole model on this rank.
SampledModel SampledModelOf(RankContext& context, const Dit& model);

}  // namespace shardit
