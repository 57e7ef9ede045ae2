// Which shard holds what when a checkpoint is cut for a layout. The cut follows the layout's axes, so that a rank of it
// finds what it needs in few files:
//
//   pp   blocks are dealt evenly, stage s the s-th run of them; what lies before the blocks goes with the first stage,
//        what lies after them with the last;
//   tp   as the tensor axis cuts (parallel/tensor/plan.h); what it does not cut is stored by its rank 0;
//   dp   the elements of a stage and tensor rank, parameter after parameter, are cut into even runs.
//
// One shard per rank, numbered as the mesh numbers ranks. A rank reads the dp shards of its own stage and tensor rank
// (with ZeRO mostly one of them), and those of tensor rank 0 for what is not cut. Where a run balances its stages by
// cost instead, the block at a border comes from the neighbour's files.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "core/nn/parameter.h"
#include "trainer/checkpoint/reshard.h"

namespace shardit {

// world = dp tp pp (CHECK). InvalidArgument where tp does not divide a parameter or there are fewer blocks than stages.
absl::StatusOr<ShardPlan> PlanShards(const ParameterList& parameters, const RunLayout& layout);

// PlanShards for the model that the checkpoint's own configuration describes, then ReshardCheckpoint.
absl::StatusOr<SaveReport> ReshardForLayout(const CheckpointReader& source, const RunLayout& layout,
                                            const std::string& out, FileSystem& fs = PosixFileSystem());

}  // namespace shardit
