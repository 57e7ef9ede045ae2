// Between a TrainState and the checkpoint store: which slices a rank writes, and how a state is filled from whatever
// slices a checkpoint holds.
#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/comm/communicator.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/checkpoint/checkpoint_writer.h"
#include "trainer/run_config/run_config.h"
#include "trainer/train/train_state.h"

namespace shardit {

// The slices that this rank stores, of weights, EMA and both moments: its part of the data axis, whether or not others
// hold copies; of what every rank of the tensor axis holds whole, the first stores it. Over all ranks, every element of
// the model once.
std::vector<SliceRef> StateSlices(const TrainState& state);

// Fills what this rank holds of weights, EMA, moments, and the counters. All must be there with the model's shapes; the
// error names what is not.
absl::Status LoadState(const CheckpointReader& reader, TrainState& state);

// Fills what this rank holds of the weights from a weight file, and starts the rest of the state from them.
absl::Status LoadWeights(const std::string& path, TrainState& state);

// Fills the model's parameters from one group.
absl::Status LoadGroup(const CheckpointReader& reader, StateGroup group, ParameterList& parameters);

// What to resume from, decided by rank 0 and loaded by all. Collective over `world`.
struct Resumed {
  std::string folder;                  // of the checkpoint
  std::vector<std::string> skipped;    // newer checkpoints that were bad, and why
  RunState state;                      // of the checkpoint
  std::vector<std::string> changed;    // settings that differ from the saved ones and move the numbers
  std::vector<std::string> set_aside;  // rank 0: where the newer folders are that this start leaves behind
};
// `resume` is auto, never, a step or a folder, as on the command line; auto looks at steps before `below` only. Nullopt
// means a fresh start, with `state` as it was: there is no checkpoint at all. Where there are some and auto can use
// none, DataLoss lists them with the reasons. A configuration that may not change between save and resume is refused
// with the difference. After an error `state` holds anything. Adds the blocks that this rank reads to `*blocks_read`.
//
// A start from a step or folder begins another branch of the run: newer folders in `checkpoints` are set aside
// (trainer/checkpoint/set_aside.h), so that the next automatic start finds this branch.
absl::StatusOr<std::optional<Resumed>> ResumeState(Communicator& world, const std::string& checkpoints,
                                                   const std::string& resume, std::optional<int64_t> below,
                                                   const ResolvedConfig& config, TrainState& state,
                                                   std::atomic<uint64_t>* blocks_read = nullptr);

}  // namespace shardit
