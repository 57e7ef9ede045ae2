#include "trainer/train/sharded_forward.h"

#include <cstring>
#include <utility>
#include <vector>

#include "trainer/train/train_step.h"

namespace shardit {

// One forward pass as a micro-batch of a pipeline.
class ShardedForward::Stage : public PipelineStage {
 public:
  Stage(ShardedForward& owner, const DitInput& input) : owner_(owner), input_(input) {}

  // The model's output, where the chain ends on this rank; else undefined.
  Tensor output;

  int parts() const override { return static_cast<int>(sharding().parts.size()); }
  std::vector<BoundaryTensor> Inputs(int part) const override {
    return BoundaryInputs(model(), sharding(), part, input_.x_NCHW.dim(0), DType::kF32);
  }
  std::vector<Tensor> Forward(int part, int, std::vector<Tensor> inputs) override {
    Tape tape(owner_.context_, Tape::Mode::kInference);
    DitFlow flow;
    if (!inputs.empty()) flow.x_NTD = Var(std::move(inputs[0]));
    if (inputs.size() > 1) flow.condition = Var(std::move(inputs[1]));
    const UnitRange units = sharding().parts[static_cast<size_t>(part)];
    flow = model().ForwardUnits(tape, units, &input_, std::move(flow),
                                {.tensor_axis = owner_.tensor_axis_.get(), .units = owner_.gatherer_.get()});
    if (units.end == model().units()) {
      output = flow.x_NTD.value();
      return {};
    }
    std::vector<Tensor> outputs{flow.x_NTD.value()};
    if (flow.condition.defined()) outputs.push_back(flow.condition.value());
    return outputs;
  }
  std::vector<Tensor> Backward(int, int, std::vector<Tensor>, bool) override { return {}; }
  void BackwardWeights(int, int) override {}

 private:
  const Dit& model() const { return owner_.state_.ema_model(); }
  const Sharding& sharding() const { return owner_.state_.sharding(); }

  ShardedForward& owner_;
  const DitInput& input_;
};

namespace {

std::unique_ptr<ParameterGatherer> MakeEmaGatherer(RankContext& context, TrainState& state, Communicator& data) {
  if (state.sharding().zero_stage == 0) return nullptr;
  return std::make_unique<UnitGatherer>(context, data, state.ema_layout(), state.ema(), UnitRangesOf(state.sharding()));
}

}  // namespace

ShardedForward::ShardedForward(RankContext& context, TrainState& state, const StepComms& comms)
    : context_(context),
      state_(state),
      comms_(comms),
      tensor_axis_(MakeTensorAxis(state.ema_model(), state.sharding(), comms.tensor())),
      gatherer_(MakeEmaGatherer(context, state, comms.parameters())),
      executor_({.kind = state.sharding().schedule,
                 .ranks = state.sharding().shape.pp,
                 .micro_batches = 1,
                 .parts = static_cast<int>(state.sharding().parts.size())},
                comms.pipeline(), context) {}

ShardedForward::~ShardedForward() = default;

Tensor ShardedForward::Run(const DitInput& input) {
  if (gatherer_ != nullptr) gatherer_->StartGather();
  Stage stage(*this, input);
  executor_.RunForward(stage, 1);
  if (gatherer_ != nullptr) gatherer_->FinishAll();
  Communicator& pipeline = comms_.pipeline();
  if (pipeline.size() == 1) return stage.output;
  const DitConfig& model = config();
  Tensor output = stage.output;
  if (!output.defined()) {
    output = Tensor::Empty(context_.allocator(), {input.x_NCHW.dim(0), model.out_channels(), model.side, model.side});
  }
  // Pipeline axis: the last rank has the end of the chain.
  pipeline.Broadcast(output.data(), output.elements(), pipeline.size() - 1, {.tag = "output", .control = true}).Wait();
  return output;
}

SampledModel ShardedForward::sampled_model() {
  return [this](const float* x, const int64_t* t, const int32_t* y, int64_t n, float* out) {
    Run(InputFromHost(context_, config(), x, t, y, n)).ToHost(out);
  };
}

}  // namespace shardit
