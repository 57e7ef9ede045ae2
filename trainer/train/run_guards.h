// RunGuards: what watches over a run on one rank (trainer/faults), and the few moments at which the loop tells it where
// the run stands. One compute thread; everything collective is called by all ranks alike.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/tensor/rank_context.h"
#include "parallel/comm/world.h"
#include "parallel/mesh.h"
#include "trainer/faults/beacon.h"
#include "trainer/faults/hang_watchdog.h"
#include "trainer/faults/numerics_policy.h"
#include "trainer/faults/run_lease.h"
#include "trainer/run_config/run_config.h"
#include "trainer/train/run_folder.h"
#include "trainer/train/train_step.h"

namespace shardit {

class RunGuards {
 public:
  // References outlive the object.
  RunGuards(World& world, Mesh& mesh, RankContext& context, const TrainOptions& options);

  // Collective, before anything is written: all ranks have one configuration, program and data set.
  static absl::Status AgreeOnStart(World& world, const ResolvedConfig& config, const Dataset& dataset);

  Beacon& beacon() { return beacon_; }
  NumericsPolicy& numerics() { return numerics_; }

  // Collective, before the run folder is opened: no other job may use it until this object is gone.
  absl::Status TakeFolder(const std::string& path);

  // Collective, once the state is loaded: the folder takes a checkpoint of `checkpoint_bytes`, and a scheduler does not
  // restart the run from `step` for ever.
  absl::Status CheckStart(const RunFolder& folder, int64_t checkpoint_bytes, int64_t step,
                          int64_t max_stalled_restarts);

  // Collective. The watchdog lives from the first step to the end of the last save.
  // `comms` carry the steps: their health is watched too, and what is under way on them is given up before a hang
  // ends the job.
  absl::Status StartWatching(std::vector<Communicator*> comms);
  void StopWatching() { watchdog_.reset(); }

  // Whether replicas are to be compared after step `step`.
  bool ComparesAfter(int64_t step) const { return options_.checksum_every > 0 && step % options_.checksum_every == 0; }
  // Collective: weights that several ranks hold have the same bits on all of them. Over the data axis in ZeRO stages 0
  // to 2, over the tensor axis for parameters that it does not cut; in stage 3 no two data ranks hold the same. No
  // gather of weights may be under way.
  absl::Status CompareReplicas(const TrainState& state);

  // Collective, after each step: records a skipped one with its samples, and says how to go on.
  absl::StatusOr<NumericsVerdict> Judge(const StepReport& report, const Batch& batch, int64_t step);

 private:
  World& world_;
  Mesh& mesh_;
  RankContext& context_;
  const TrainOptions options_;
  Beacon beacon_;
  NumericsPolicy numerics_;
  std::string folder_;
  std::unique_ptr<RunLease> lease_;
  std::unique_ptr<HangWatchdog> watchdog_;
};

}  // namespace shardit
