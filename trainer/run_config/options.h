// Plain option structs of a run, one for each section of the configuration file. The defaults here are the defaults of
// configs/run_config.proto. Only trainer/run_config/run_config.cc fills them from protocol buffers, and only after
// every range was checked, so the code that takes them may rely on the ranges given here.
#pragma once

#include <cstdint>
#include <string>

#include "model/recompute_mode.h"
#include "parallel/pipeline/schedule.h"

namespace shardit {

// Learning rate after warm-up. kCosine and kLinear fall from learning_rate to final_fraction * learning_rate at the
// last step of the run.
enum class LearningRateSchedule : uint8_t { kConstant, kCosine, kLinear };
enum class Precision : uint8_t { kFp32, kTf32, kBf16 };
enum class DeviceChoice : uint8_t { kAuto, kCpu, kCuda };

struct DataOptions {
  std::string path;              // HDF5 file, or a glob taken in name order
  std::string validation_path;   // the same; empty: no held-out loss
  bool flip = true;              // random horizontal flip with probability 1/2
  bool in_memory = false;        // read the whole data set once, at the start
  int64_t prefetch_batches = 2;  // >= 1: batches read ahead of the step
};

// AdamW (arXiv 1711.05101): decay is decoupled and scaled by the learning rate.
struct OptimizerOptions {
  double learning_rate = 1e-4;  // > 0
  double beta1 = 0.9;           // [0, 1)
  double beta2 = 0.999;         // [0, 1)
  double epsilon = 1e-8;        // > 0
  double weight_decay = 0.0;    // >= 0
  double clip_norm = 0.0;       // >= 0; global gradient norm; 0: no clipping
  int64_t warmup_steps = 0;     // >= 0; linear from learning_rate / warmup_steps at the first step
  LearningRateSchedule schedule = LearningRateSchedule::kConstant;
  double final_fraction = 0.0;  // [0, 1]; see LearningRateSchedule
};

// EMA of the weights, updated after every step and equal to the weights before the first.
struct EmaOptions {
  double decay = 0.9999;  // [0, 1)
  bool warmup = false;    // decay of update k (from 0) is min(decay, (1 + k) / (10 + k)), for short runs
};

struct ParallelOptions {
  int64_t dp = 0;          // >= 0; data-parallel ranks; 0 = world / (tp * pp); resolved before training
  int64_t tp = 1;          // >= 1
  int64_t pp = 1;          // >= 1
  int64_t zero_stage = 0;  // 0..3
  bool sequence_parallel = false;
  ScheduleKind schedule = ScheduleKind::kOneFOneB;
  int64_t virtual_stages = 1;  // >= 1; model parts per pipeline rank
  RecomputeMode recompute = RecomputeMode::kNone;
  int64_t bucket_mib = 4;  // >= 1; MiB of gradients reduced as one message
};

struct TrainOptions {
  int64_t steps = 1000;        // >= 1; optimizer steps in the whole run, those before a resume included
  int64_t global_batch = 256;  // >= 1; samples a step, over all ranks
  int64_t micro_batch = 0;     // >= 0; samples a forward pass on one rank; 0: chosen; resolved before training
  uint64_t seed = 0;
  Precision precision = Precision::kFp32;
  DeviceChoice device = DeviceChoice::kAuto;
  int64_t threads = 0;  // >= 0; CPU threads a rank; 0 = cores / local ranks
  bool deterministic = false;
  int64_t virtual_shards = 8;  // >= 1, a power of two; parts of the global batch in deterministic mode
  bool check_finite = false;   // name the first operation whose gradient is not finite; slow
  double hang_seconds = 0.0;   // >= 0; without progress for so long, the run ends as a hang; 0: learned from step times
  int64_t checksum_every = 100;  // >= 0; steps between comparisons of replicas; 0: off
  double spike_z = 0.0;          // >= 0; skip steps whose loss is so many deviations above the recent mean; 0: off
  bool cuda_graph = true;        // on a GPU, replay the step as one graph
};

struct CheckpointOptions {
  int64_t every_steps = 500;  // >= 0; 0: only the final step is saved
  int64_t keep_last = 2;      // >= 1; newest checkpoints kept
  int64_t keep_every = 0;     // >= 0; steps divisible by this are kept for ever; 0: off
  bool async = true;          // write behind the training step
};

struct LogOptions {
  int64_t every_steps = 10;        // >= 1
  int64_t sample_every = 0;        // >= 0; steps between sample grids from the EMA weights; 0: off
  int64_t sample_per_class = 2;    // >= 1; columns of that grid
  int64_t sample_steps = 50;       // >= 2; sampling steps of that grid
  double sample_cfg_scale = 1.0;   // >= 0; classifier-free guidance of that grid; 1: none
  int64_t validate_every = 0;      // >= 0; steps between held-out losses; 0: only after the final step
  int64_t validation_samples = 0;  // >= 0; held-out samples used; 0: all
  bool tensorboard = true;
  bool sample_ids = false;  // samples.jsonl: the ids of every step's samples
};

}  // namespace shardit
