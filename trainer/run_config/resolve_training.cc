#include "trainer/run_config/resolve_training.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "trainer/run_config/check_layout.h"
#include "trainer/run_config/to_options.h"

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

// The largest micro-batch that leaves a pipeline four micro-batches a stage, which keeps its bubble at a fifth.
int64_t PipelineMicroBatch(int64_t local_batch, int64_t pp) {
  if (pp == 1) return local_batch;
  for (int64_t size = std::max<int64_t>(1, local_batch / (4 * pp)); size > 1; --size) {
    if (local_batch % size == 0) return size;
  }
  return 1;
}

// What CheckLayout refuses may come out as 0.
int64_t ChooseMicroBatch(const config::Parallel& parallel, const config::Train& train) {
  if (train.micro_batch() != 0) return train.micro_batch();
  if (train.deterministic()) return train.global_batch() / train.virtual_shards();
  return PipelineMicroBatch(train.global_batch() / parallel.dp(), parallel.pp());
}

}  // namespace

absl::Status ResolveForTraining(int64_t world, config::RunConfig* c) {
  if (c->data().path().empty()) {
    return Invalid("data.path: expected an HDF5 file of latents, got nothing; set data.path");
  }
  RETURN_IF_ERROR(CheckPrecision(c->train()));
  RETURN_IF_ERROR(ResolveMesh(world, c->mutable_parallel()));
  if (c->parallel().tp() == 1) c->mutable_parallel()->set_sequence_parallel(false);
  c->mutable_train()->set_micro_batch(ChooseMicroBatch(c->parallel(), c->train()));
  const RunOptions options = ToOptions(*c);
  RETURN_IF_ERROR(CheckLayout(options.model, options.parallel, options.train));
  if (c->log().sample_every() > 0 && c->log().sample_steps() > c->diffusion().steps()) {
    return Invalid("log.sample_steps: expected at most diffusion.steps ", c->diffusion().steps(), ", got ",
                   c->log().sample_steps());
  }
  return absl::OkStatus();
}

}  // namespace shardit
