#include "trainer/run_config/to_options.h"

namespace shardit {
namespace {

DitConfig ToModel(const config::Model& model) {
  DitConfig out;
  out.name = model.size();
  out.depth = model.depth();
  out.width = model.width();
  out.heads = model.heads();
  out.patch = model.patch();
  out.channels = model.channels();
  out.side = model.side();
  out.classes = model.classes();
  out.learn_sigma = model.learn_sigma();
  out.class_dropout = model.class_dropout();
  switch (model.conditioning()) {
    case config::Model::ADALN_ZERO:
      out.conditioning = Conditioning::kAdaLnZero;
      break;
    case config::Model::ADALN:
      out.conditioning = Conditioning::kAdaLn;
      break;
    case config::Model::CROSS_ATTENTION:
      out.conditioning = Conditioning::kCrossAttention;
      break;
    case config::Model::IN_CONTEXT:
      out.conditioning = Conditioning::kInContext;
      break;
  }
  return out;
}

DiffusionOptions ToDiffusion(const config::Diffusion& diffusion, bool learn_sigma) {
  DiffusionOptions out = {.steps = diffusion.steps(), .learn_sigma = learn_sigma};
  switch (diffusion.schedule()) {
    case config::Diffusion::LINEAR:
      out.schedule = NoiseSchedule::kLinear;
      break;
    case config::Diffusion::COSINE:
      out.schedule = NoiseSchedule::kCosine;
      break;
  }
  switch (diffusion.prediction()) {
    case config::Diffusion::EPSILON:
      out.prediction = Prediction::kEpsilon;
      break;
    case config::Diffusion::X0:
      out.prediction = Prediction::kX0;
      break;
    case config::Diffusion::V:
      out.prediction = Prediction::kV;
      break;
  }
  return out;
}

DataOptions ToData(const config::Data& data) {
  return {.path = data.path(),
          .validation_path = data.validation_path(),
          .flip = data.flip(),
          .in_memory = data.in_memory(),
          .prefetch_batches = data.prefetch_batches()};
}

OptimizerOptions ToOptimizer(const config::Optimizer& optimizer) {
  OptimizerOptions out = {.learning_rate = optimizer.learning_rate(),
                          .beta1 = optimizer.beta1(),
                          .beta2 = optimizer.beta2(),
                          .epsilon = optimizer.epsilon(),
                          .weight_decay = optimizer.weight_decay(),
                          .clip_norm = optimizer.clip_norm(),
                          .warmup_steps = optimizer.warmup_steps(),
                          .final_fraction = optimizer.final_fraction()};
  switch (optimizer.schedule()) {
    case config::Optimizer::CONSTANT:
      out.schedule = LearningRateSchedule::kConstant;
      break;
    case config::Optimizer::COSINE:
      out.schedule = LearningRateSchedule::kCosine;
      break;
    case config::Optimizer::LINEAR:
      out.schedule = LearningRateSchedule::kLinear;
      break;
  }
  return out;
}

ParallelOptions ToParallel(const config::Parallel& parallel) {
  ParallelOptions out = {.dp = parallel.dp(),
                         .tp = parallel.tp(),
                         .pp = parallel.pp(),
                         .zero_stage = parallel.zero_stage(),
                         .sequence_parallel = parallel.sequence_parallel(),
                         .virtual_stages = parallel.virtual_stages(),
                         .bucket_mib = parallel.bucket_mib()};
  switch (parallel.schedule()) {
    case config::Parallel::GPIPE:
      out.schedule = ScheduleKind::kGpipe;
      break;
    case config::Parallel::ONE_F_ONE_B:
      out.schedule = ScheduleKind::kOneFOneB;
      break;
    case config::Parallel::INTERLEAVED:
      out.schedule = ScheduleKind::kInterleaved;
      break;
    case config::Parallel::ZERO_BUBBLE_H1:
      out.schedule = ScheduleKind::kZeroBubbleH1;
      break;
  }
  switch (parallel.recompute()) {
    case config::Parallel::NONE:
      out.recompute = RecomputeMode::kNone;
      break;
    case config::Parallel::SELECTIVE:
      out.recompute = RecomputeMode::kSelective;
      break;
    case config::Parallel::FULL:
      out.recompute = RecomputeMode::kFull;
      break;
  }
  return out;
}

TrainOptions ToTrain(const config::Train& train) {
  TrainOptions out = {.steps = train.steps(),
                      .global_batch = train.global_batch(),
                      .micro_batch = train.micro_batch(),
                      .seed = static_cast<uint64_t>(train.seed()),
                      .threads = train.threads(),
                      .deterministic = train.deterministic(),
                      .virtual_shards = train.virtual_shards(),
                      .check_finite = train.check_finite(),
                      .hang_seconds = train.hang_seconds(),
                      .checksum_every = train.checksum_every(),
                      .spike_z = train.spike_z(),
                      .cuda_graph = train.cuda_graph()};
  switch (train.precision()) {
    case config::Train::FP32:
      out.precision = Precision::kFp32;
      break;
    case config::Train::TF32:
      out.precision = Precision::kTf32;
      break;
    case config::Train::BF16:
      out.precision = Precision::kBf16;
      break;
  }
  switch (train.device()) {
    case config::Train::AUTO:
      out.device = DeviceChoice::kAuto;
      break;
    case config::Train::CPU:
      out.device = DeviceChoice::kCpu;
      break;
    case config::Train::CUDA:
      out.device = DeviceChoice::kCuda;
      break;
  }
  return out;
}

CheckpointOptions ToCheckpoint(const config::Checkpoint& checkpoint) {
  return {.every_steps = checkpoint.every_steps(),
          .keep_last = checkpoint.keep_last(),
          .keep_every = checkpoint.keep_every(),
          .async = checkpoint.async()};
}

LogOptions ToLog(const config::Log& log) {
  return {.every_steps = log.every_steps(),
          .sample_every = log.sample_every(),
          .sample_per_class = log.sample_per_class(),
          .sample_steps = log.sample_steps(),
          .sample_cfg_scale = log.sample_cfg_scale(),
          .validate_every = log.validate_every(),
          .validation_samples = log.validation_samples(),
          .tensorboard = log.tensorboard(),
          .sample_ids = log.sample_ids()};
}

}  // namespace

RunOptions ToOptions(const config::RunConfig& c) {
  RunOptions out;
  out.model = ToModel(c.model());
  out.diffusion = ToDiffusion(c.diffusion(), c.model().learn_sigma());
  out.data = ToData(c.data());
  out.optimizer = ToOptimizer(c.optimizer());
  out.ema = {.decay = c.ema().decay(), .warmup = c.ema().warmup()};
  out.parallel = ToParallel(c.parallel());
  out.train = ToTrain(c.train());
  out.checkpoint = ToCheckpoint(c.checkpoint());
  out.log = ToLog(c.log());
  return out;
}

}  // namespace shardit
