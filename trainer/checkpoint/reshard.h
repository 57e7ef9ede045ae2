// Resharding: the same state in other shards, made by one process from one core's reads. Since any layout loads any
// checkpoint, this is for what reading costs: many small shards become few, or shards that fit the next layout. Memory
// is bounded by the manifests, one slice table, SliceRef::kReadElements staged elements and one block of the reader,
// whatever the size of the tensors.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/file.h"
#include "core/tensor/box.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/checkpoint/checkpoint_writer.h"

namespace shardit {

struct PlannedSlice {
  StateGroup group = StateGroup::kModel;
  std::string name;
  Box box;
};
// What each shard holds, in order. The boxes cover every tensor of the source exactly once.
using ShardPlan = std::vector<std::vector<PlannedSlice>>;

// Commits the state of `source` as `out`/<step>, by the writer's protocol, with `layout` in its manifest; all else that
// the manifest says stays. Then reads all of it again and checks it. `out` is made where it does not exist; nothing in
// it but an unfinished reshard of the same step is changed. AlreadyExists if it holds the step; DataLoss names what is
// damaged in the source, InvalidArgument a tensor that the plan does not cover exactly.
absl::StatusOr<SaveReport> ReshardCheckpoint(const CheckpointReader& source, const ShardPlan& plan,
                                             const RunLayout& layout, const std::string& out,
                                             FileSystem& fs = PosixFileSystem());

}  // namespace shardit
