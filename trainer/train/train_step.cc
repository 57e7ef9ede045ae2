#include "trainer/train/train_step.h"

#include <cmath>
#include <utility>

namespace shardit {
namespace {

std::unique_ptr<ParameterGatherer> MakeGatherer(RankContext& context, TrainState& state, Communicator& data) {
  const Sharding& sharding = state.sharding();
  if (sharding.zero_stage == 0) return nullptr;
  if (sharding.zero_stage < 3) {
    return std::make_unique<WholeGatherer>(context, data, state.layout(), state.weights());
  }
  return std::make_unique<UnitGatherer>(context, data, state.layout(), state.weights(), UnitRangesOf(sharding));
}

PipelineSpec Spec(const Sharding& sharding, const StepOptions& options) {
  return {.kind = sharding.schedule,
          .ranks = sharding.shape.pp,
          .micro_batches = static_cast<int>(options.global_batch / (sharding.shape.dp * options.micro_batch)),
          .parts = static_cast<int>(sharding.parts.size())};
}

}  // namespace

std::unique_ptr<TensorParallel> MakeTensorAxis(const Dit& model, const Sharding& sharding, Communicator& axis) {
  if (sharding.shape.tp == 1) return nullptr;
  return std::make_unique<TensorParallel>(axis, sharding.sequence_parallel ? model.flow_tokens() : 0);
}

TrainStep::TrainStep(RankContext& context, TrainState& state, const Diffusion& diffusion, const Optimizer& optimizer,
                     const StepComms& comms, const StepOptions& options)
    : context_(context),
      state_(state),
      optimizer_(optimizer),
      comms_(comms),
      options_(options),
      tensor_axis_(MakeTensorAxis(state.model(), state.sharding(), comms.tensor())),
      gatherer_(MakeGatherer(context, state, comms.parameters())),
      reducer_(context, comms.gradients(), state.sharding().sequence_parallel ? &comms.token_gradients() : nullptr,
               state.layout(), state.grads(),
               {.zero_stage = state.sharding().zero_stage, .deterministic = state.sharding().deterministic}),
      stage_(context, state.model(), state.sharding(), diffusion, tensor_axis_.get(), gatherer_.get(), &reducer_,
             options.stage()),
      executor_(Spec(state.sharding(), options), comms.pipeline(), context) {}

TrainStep::~TrainStep() = default;

int64_t TrainStep::micro_batches() const { return Spec(state_.sharding(), options_).micro_batches; }

void TrainStep::FinishGather() {
  if (gatherer_ != nullptr) gatherer_->FinishAll();
}

void TrainStep::Enter(Phase phase) {
  if (options_.beacon != nullptr) options_.beacon->Enter(phase, state_.step + 1);
}

void TrainStep::RunGradients(const Batch& batch, StepReport& report) {
  context_.timeline().BeginStep(state_.step);
  reducer_.BeginStep(static_cast<int>(micro_batches()));
  stage_.BeginStep(batch, state_.step);
  executor_.Run(stage_);
  report.backward_end = StepReport::Time::clock::now();
  Enter(Phase::kCollective);
  report.non_finite_node = stage_.non_finite_node();
  report.reduce = reducer_.Finish();
}

LossResult TrainStep::SumLosses() {
  const TimedSpan span(context_.timeline(), SpanKind::kWait, "losses");
  // World: the losses lie on the last stages.
  return AllReduceMeans(comms_.control(), stage_.losses(), options_.global_batch);
}

StepReport TrainStep::Run(const Batch& batch) {
  StepReport report;
  RunGradients(batch, report);
  const LossResult losses = SumLosses();
  report.loss = losses.loss;
  report.mse = losses.mse;
  report.vb = losses.vb;
  FinishGather();
  Enter(Phase::kUpdate);
  {
    const TimedSpan span(context_.timeline(), SpanKind::kUpdate, "update");
    report.spike = options_.numerics != nullptr && options_.numerics->IsSpike(report.loss);
    report.update = optimizer_.Step(context_, state_, comms_.control(), std::isfinite(report.loss) && !report.spike);
  }
  if (gatherer_ != nullptr) gatherer_->StartGather();
  report.end = StepReport::Time::clock::now();
  return report;
}

}  // namespace shardit
