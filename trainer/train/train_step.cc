#include "trainer/train/train_step.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/cuda/graph.h"
#include "core/cuda/nvtx.h"
#include "parallel/comm/replayed_traffic.h"
#include "trainer/train/device_batch.h"
#include "trainer/train/device_update.h"

namespace shardit {

// What a step on a GPU needs besides.
struct TrainStep::OnDevice {
  OnDevice(RankContext& context, TrainState& state, const StepComms& comms, const StepOptions& options)
      : update(context, state), traffic(comms.all()) {
    const Sharding& sharding = state.sharding();
    if (!sharding.holds_input() && !sharding.holds_output(state.model())) return;
    batch.emplace(context, state.model().config(), options.global_batch / sharding.shape.dp);
  }

  DeviceUpdate update;
  std::optional<DeviceBatch> batch;  // none where no end of the chain lives on this rank
  std::unique_ptr<cuda::Graph> graph;
  ReplayedTraffic traffic;
  ReduceReport reduce;     // of the recorded step
  int64_t unrecorded = 0;  // steps so far
};

namespace {

// Steps before the recording: the first allocates and loads kernels, the second finds everything in place.
constexpr int64_t kUnrecordedSteps = 2;

std::unique_ptr<ParameterGatherer> MakeGatherer(RankContext& context, TrainState& state, Communicator& data) {
  const Sharding& sharding = state.sharding();
  if (sharding.zero_stage == 0) return nullptr;
  if (sharding.zero_stage < 3) {
    return std::make_unique<WholeGatherer>(context, data, state.layout(), state.compute_weights());
  }
  return std::make_unique<UnitGatherer>(context, data, state.layout(), state.compute_weights(), UnitRangesOf(sharding));
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
      executor_(Spec(state.sharding(), options), comms.pipeline(), context) {
  if (context.on_cuda()) device_ = std::make_unique<OnDevice>(context, state, comms, options);
}

TrainStep::~TrainStep() = default;

int64_t TrainStep::micro_batches() const { return Spec(state_.sharding(), options_).micro_batches; }

void TrainStep::FinishGather() {
  if (gatherer_ == nullptr) return;
  // On a GPU a step begins with the gather of its weights: between two steps they are what the last update left.
  if (device_ != nullptr) gatherer_->StartGather();
  gatherer_->FinishAll();
}

int64_t TrainStep::graph_nodes() const {
  return device_ == nullptr || device_->graph == nullptr ? 0 : device_->graph->nodes();
}

void TrainStep::Enter(Phase phase) {
  if (options_.beacon != nullptr) options_.beacon->Enter(phase, state_.step + 1);
}

StepReport TrainStep::Run(const Batch& batch) { return device_ == nullptr ? RunOnHost(batch) : RunOnDevice(batch); }

StepReport TrainStep::RunOnHost(const Batch& batch) {
  StepReport report;
  context_.timeline().BeginStep(state_.step);
  reducer_.BeginStep(static_cast<int>(micro_batches()));
  stage_.BeginStep(batch, state_.step);
  executor_.Run(stage_);
  report.backward_end = StepReport::Time::clock::now();
  Enter(Phase::kCollective);
  report.non_finite_node = stage_.non_finite_node();
  report.reduce = reducer_.Finish();
  const LossResult losses = SumLosses();
  report.loss = losses.loss;
  report.mse = losses.mse;
  report.vb = losses.vb;
  FinishGather();
  Enter(Phase::kUpdate);
  {
    const TimedSpan span(context_.timeline(), SpanKind::kUpdate, "update");
    report.spike = options_.numerics != nullptr && options_.numerics->IsSpike(report.loss);
    report.update = optimizer_.Step(context_, state_, comms_.sums(), std::isfinite(report.loss) && !report.spike);
  }
  if (gatherer_ != nullptr) gatherer_->StartGather();
  report.end = StepReport::Time::clock::now();
  return report;
}

LossResult TrainStep::SumLosses() {
  const TimedSpan span(context_.timeline(), SpanKind::kWait, "losses");
  // World: the losses lie on the last stages.
  return AllReduceMeans(comms_.sums(), stage_.losses(), options_.global_batch);
}

// Faults that tests plant, and the search for the operation whose gradient is not finite, happen on the host.
bool TrainStep::CanRecord() const {
  if (!options_.cuda_graph || options_.check_finite) return false;
  if (options_.beacon != nullptr && !options_.beacon->faults().empty()) return false;
  const std::vector<Communicator*> comms = comms_.all();
  return std::all_of(comms.begin(), comms.end(), [](const Communicator* comm) { return comm->recordable(); });
}

ReduceReport TrainStep::IssueOnDevice() {
  device_->update.sums().Zero();
  // Weights return under forward; where a graph repeats the step, they cannot be under way between two replays.
  if (gatherer_ != nullptr) gatherer_->StartGather();
  reducer_.BeginStep(static_cast<int>(micro_batches()));
  stage_.BeginStep(device_->batch.has_value() ? device_->batch->samples() : SampleTensors{}, device_->update.sums(),
                   state_.step);
  executor_.Run(stage_);
  const NvtxRange range("reduce and update");
  const ReduceReport reduce = reducer_.Finish();
  if (gatherer_ != nullptr) gatherer_->FinishAll();
  device_->update.Enqueue(comms_.sums());
  return reduce;
}

StepReport TrainStep::RunOnDevice(const Batch& batch) {
  OnDevice& device = *device_;
  StepReport report;
  context_.timeline().BeginStep(state_.step);
  const LossLimit limit = options_.numerics != nullptr ? options_.numerics->Limit() : LossLimit{};
  device.update.Begin(optimizer_.Begin(state_, static_cast<double>(options_.global_batch), limit));
  if (device.batch.has_value()) {
    device.batch->Stage(batch);
    device.batch->Take();
  }
  const Stream stream = context_.cuda().stream;
  if (device.graph == nullptr && device.unrecorded >= kUnrecordedSteps && CanRecord()) {
    device.traffic.Begin();
    device.graph = cuda::Graph::Capture(stream, [&] { device.reduce = IssueOnDevice(); });
    device.traffic.End();
  }
  if (device.graph != nullptr) {
    device.graph->Launch(stream);
    device.traffic.AddReplay();
  } else {
    device.reduce = IssueOnDevice();
    ++device.unrecorded;
  }
  report.backward_end = StepReport::Time::clock::now();
  Enter(Phase::kCollective);
  // The step's one wait for the device.
  context_.Synchronize();
  report.reduce = device.reduce;
  report.non_finite_node = stage_.non_finite_node();
  const UpdateControl& control = device.update.control();
  report.loss = control.loss;
  report.mse = control.mse;
  report.vb = control.vb;
  report.spike = control.spike != 0;
  Enter(Phase::kUpdate);
  report.update = optimizer_.End(control, state_);
  report.end = StepReport::Time::clock::now();
  return report;
}

}  // namespace shardit
