#include "trainer/plan/rank_plan.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"
#include "core/tensor/rank_context.h"
#include "model/diffusion.h"
#include "trainer/train/optimizer.h"
#include "trainer/train/step_comms.h"
#include "trainer/train/train_state.h"
#include "trainer/train/train_step.h"

namespace shardit {
namespace {

AxisBytes DataSent(const StepComms& comms) {
  const auto data = [](const Communicator& comm) { return comm.counters().TotalData().ring_bytes; };
  return {.dp = data(comms.gradients()) + data(comms.parameters()),
          .tp = data(comms.tensor()) + data(comms.token_gradients()),
          .pp = data(comms.pipeline())};
}

AxisBytes AllSent(const StepComms& comms) {
  const StepComms::Bytes bytes = comms.BytesSent();
  return {bytes.dp, bytes.tp, bytes.pp};
}

AxisBytes operator-(const AxisBytes& a, const AxisBytes& b) { return {a.dp - b.dp, a.tp - b.tp, a.pp - b.pp}; }

double Seconds(const Span& span) { return std::chrono::duration<double>(span.end - span.begin).count(); }

// Mean pass times by part, from the timeline of one step.
void ReadPasses(const Timeline& timeline, int64_t step, int64_t micro_batches, RankPlan* plan) {
  plan->costs.assign(plan->parts.size(), {});
  for (const Span& span : timeline.spans()) {
    if (span.step != step) continue;
    if (span.kind == SpanKind::kUpdate) plan->update_seconds += Seconds(span);
    if (span.part < 0) continue;
    StageCost& cost = plan->costs[static_cast<size_t>(span.part)];
    const double share = Seconds(span) / static_cast<double>(micro_batches);
    if (span.kind == SpanKind::kForward) cost.forward += share;
    if (span.kind == SpanKind::kBackward) cost.backward += share;
    if (span.kind == SpanKind::kWeights) cost.weights += share;
  }
  for (const StageCost& cost : plan->costs) {
    plan->passes_seconds += static_cast<double>(micro_batches) * (cost.forward + cost.backward + cost.weights);
  }
}

// A step of exactly `micro_batches`.
RankPlan PlanSteps(RunOptions options, const MeshShape& shape, const MeshCoords& coords, const ClusterFigures& figures,
                   const RankPlacement& placement, int64_t micro_batches) {
  options.train.global_batch = shape.dp * options.train.micro_batch * micro_batches;
  CostRecorder clock(PriceOf(figures, placement));
  const DType compute = ComputeType(options.train.precision);
  RankContext context = RankContext::Planning(clock, figures.devices_are_cores ? Device::Cpu() : Device::Cuda(0));
  context.timeline().Enable();
  CollectiveLog log;
  PlannedNetwork network(figures, placement, shape, &clock);
  FakeCommunicator world(RankOf(shape, coords), shape.ranks(), "world", &log, &network);
  Mesh mesh = Mesh::Fake(shape, world);
  const StepComms comms(mesh);
  const Sharding sharding =
      MakeSharding(options.model, options.parallel, options.train.deterministic, shape, coords, compute);
  TrainState state(options.model, sharding, context.allocator());
  const Diffusion diffusion(options.diffusion);
  const Optimizer optimizer(options.optimizer, options.ema, options.train.steps);
  TrainStep step(context, state, diffusion, optimizer, comms,
                 {.global_batch = options.train.global_batch,
                  .micro_batch = options.train.micro_batch,
                  .recompute = options.parallel.recompute});

  RankPlan plan{.coords = coords, .parts = sharding.parts, .padded = state.layout().size()};
  for (const FlatLayout::Entry& entry : state.layout().entries()) plan.parameters += entry.count;
  for (const FlatLayout::Bucket& bucket : state.layout().buckets()) plan.per_token += bucket.per_token.size();
  const Batch batch;
  step.Run(batch);
  const AxisBytes sent = AllSent(comms), sent_data = DataSent(comms);
  const double begin = clock.seconds();
  std::array<double, kPlanAxes> waited{};
  for (size_t axis = 0; axis < waited.size(); ++axis) waited[axis] = network.waited(static_cast<PlanAxis>(axis));
  clock.ClearTotals();
  step.Run(batch);
  plan.sent = AllSent(comms) - sent;
  plan.sent_data = DataSent(comms) - sent_data;
  plan.seconds = clock.seconds() - begin;
  for (size_t axis = 0; axis < waited.size(); ++axis) {
    plan.waited[axis] = network.waited(static_cast<PlanAxis>(axis)) - waited[axis];
  }
  plan.kernels = clock.totals();
  plan.memory = context.allocator().stats();
  ReadPasses(context.timeline(), /*step=*/1, micro_batches, &plan);
  return plan;
}

// plan + (later - plan) * times: everything that was counted.
void Extrapolate(const RankPlan& later, double times, RankPlan* plan) {
  const auto grow = [times](auto* value, auto other) {
    *value += static_cast<std::decay_t<decltype(*value)>>(static_cast<double>(other - *value) * times);
  };
  for (auto bytes : {&RankPlan::sent, &RankPlan::sent_data}) {
    for (auto axis : {&AxisBytes::dp, &AxisBytes::tp, &AxisBytes::pp}) {
      grow(&((*plan).*bytes.*axis), later.*bytes.*axis);
    }
  }
  // GPIPE holds every micro-batch until the last forward; other schedules as many as the pipeline has stages.
  grow(&plan->memory.peak_bytes_in_use, later.memory.peak_bytes_in_use);
  for (size_t owner = 0; owner < plan->memory.peak_by_owner.size(); ++owner) {
    grow(&plan->memory.peak_by_owner[owner], later.memory.peak_by_owner[owner]);
  }
  grow(&plan->seconds, later.seconds);
  grow(&plan->passes_seconds, later.passes_seconds);
  for (size_t axis = 0; axis < plan->waited.size(); ++axis) grow(&plan->waited[axis], later.waited[axis]);
  for (auto& [name, total] : plan->kernels) {
    const auto other = later.kernels.find(name);
    if (other == later.kernels.end()) continue;
    grow(&total.calls, other->second.calls);
    grow(&total.flops, other->second.flops);
    grow(&total.bytes, other->second.bytes);
    grow(&total.seconds, other->second.seconds);
  }
}

// Messages that one micro-batch sends from a rank, over all its parts.
int64_t Messages(const RankPlan& plan, const MeshShape& shape) {
  const int64_t parts = static_cast<int64_t>(plan.parts.size()), stages = parts * shape.pp;
  int64_t messages = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t stage = part * shape.pp + plan.coords.pp;
    messages += (stage > 0 ? 1 : 0) + (stage + 1 < stages ? 1 : 0);
  }
  return messages;
}

RankPlan PlanMicroBatches(const RunOptions& options, const MeshShape& shape, const MeshCoords& coords,
                          const ClusterFigures& figures, const RankPlacement& placement, int64_t micro_batches) {
  // Whole rounds of the pipeline on top of the same remainder: interleaved schedules deal micro-batches by rounds.
  const int64_t round = shape.pp, rest = micro_batches % round;
  const int64_t full = rest + 4 * round;
  if (micro_batches <= full + round || options.train.deterministic) {
    return PlanSteps(options, shape, coords, figures, placement, micro_batches);
  }
  RankPlan plan = PlanSteps(options, shape, coords, figures, placement, full);
  const RankPlan later = PlanSteps(options, shape, coords, figures, placement, full + round);
  Extrapolate(later, static_cast<double>((micro_batches - full) / round), &plan);
  return plan;
}

}  // namespace

RankPlan PlanRank(const RunOptions& options, const MeshShape& shape, const MeshCoords& coords,
                  const ClusterFigures& figures, const RankPlacement& placement) {
  const int64_t micro_batches = options.train.global_batch / (shape.dp * options.train.micro_batch);
  RankPlan plan = PlanMicroBatches(options, shape, coords, figures, placement, micro_batches);
  if (shape.pp > 1) plan.boundary_bytes = plan.sent_data.pp / (micro_batches * Messages(plan, shape));
  return plan;
}

std::vector<int> FirstAlike(const RunOptions& options, const MeshShape& shape) {
  std::map<std::vector<int>, int> first;
  std::vector<int> alike;
  for (int pp = 0; pp < shape.pp; ++pp) {
    const Sharding sharding = MakeSharding(options.model, options.parallel, options.train.deterministic, shape,
                                           {.pp = pp}, ComputeType(options.train.precision));
    std::vector<int> key{sharding.holds_input(),
                         sharding.parts.back().end == static_cast<int>(options.model.depth) + 2};
    for (const UnitRange& part : sharding.parts) key.push_back(part.end - part.begin);
    alike.push_back(first.try_emplace(std::move(key), pp).first->second);
  }
  return alike;
}

}  // namespace shardit
