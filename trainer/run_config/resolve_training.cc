#include "trainer/run_config/resolve_training.h"

#include <algorithm>
#include <bit>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace shardit {
namespace {

template <class... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status CheckPrecision(const config::Train& train) {
  if (train.device() != config::Train::CPU || train.precision() == config::Train::FP32) return absl::OkStatus();
  return Invalid("train.precision: ", config::Train::Precision_Name(train.precision()),
                 " needs a GPU, and train.device is CPU; expected FP32, or train.device AUTO or CUDA");
}

absl::Status ResolveMesh(int64_t world, config::Parallel* parallel) {
  const int64_t model_ranks = parallel->tp() * parallel->pp();
  if (parallel->dp() == 0) {
    if (world % model_ranks != 0) {
      return Invalid("parallel: tp ", parallel->tp(), " x pp ", parallel->pp(), " does not divide the ", world,
                     " ranks of this run; change parallel.tp or parallel.pp, or start a multiple of ", model_ranks,
                     " ranks");
    }
    parallel->set_dp(world / model_ranks);
  }
  if (parallel->dp() * model_ranks != world) {
    return Invalid("parallel: expected dp x tp x pp = ", parallel->dp(), " x ", parallel->tp(), " x ", parallel->pp(),
                   " = ", parallel->dp() * model_ranks, " ranks, got ", world, "; start as many (mpirun -n ",
                   parallel->dp() * model_ranks, ") or set parallel.dp to 0");
  }
  return absl::OkStatus();
}

std::string Divisors(int64_t n) {
  std::string text;
  for (int64_t i = 1; i <= n; ++i) {
    if (n % i == 0) absl::StrAppend(&text, text.empty() ? "" : ", ", i);
  }
  return text;
}

// The tensor axis cuts layers by whole heads; everything else it cuts is a multiple of them.
absl::Status CheckTensorAxis(const config::Model& model, config::Parallel* parallel) {
  const int64_t tp = parallel->tp();
  if (model.heads() % tp != 0) {
    return Invalid("parallel.tp: expected a divisor of model.heads ", model.heads(), " (", Divisors(model.heads()),
                   "), got ", tp, "; attention is cut by whole heads");
  }
  if (tp == 1) parallel->set_sequence_parallel(false);
  const int64_t tokens = (model.side() / model.patch()) * (model.side() / model.patch());
  if (parallel->sequence_parallel() && tokens < tp) {
    return Invalid("parallel.sequence_parallel: expected at least one token a rank of the tensor axis, got ", tokens,
                   " tokens for tp ", tp, "; set it to false");
  }
  return absl::OkStatus();
}

absl::Status CheckPipeline(const config::Model& model, const config::Parallel& parallel) {
  if (parallel.virtual_stages() > 1 && parallel.schedule() != config::Parallel::INTERLEAVED) {
    return Invalid("parallel.virtual_stages: expected 1 with schedule ",
                   config::Parallel::Schedule_Name(parallel.schedule()), ", got ", parallel.virtual_stages(),
                   "; set parallel.schedule to INTERLEAVED");
  }
  const int64_t stages = parallel.pp() * parallel.virtual_stages();
  if (stages > model.depth()) {
    return Invalid("parallel.pp: expected pp x virtual_stages of at most model.depth ", model.depth(), ", got ",
                   parallel.pp(), " x ", parallel.virtual_stages(), "; every stage holds at least one block");
  }
  return absl::OkStatus();
}

// Virtual shards are the micro-batches of deterministic mode: their size must not depend on dp.
absl::Status ResolveDeterministic(const config::Parallel& parallel, config::Train* train) {
  const int64_t shards = train->virtual_shards(), batch = train->global_batch();
  if (!std::has_single_bit(static_cast<uint64_t>(parallel.dp())) || parallel.dp() > shards) {
    return Invalid("train.deterministic: expected parallel.dp to be a power of two of at most train.virtual_shards ",
                   shards, ", got ", parallel.dp());
  }
  if (batch % shards != 0) {
    return Invalid("train.deterministic: expected train.global_batch to be a multiple of train.virtual_shards ", shards,
                   ", got ", batch);
  }
  if (train->micro_batch() != 0 && train->micro_batch() != batch / shards) {
    return Invalid("train.deterministic: expected train.micro_batch 0 or global_batch / virtual_shards = ",
                   batch / shards, ", got ", train->micro_batch());
  }
  if (parallel.schedule() == config::Parallel::ZERO_BUBBLE_H1 && parallel.recompute() == config::Parallel::FULL &&
      parallel.pp() > 1) {
    return Invalid(
        "train.deterministic: parallel.schedule ZERO_BUBBLE_H1 with parallel.recompute FULL adds gradients in ",
        "another order than other layouts; expected another schedule, or recompute NONE or SELECTIVE");
  }
  train->set_micro_batch(batch / shards);
  return absl::OkStatus();
}

// The largest micro-batch that leaves a pipeline four micro-batches a stage, which keeps its bubble at a fifth.
int64_t ChooseMicroBatch(int64_t local_batch, int64_t pp) {
  if (pp == 1) return local_batch;
  for (int64_t size = std::max<int64_t>(1, local_batch / (4 * pp)); size > 1; --size) {
    if (local_batch % size == 0) return size;
  }
  return 1;
}

absl::Status ResolveBatch(const config::Parallel& parallel, config::Train* train) {
  const int64_t batch = train->global_batch(), dp = parallel.dp();
  if (batch % dp != 0) {
    return Invalid("train.global_batch: expected a multiple of parallel.dp ", dp, ", got ", batch);
  }
  if (!std::has_single_bit(static_cast<uint64_t>(train->virtual_shards()))) {
    return Invalid("train.virtual_shards: expected a power of two, got ", train->virtual_shards());
  }
  if (train->deterministic()) RETURN_IF_ERROR(ResolveDeterministic(parallel, train));
  if (train->micro_batch() == 0) train->set_micro_batch(ChooseMicroBatch(batch / dp, parallel.pp()));
  if (batch % (dp * train->micro_batch()) != 0) {
    return Invalid("train.global_batch: expected a multiple of parallel.dp x train.micro_batch = ", dp, " x ",
                   train->micro_batch(), " = ", dp * train->micro_batch(), ", got ", batch);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ResolveForTraining(int64_t world, config::RunConfig* c) {
  if (c->data().path().empty()) {
    return Invalid("data.path: expected an HDF5 file of latents, got nothing; set data.path");
  }
  RETURN_IF_ERROR(CheckPrecision(c->train()));
  RETURN_IF_ERROR(ResolveMesh(world, c->mutable_parallel()));
  RETURN_IF_ERROR(CheckTensorAxis(c->model(), c->mutable_parallel()));
  RETURN_IF_ERROR(CheckPipeline(c->model(), c->parallel()));
  RETURN_IF_ERROR(ResolveBatch(c->parallel(), c->mutable_train()));
  if (c->log().sample_every() > 0 && c->log().sample_steps() > c->diffusion().steps()) {
    return Invalid("log.sample_steps: expected at most diffusion.steps ", c->diffusion().steps(), ", got ",
                   c->log().sample_steps());
  }
  return absl::OkStatus();
}

}  // namespace shardit
