#include "trainer/train/dit_stage.h"

#include <utility>

#include "core/autograd/tape.h"
#include "core/cuda/nvtx.h"

namespace shardit {

// One micro-batch between its forward and its last weight gradient on one part.
struct DitStage::InFlight {
  explicit InFlight(RankContext& context) : tape(context) {}

  // A boundary's tensors as leaves; undefined on the first global stage.
  Leaf tokens, condition;
  Tape tape;
  DitFlow out;
  Tensor d_output;  // of the loss, on the last global stage
};

DitStage::DitStage(RankContext& context, const Dit& model, const Sharding& sharding, const Diffusion& diffusion,
                   const TensorAxis* axis, ParameterGatherer* units, LeafObserver* observer,
                   const DitStageOptions& options)
    : context_(context),
      model_(model),
      sharding_(sharding),
      diffusion_(diffusion),
      axis_(axis),
      units_(units),
      observer_(observer),
      options_(options),
      loss_table_(context.on_cuda() ? LossTable(context.allocator(), diffusion) : Tensor()) {}

DitStage::~DitStage() = default;

void DitStage::BeginStep(const Batch& batch, int64_t step) {
  CHECK(in_flight_.empty()) << "[stage] a micro-batch of the last step is still in flight";
  batch_ = batch;
  step_ = step;
  losses_ = {};
  non_finite_node_.clear();
}

void DitStage::BeginStep(const SampleTensors& samples, const StepSums& sums, int64_t step) {
  BeginStep(Batch(), step);
  samples_ = samples;
  sums_ = &sums;
}

std::vector<BoundaryTensor> DitStage::Inputs(int part) const {
  return BoundaryInputs(model_, sharding_, part, options_.micro_batch, sharding_.compute);
}

// Everything random is drawn by seed and global position, so that both ends of the chain make the same micro-batch
// without a message.
DiffusionBatch DitStage::Noise(int micro_batch) const {
  const DitConfig& config = model_.config();
  const int64_t count = options_.micro_batch, first = micro_batch * count, elements = config.latent_elements();
  if (context_.on_cuda()) {
    return DrawBatch(context_, config, loss_table_, options_.seed, samples_.Images(first, count));
  }
  DiffusionBatch noised = DiffusionBatch::Allocate(context_.allocator(), config, count);
  if (context_.cpu().Planned({"noise", 0, 3.0 * static_cast<double>(noised.noise.bytes())})) return noised;
  noised.x_0 = Tensor::Borrow(const_cast<float*>(batch_.x.data()) + first * elements, noised.noise.shape());
  context_.pool().ParallelFor(count, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t position = batch_.positions[static_cast<size_t>(first + n)];
      const bool drop = DrawLabelDrop(options_.seed, position, config.class_dropout);
      noised.input.t_N.data<int64_t>()[n] = diffusion_.DrawTimestep(options_.seed, position);
      noised.input.y_N.data<int32_t>()[n] =
          drop ? static_cast<int32_t>(config.null_class()) : batch_.y[static_cast<size_t>(first + n)];
      DrawNoise(options_.seed, position, elements, noised.Image(noised.noise, n));
      noised.NoiseImage(diffusion_, n);
    }
  });
  return noised;
}

// Each image is counted by one rank of the tensor axis.
void DitStage::AddLosses(const ForwardLossResult& result) {
  if (sharding_.coords.tp != 0) return;
  context_.on_cuda() ? sums_->AddImages(result, context_.cuda()) : AddImages(result.per_image, losses_);
}

void DitStage::Enter(Phase phase) {
  if (options_.beacon != nullptr) options_.beacon->Enter(phase, step_ + 1);
}

std::vector<Tensor> DitStage::Forward(int part, int micro_batch, std::vector<Tensor> inputs) {
  Enter(Phase::kForward);
  const NvtxRange range("forward");
  std::unique_ptr<InFlight>& slot = in_flight_[{part, micro_batch}];
  CHECK(slot == nullptr) << "[stage] part " << part << " forwards micro-batch " << micro_batch << " twice";
  slot = std::make_unique<InFlight>(context_);
  InFlight& flight = *slot;
  flight.tape.set_check_finite(options_.check_finite);
  DitFlow in;
  if (!is_first(part)) {
    flight.tokens.name = "stage input";
    flight.tokens.value = std::move(inputs[0]);
    flight.tokens.grad_dtype = flight.tokens.value.dtype();
    in.x_NTD = Var(flight.tokens);
    if (inputs.size() > 1) {
      flight.condition.name = "stage condition";
      flight.condition.value = std::move(inputs[1]);
      in.condition = Var(flight.condition);
    }
  }
  DiffusionBatch noised;
  if (is_first(part) || is_last(part)) noised = Noise(micro_batch);
  flight.out = model_.ForwardUnits(flight.tape, sharding_.parts[static_cast<size_t>(part)], &noised.input, in,
                                   {.recompute = options_.recompute, .tensor_axis = axis_, .units = units_});
  if (is_last(part)) {
    ForwardLossResult result =
        LossOf(flight.tape, flight.out.x_NTD, diffusion_, noised, static_cast<double>(options_.global_batch));
    AddLosses(result);
    flight.d_output = std::move(result.d_output);
    if (options_.beacon != nullptr) {
      options_.beacon->faults().PoisonGradient(step_ + 1, flight.d_output);
    }
    flight.out = {flight.out.x_NTD.WithoutValue(), {}};
    return {};
  }
  std::vector<Tensor> outputs{flight.out.x_NTD.value()};
  flight.out.x_NTD = flight.out.x_NTD.WithoutValue();
  if (flight.out.condition.defined()) outputs.push_back(flight.out.condition.value());
  return outputs;
}

std::vector<Tensor> DitStage::Backward(int part, int micro_batch, std::vector<Tensor> output_grads,
                                       bool defer_weights) {
  Enter(Phase::kBackward);
  const NvtxRange range("backward");
  InFlight& flight = *in_flight_.at({part, micro_batch});
  std::vector<Tape::Seed> seeds;
  if (is_last(part)) {
    seeds.push_back({flight.out.x_NTD, std::move(flight.d_output)});
  } else {
    seeds.push_back({flight.out.x_NTD, std::move(output_grads[0])});
    if (output_grads.size() > 1) {
      // Later blocks' share of the condition's gradient comes first; this part's blocks add to it.
      if (flight.out.condition.producer() != nullptr) {
        seeds.push_back({flight.out.condition, std::move(output_grads[1])});
      } else {
        flight.condition.grad = std::move(output_grads[1]);
        flight.condition.grad_written = true;
      }
    }
  }
  flight.tape.Backward(std::move(seeds), {.observer = observer_, .defer_weights = defer_weights});
  if (units_ != nullptr) units_->EndBackward();
  if (non_finite_node_.empty()) non_finite_node_ = flight.tape.NonFiniteNode();
  std::vector<Tensor> input_grads;
  if (!is_first(part)) {
    input_grads.push_back(std::move(flight.tokens.grad));
    if (flight.condition.value.defined()) input_grads.push_back(std::move(flight.condition.grad));
  }
  if (!defer_weights) in_flight_.erase({part, micro_batch});
  return input_grads;
}

void DitStage::BackwardWeights(int part, int micro_batch) {
  const NvtxRange range("backward weights");
  in_flight_.at({part, micro_batch})->tape.RunDeferredWeights();
  in_flight_.erase({part, micro_batch});
}

}  // namespace shardit
