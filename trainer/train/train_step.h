// TrainStep: forward, backward, gradient reduction and optimizer update of one step on one rank, whatever the layout.
//
// On a GPU a step is device work alone, from the copy of its batch to the update: nothing in it asks the host. After
// two steps it is recorded as a CUDA graph and from then on replayed with one call; the host waits once a step, for the
// losses, and has then decided nothing that the device did not.
//
// The pipeline executor runs the rank's model parts over the micro-batches (with one pipeline rank: forward and
// backward in turn); t, noise and label drop are drawn by (seed, global sample position). Gradient buckets leave over
// the data axis while backward still runs; the updated weights come back under the next forward. Losses are means over
// the global batch, with the same bits for every cut of the batch.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/tensor/rank_context.h"
#include "data/loader.h"
#include "model/diffusion.h"
#include "parallel/data/grad_reducer.h"
#include "parallel/data/parameter_gatherer.h"
#include "parallel/pipeline/executor.h"
#include "parallel/tensor/tensor_parallel.h"
#include "trainer/faults/beacon.h"
#include "trainer/faults/numerics_policy.h"
#include "trainer/train/dit_stage.h"
#include "trainer/train/optimizer.h"
#include "trainer/train/step_comms.h"
#include "trainer/train/train_state.h"

namespace shardit {

struct StepOptions {
  uint64_t seed = 0;
  int64_t global_batch = 0;
  int64_t micro_batch = 0;
  RecomputeMode recompute = RecomputeMode::kNone;
  bool check_finite = false;
  Beacon* beacon = nullptr;                  // told of every phase; null: nobody watches
  const NumericsPolicy* numerics = nullptr;  // asked before every update; null: only what is not finite is skipped
  bool cuda_graph = true;                    // on a GPU: replay the step as a graph where it can be recorded

  DitStageOptions stage() const { return {seed, global_batch, micro_batch, recompute, check_finite, beacon}; }
};

struct StepReport {
  using Time = std::chrono::steady_clock::time_point;
  double loss = 0.0, mse = 0.0, vb = 0.0;  // means over the global batch; equal on all ranks
  std::string non_finite_node;  // with check_finite: the first operation of this rank whose gradient is not finite
  bool spike = false;           // the loss was an outlier: the update was skipped
  UpdateReport update;
  ReduceReport reduce;
  Time backward_end, end;
};

class TrainStep {
 public:
  // All references outlive the object.
  TrainStep(RankContext& context, TrainState& state, const Diffusion& diffusion, const Optimizer& optimizer,
            const StepComms& comms, const StepOptions& options);
  ~TrainStep();

  // Collective: runs step state.step on this rank's part of the batch and advances the state.
  StepReport Run(const Batch& batch);
  // Micro-batches of a step on this rank.
  int64_t micro_batches() const;
  // On a GPU collective over the data axis. The weights that forward reads are in place, on a GPU by the order of its
  // stream, and nothing of them is under way: before other hands than Run's read or change them.
  void FinishGather();
  // Kernels and copies of the recorded step; 0 while there is none.
  int64_t graph_nodes() const;

 private:
  struct OnDevice;

  StepReport RunOnHost(const Batch& batch);
  StepReport RunOnDevice(const Batch& batch);
  // Issues the whole step; on a GPU nothing of it waits for the device.
  ReduceReport IssueOnDevice();
  bool CanRecord() const;
  LossResult SumLosses();
  void Enter(Phase phase);

  RankContext& context_;
  TrainState& state_;
  const Optimizer& optimizer_;
  const StepComms& comms_;
  const StepOptions options_;
  std::unique_ptr<TensorParallel> tensor_axis_;  // null with one tensor rank
  std::unique_ptr<ParameterGatherer> gatherer_;  // null in stage 0
  GradReducer reducer_;
  DitStage stage_;
  PipelineExecutor executor_;
  std::unique_ptr<OnDevice> device_;  // null on a CPU
};

// The seams of a rank's model with the tensor axis; null where there is one tensor rank.
std::unique_ptr<TensorParallel> MakeTensorAxis(const Dit& model, const Sharding& sharding, Communicator& axis);

}  // namespace shardit
