// Which shard holds what when a checkpoint is cut for a layout: what the ranks of a run in that layout would write, so
// that each of them finds its state where it expects it. A rank then reads its own shard (without ZeRO, those of all
// data ranks of its stage and tensor rank) and, for what the tensor axis does not cut, those of tensor rank 0.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "model/dit_config.h"
#include "trainer/checkpoint/reshard.h"
#include "trainer/run_config/options.h"

namespace shardit {

// One shard per rank, numbered as the mesh numbers ranks. `parallel` gives what the layout does not name (buckets,
// virtual stages, sequence parallelism). world = dp tp pp (CHECK). InvalidArgument (exit code 64) where tp does not
// divide a parameter or there are fewer blocks than stages. Nothing is allocated for tensors.
absl::StatusOr<ShardPlan> PlanShards(const DitConfig& config, ParallelOptions parallel, const RunLayout& layout);

// PlanShards for the model and settings of the checkpoint's own configuration, then ReshardCheckpoint.
absl::StatusOr<SaveReport> ReshardForLayout(const CheckpointReader& source, const RunLayout& layout,
                                            const std::string& out, FileSystem& fs = PosixFileSystem());

}  // namespace shardit
