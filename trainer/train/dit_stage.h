// DitStage: the model parts of one pipeline rank as the executor sees them: noise and timesteps drawn by counters at
// the ends of the chain, forward on a tape per micro-batch and part, the loss behind the last unit, backward seeded
// from the next stage. With one pipeline rank it is the whole model.
//
// A boundary carries the tokens and, for the designs whose blocks read it, the condition. The condition's gradient
// passes through the stages as a running sum, last block first, so that the bits do not depend on where the model is
// cut.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor/rank_context.h"
#include "data/loader.h"
#include "model/diffusion_batch.h"
#include "parallel/data/parameter_gatherer.h"
#include "parallel/pipeline/stage.h"
#include "trainer/faults/beacon.h"
#include "trainer/train/loss_sums.h"
#include "trainer/train/sharding.h"

namespace shardit {

struct DitStageOptions {
  uint64_t seed = 0;
  int64_t global_batch = 0;
  int64_t micro_batch = 0;
  RecomputeMode recompute = RecomputeMode::kNone;
  bool check_finite = false;
  Beacon* beacon = nullptr;  // told of every pass; null: nobody watches
};

class DitStage : public PipelineStage {
 public:
  // All references outlive the stage; `axis` and `units` may be null (core/nn). `observer` hears of final gradients.
  DitStage(RankContext& context, const Dit& model, const Sharding& sharding, const Diffusion& diffusion,
           const TensorAxis* axis, ParameterGatherer* units, LeafObserver* observer, const DitStageOptions& options);
  ~DitStage() override;

  // Before the micro-batches of step `step` (from 0). `batch` holds this rank's samples in the order of micro-batches,
  // and lives until the last backward; it may be empty where no unit at an end of the chain lives here.
  void BeginStep(const Batch& batch, int64_t step);
  // The same on a GPU, with the samples in device memory: undefined tensors where the batch may be empty. Losses are
  // added to `sums`, in the order of the rank's stream; losses() stay zero. Nothing waits for the device.
  void BeginStep(const SampleTensors& samples, const StepSums& sums, int64_t step);
  // Of the images that the step's forwards have seen, each counted by one rank of the tensor axis; zero but on the last
  // global stage.
  LossSums& losses() { return losses_; }
  // With check_finite: the first operation of the step whose gradient is not finite; empty: none.
  const std::string& non_finite_node() const { return non_finite_node_; }

  int parts() const override { return static_cast<int>(sharding_.parts.size()); }
  std::vector<BoundaryTensor> Inputs(int part) const override;
  // The condition's gradient is a sum over all blocks: fp32, so that the bits do not depend on the cuts.
  DType GradType(size_t tensor, DType dtype) const override { return tensor == 0 ? dtype : DType::kF32; }
  std::vector<Tensor> Forward(int part, int micro_batch, std::vector<Tensor> inputs) override;
  std::vector<Tensor> Backward(int part, int micro_batch, std::vector<Tensor> output_grads,
                               bool defer_weights) override;
  void BackwardWeights(int part, int micro_batch) override;

 private:
  struct InFlight;

  bool is_first(int part) const { return sharding_.parts[static_cast<size_t>(part)].begin == 0; }
  bool is_last(int part) const { return sharding_.parts[static_cast<size_t>(part)].end == model_.units(); }
  DiffusionBatch Noise(int micro_batch) const;
  void AddLosses(const ForwardLossResult& result);
  void Enter(Phase phase);

  RankContext& context_;
  const Dit& model_;
  const Sharding& sharding_;
  const Diffusion& diffusion_;
  const TensorAxis* const axis_;
  ParameterGatherer* const units_;
  LeafObserver* const observer_;
  const DitStageOptions options_;
  const Tensor loss_table_;  // on a GPU
  Batch batch_;
  SampleTensors samples_;           // on a GPU
  const StepSums* sums_ = nullptr;  // on a GPU
  int64_t step_ = 0;
  std::map<std::pair<int, int>, std::unique_ptr<InFlight>> in_flight_;  // by part, micro-batch
  LossSums losses_;
  std::string non_finite_node_;
};

}  // namespace shardit
