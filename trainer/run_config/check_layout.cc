#include "trainer/run_config/check_layout.h"

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

std::string Divisors(int64_t n) {
  std::string text;
  for (int64_t i = 1; i <= n; ++i) {
    if (n % i == 0) absl::StrAppend(&text, text.empty() ? "" : ", ", i);
  }
  return text;
}

// The tensor axis cuts layers by whole heads; everything else it cuts is a multiple of them.
absl::Status CheckTensorAxis(const DitConfig& model, const ParallelOptions& parallel) {
  if (model.heads % parallel.tp != 0) {
    return Invalid("parallel.tp: expected a divisor of model.heads ", model.heads, " (", Divisors(model.heads),
                   "), got ", parallel.tp, "; attention is cut by whole heads");
  }
  if (parallel.sequence_parallel && model.tokens() < parallel.tp) {
    return Invalid("parallel.sequence_parallel: expected at least one token a rank of the tensor axis, got ",
                   model.tokens(), " tokens for tp ", parallel.tp, "; set it to false");
  }
  return absl::OkStatus();
}

absl::Status CheckPipeline(const DitConfig& model, const ParallelOptions& parallel) {
  if (parallel.virtual_stages > 1 && parallel.schedule != ScheduleKind::kInterleaved) {
    return Invalid("parallel.virtual_stages: expected 1 with schedule ", std::string(Name(parallel.schedule)), ", got ",
                   parallel.virtual_stages, "; set parallel.schedule to INTERLEAVED");
  }
  if (parallel.pp * parallel.virtual_stages > model.depth) {
    return Invalid("parallel.pp: expected pp x virtual_stages of at most model.depth ", model.depth, ", got ",
                   parallel.pp, " x ", parallel.virtual_stages, "; every stage holds at least one block");
  }
  return absl::OkStatus();
}

// Virtual shards are the micro-batches of deterministic mode: their size must not depend on dp.
absl::Status CheckDeterministic(const ParallelOptions& parallel, const TrainOptions& train) {
  const int64_t shards = train.virtual_shards, batch = train.global_batch;
  if (!std::has_single_bit(static_cast<uint64_t>(parallel.dp)) || parallel.dp > shards) {
    return Invalid("train.deterministic: expected parallel.dp to be a power of two of at most train.virtual_shards ",
                   shards, ", got ", parallel.dp);
  }
  if (batch % shards != 0) {
    return Invalid("train.deterministic: expected train.global_batch to be a multiple of train.virtual_shards ", shards,
                   ", got ", batch);
  }
  if (train.micro_batch != batch / shards) {
    return Invalid("train.deterministic: expected train.micro_batch 0 or global_batch / virtual_shards = ",
                   batch / shards, ", got ", train.micro_batch);
  }
  if (parallel.schedule == ScheduleKind::kZeroBubbleH1 && parallel.recompute == RecomputeMode::kFull &&
      parallel.pp > 1) {
    return Invalid(
        "train.deterministic: parallel.schedule ZERO_BUBBLE_H1 with parallel.recompute FULL adds gradients in ",
        "another order than other layouts; expected another schedule, or recompute NONE or SELECTIVE");
  }
  return absl::OkStatus();
}

absl::Status CheckBatch(const ParallelOptions& parallel, const TrainOptions& train) {
  const int64_t batch = train.global_batch, dp = parallel.dp;
  if (batch % dp != 0) {
    return Invalid("train.global_batch: expected a multiple of parallel.dp ", dp, ", got ", batch);
  }
  if (!std::has_single_bit(static_cast<uint64_t>(train.virtual_shards))) {
    return Invalid("train.virtual_shards: expected a power of two, got ", train.virtual_shards);
  }
  if (train.deterministic) RETURN_IF_ERROR(CheckDeterministic(parallel, train));
  if (batch % (dp * train.micro_batch) != 0) {
    return Invalid("train.global_batch: expected a multiple of parallel.dp x train.micro_batch = ", dp, " x ",
                   train.micro_batch, " = ", dp * train.micro_batch, ", got ", batch);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckLayout(const DitConfig& model, const ParallelOptions& parallel, const TrainOptions& train) {
  RETURN_IF_ERROR(CheckTensorAxis(model, parallel));
  RETURN_IF_ERROR(CheckPipeline(model, parallel));
  return CheckBatch(parallel, train);
}

}  // namespace shardit
