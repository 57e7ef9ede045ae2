#include "trainer/plan/unit_costs.h"

#include <algorithm>
#include <utility>

#include "core/autograd/tape.h"
#include "parallel/tensor/tensor_parallel.h"
#include "trainer/train/train_step.h"

namespace shardit {
namespace {

// Plans passes of one unit on rank 0 of a tensor axis.
class UnitPlanner {
 public:
  UnitPlanner(const ClusterFigures& figures, const RankPlacement& placement, Dit* model, const Sharding& sharding,
              int64_t images, RecomputeMode recompute)
      : clock_(PriceOf(figures, placement)),
        context_(RankContext::Planning(clock_)),
        network_(figures, placement, sharding.shape, &clock_),
        axis_(0, sharding.shape.tp, "tp", &log_, &network_),
        seams_(MakeTensorAxis(*model, sharding, axis_)),
        model_(model),
        images_(images),
        recompute_(recompute) {
    own_tokens_ = model->flow_tokens();
    if (sharding.sequence_parallel) own_tokens_ = PartRange(own_tokens_, sharding.shape.tp, 0).size();
    for (const auto& parameter : model->parameters().all()) {
      parameter->value = Tensor::Empty(context_.allocator(), parameter->value.shape(), sharding.compute);
      parameter->grad = Tensor::Empty(context_.allocator(), parameter->value.shape());
    }
  }
  ~UnitPlanner() {
    for (const auto& parameter : model_->parameters().all()) {
      parameter->value = Tensor::Meta(parameter->value.shape());
      parameter->grad = Tensor();
    }
  }

  UnitCost Plan(int unit) {
    UnitCost cost;
    for (const auto& parameter : model_->parameters().all()) {
      if (parameter->unit == unit) cost.parameters += parameter->value.elements();
      parameter->grad_written = false;
    }
    Leaf tokens, condition;
    DitFlow flow;
    if (unit > 0) flow = Input(&tokens, &condition);
    const DitInput input = unit == 0 ? Data() : DitInput{};
    Allocator& allocator = context_.allocator();
    const int64_t before = allocator.stats().bytes_in_use, sent = Sent();
    const double waited = network_.waited(PlanAxis::kTp);
    allocator.ResetPeak();

    Tape tape(context_);
    double at = clock_.seconds();
    const auto lap = [&] { return clock_.seconds() - std::exchange(at, clock_.seconds()); };
    flow = model_->ForwardUnits(tape, {unit, unit + 1}, &input, flow,
                                {.recompute = recompute_, .tensor_axis = seams_.get()});
    cost.forward = lap();
    cost.saved_bytes = allocator.stats().bytes_in_use - before;
    std::vector<Tape::Seed> seeds{
        {flow.x_NTD, Tensor::Empty(allocator, flow.x_NTD.shape(), flow.x_NTD.value().dtype())}};
    if (flow.condition.producer() != nullptr) {
      seeds.push_back({flow.condition, Tensor::Empty(allocator, flow.condition.shape())});
    }
    flow = {};
    tape.Backward(std::move(seeds), {.defer_weights = true});
    cost.backward = lap();
    tape.RunDeferredWeights();
    cost.weights = lap();
    cost.working_bytes = std::max<int64_t>(0, allocator.stats().peak_bytes_in_use - before - cost.saved_bytes);
    cost.tp_bytes = Sent() - sent;
    cost.waited = network_.waited(PlanAxis::kTp) - waited;
    return cost;
  }

 private:
  int64_t Sent() const { return axis_.counters().TotalData().ring_bytes; }

  DitInput Data() {
    const DitConfig& config = model_->config();
    Allocator& allocator = context_.allocator();
    return {Tensor::Empty(allocator, {images_, config.channels, config.side, config.side}),
            Tensor::Empty(allocator, {images_}, DType::kI64), Tensor::Empty(allocator, {images_}, DType::kI32)};
  }

  DitFlow Input(Leaf* tokens, Leaf* condition) {
    const DType dtype = model_->parameters().all().front()->value.dtype();
    tokens->value = Tensor::Empty(context_.allocator(), {images_, own_tokens_, model_->config().width}, dtype);
    tokens->grad_dtype = dtype;
    DitFlow flow{.x_NTD = Var(*tokens)};
    const Shape shape = model_->condition_shape(images_);
    if (shape.ndim() == 0) return flow;
    condition->value = Tensor::Empty(context_.allocator(), shape, dtype);
    flow.condition = Var(*condition);
    return flow;
  }

  CostRecorder clock_;
  RankContext context_;
  CollectiveLog log_;
  PlannedNetwork network_;
  FakeCommunicator axis_;
  const std::unique_ptr<TensorParallel> seams_;
  Dit* const model_;
  const int64_t images_;
  const RecomputeMode recompute_;
  int64_t own_tokens_ = 0;
};

}  // namespace

UnitCostCache::UnitCostCache(const RunOptions& options, const ClusterFigures& figures, const RankPlacement& placement)
    : options_(options), figures_(figures), placement_(placement) {}

const UnitCosts& UnitCostCache::Get(int tp, bool sequence_parallel, int64_t micro_batch, RecomputeMode recompute) {
  const auto [found, fresh] = costs_.try_emplace({tp, sequence_parallel, micro_batch, recompute});
  if (!fresh) return found->second;
  DitConfig config = options_.model;
  config.depth = 1;
  ParallelOptions parallel = options_.parallel;
  parallel.tp = tp;
  parallel.pp = parallel.dp = parallel.virtual_stages = 1;
  parallel.sequence_parallel = sequence_parallel;
  const Sharding sharding =
      MakeSharding(config, parallel, false, {.pp = 1, .dp = 1, .tp = tp}, {}, ComputeType(options_.train.precision));
  std::unique_ptr<Dit>& model = models_[tp];
  if (model == nullptr) {
    model = std::make_unique<Dit>(config);
    NarrowToRank(model->parameters(), sharding);
  }
  UnitPlanner planner(figures_, placement_, model.get(), sharding, micro_batch, recompute);
  found->second = {planner.Plan(0), planner.Plan(1), planner.Plan(2)};
  return found->second;
}

}  // namespace shardit
