#include "tests/trainer/layout_case.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/cuda/device_query.h"
#include "core/tensor/rng.h"
#include "parallel/mesh.h"

namespace shardit {
namespace {

std::string_view Name(RecomputeMode mode) {
  switch (mode) {
    case RecomputeMode::kNone:
      return "NONE";
    case RecomputeMode::kSelective:
      return "SELECTIVE";
    case RecomputeMode::kFull:
      return "FULL";
  }
  return "?";
}

// This rank's samples of a step, in the order in which the loader would deal them out.
struct Samples {
  std::vector<float> x;
  std::vector<int32_t> y;
  std::vector<int64_t> positions;

  Samples(const LayoutCase& layout, int dp_rank, int64_t micro_batch, int64_t step) {
    const DitConfig config = layout.Model();
    const int64_t local = kLayoutBatch / layout.dp, elements = config.latent_elements();
    const int64_t micro_batches = local / micro_batch;
    x.resize(static_cast<size_t>(local * elements));
    for (int64_t i = 0; i < local; ++i) {
      const int64_t shard = layout.deterministic
                                ? GradReducer::VirtualShard(layout.dp == 1 ? 0 : layout.zero_stage, layout.dp, dp_rank,
                                                            micro_batches, i / micro_batch)
                                : dp_rank * micro_batches + i / micro_batch;
      const int64_t position = step * kLayoutBatch + shard * micro_batch + i % micro_batch;
      positions.push_back(position);
      y.push_back(static_cast<int32_t>(position % config.classes));
      FillNormal({.seed = 8, .stream = static_cast<uint64_t>(position)}, 0, elements, x.data() + i * elements);
    }
  }
  Batch batch() const { return {.x = x, .y = y, .positions = positions}; }
};

// Adds what this rank answers for of one range of its state.
void Collect(const TrainState& state, const Tensor& values, Placement placement, TensorsByName& into) {
  const TensorPart tensor = state.sharding().tensor();
  for (const StateRun& run : StateRuns(state.owned(), placement, tensor)) {
    if (!(tensor.size > 1 && run.parameter->shard.dim >= 0) && tensor.index != 0) continue;
    std::vector<float>& whole = into[run.parameter->name];
    whole.resize(static_cast<size_t>(run.parameter->shape.elements()));
    std::vector<float> part(static_cast<size_t>(Volume(run.box)));
    values.Narrow(0, run.begin, Volume(run.box)).ToHost(part.data());
    CopyBox(run.box, part.data(), WholeBox({run.parameter->shape.begin(), run.parameter->shape.end()}), whole.data());
  }
}

Sharding ShardingOf(const LayoutCase& layout, const Mesh& mesh) {
  const ParallelOptions parallel{.dp = layout.dp,
                                 .tp = layout.tp,
                                 .pp = layout.pp,
                                 .zero_stage = layout.zero_stage,
                                 .sequence_parallel = layout.sequence_parallel,
                                 .schedule = layout.schedule,
                                 .virtual_stages = layout.virtual_stages};
  Sharding sharding = MakeSharding(layout.Model(), parallel, layout.deterministic, mesh.shape(), mesh.coords(),
                                   ComputeType(layout.gpu.value_or(OnGpu{}).precision));
  sharding.bucket_bytes = 32 << 10;  // several buckets
  return sharding;
}

RankContext ContextOf(const World& world, const LayoutCase& layout) {
  if (!layout.gpu.has_value()) return RankContext(1);
  const Device device = Device::Cuda(world.rank() % static_cast<int>(cuda::Devices().size()));
  return RankContext(device,
                     {.tf32 = layout.gpu->precision == Precision::kTf32,
                      .deterministic = layout.deterministic,
                      .tune_products = layout.gpu->tune},
                     1);
}

int64_t Sent(const Communicator& comm) { return comm.counters().TotalData().ring_bytes; }

void RunRank(World& world, const LayoutCase& layout, std::mutex& mutex, LayoutOutcome& outcome) {
  LayoutRank rank(world, layout);
  std::vector<double> losses, norms;
  std::vector<StepReport> reports;
  DataBytes before;
  int64_t allocations_after_two = 0;
  for (int s = 0; s < layout.steps; ++s) {
    before = rank.Sent();
    reports.push_back(rank.Step());
    losses.push_back(reports.back().loss);
    norms.push_back(reports.back().update.grad_norm);
    if (s < 2) allocations_after_two = rank.memory().system_allocations;
    if (s > 0) continue;
    const std::lock_guard lock(mutex);
    rank.AddGradients(outcome.gradients);
  }
  const DataBytes sent = rank.Sent() - before;
  rank.FinishGather();
  const std::lock_guard lock(mutex);
  rank.AddState(outcome.state);
  LayoutOutcome::Rank& mine = outcome.ranks[static_cast<size_t>(world.rank())];
  mine = {.coords = rank.coords(),
          .parts = rank.state().sharding().parts,
          .padded = rank.state().layout().size(),
          .sent = sent,
          .memory = rank.memory(),
          .allocations_after_two = allocations_after_two,
          .graph_nodes = rank.graph_nodes()};
  for (const FlatLayout::Bucket& bucket : rank.state().layout().buckets()) mine.per_token += bucket.per_token.size();
  if (world.rank() != 0) return;
  outcome.losses = losses;
  outcome.norms = norms;
  outcome.reports = std::move(reports);
}

}  // namespace

int64_t LayoutCase::ResolvedMicroBatch() const {
  const int64_t local = kLayoutBatch / dp;
  if (deterministic) return kLayoutBatch / 8;
  if (micro_batch > 0) return micro_batch;
  return pp == 1 ? local : std::max<int64_t>(1, local / (2 * pp));
}

std::string LayoutCase::Text() const {
  std::string text = absl::StrCat(std::string(shardit::Name(conditioning)), " pp", pp, " dp", dp, " tp", tp);
  if (sequence_parallel) text += " sp";
  if (zero_stage > 0) absl::StrAppend(&text, " zero", zero_stage);
  if (pp > 1) absl::StrAppend(&text, " ", std::string(shardit::Name(schedule)));
  if (virtual_stages > 1) absl::StrAppend(&text, " v", virtual_stages);
  if (recompute != RecomputeMode::kNone) absl::StrAppend(&text, " recompute ", std::string(Name(recompute)));
  if (micro_batch > 0) absl::StrAppend(&text, " micro-batch ", micro_batch);
  if (deterministic) text += " deterministic";
  if (gpu.has_value()) {
    const char* const precisions[] = {"FP32", "TF32", "BF16"};
    absl::StrAppend(&text, " GPU ", precisions[static_cast<int>(gpu->precision)], gpu->graph ? " graph" : "");
  }
  return text;
}

std::string LayoutCase::TestName() const {
  std::string name = Text();
  for (char& c : name) c = absl::ascii_isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
}

DitConfig LayoutCase::Model() const {
  DitConfig config;
  config.depth = depth;
  config.width = 48;
  config.heads = heads;
  config.patch = 2;
  config.channels = 2;
  config.side = 8;
  config.classes = 3;
  config.conditioning = conditioning;
  return config;
}

LayoutRank::LayoutRank(World& world, const LayoutCase& layout)
    : layout_(layout),
      micro_batch_(layout.ResolvedMicroBatch()),
      context_(ContextOf(world, layout)),
      mesh_(*Mesh::Create({layout.pp, layout.dp, layout.tp}, world.comm())),
      comms_(mesh_, context_),
      state_(layout.Model(), ShardingOf(layout, mesh_), context_.allocator()),
      diffusion_({}),
      optimizer_({.learning_rate = 1e-3, .clip_norm = 0.5, .warmup_steps = 3}, {.decay = 0.9}, 10),
      step_(context_, state_, diffusion_, optimizer_, comms_,
            {.seed = 5,
             .global_batch = kLayoutBatch,
             .micro_batch = micro_batch_,
             .recompute = layout.recompute,
             .cuda_graph = layout.gpu.value_or(OnGpu{}).graph}) {
  for (const auto& parameter : state_.model().parameters().all()) parameter->init = Init::Normal(0.05);
  state_.Initialize(3);
  state_.RefreshComputeWeights(context_);
}

StepReport LayoutRank::Step() {
  const Samples samples(layout_, coords().dp, micro_batch_, state_.step);
  return step_.Run(samples.batch());
}

DataBytes LayoutRank::Sent() const {
  return {.dp = shardit::Sent(comms_.gradients()) + shardit::Sent(comms_.parameters()),
          .tp = shardit::Sent(comms_.tensor()) + shardit::Sent(comms_.token_gradients()),
          .pp = shardit::Sent(comms_.pipeline())};
}

void LayoutRank::AddState(WholeState& whole) const {
  const Placement kept = state_.sharding().zero_stage == 0 ? Placement::kFlat : Placement::kShard;
  Collect(state_, state_.weights(), state_.weights_placement(), whole.weights);
  Collect(state_, state_.ema(), kept, whole.ema);
  Collect(state_, state_.adam_m(), kept, whole.adam_m);
  Collect(state_, state_.adam_v(), kept, whole.adam_v);
}

void LayoutRank::AddGradients(TensorsByName& whole) const {
  Collect(state_, state_.grads(), state_.grads_placement(), whole);
}

LayoutOutcome TrainLayout(const LayoutCase& layout) {
  LayoutOutcome outcome;
  outcome.ranks.resize(static_cast<size_t>(layout.world()));
  std::mutex mutex;
  RunThreadWorld(layout.world(), [&](World& world) { RunRank(world, layout, mutex, outcome); });
  return outcome;
}

double RelativeDistance(const TensorsByName& a, const TensorsByName& b, std::string* worst) {
  double largest = a.size() == b.size() ? 0.0 : std::numeric_limits<double>::infinity();
  for (const auto& [name, expected] : b) {
    const auto found = a.find(name);
    if (found == a.end() || found->second.size() != expected.size()) return std::numeric_limits<double>::infinity();
    double difference = 0.0, norm = 0.0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double delta = static_cast<double>(found->second[i]) - static_cast<double>(expected[i]);
      difference += delta * delta;
      norm += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
    }
    const double relative = std::sqrt(difference / std::max(norm, 1e-300));
    if (std::isnan(relative)) return std::numeric_limits<double>::infinity();
    if (relative <= largest) continue;
    largest = relative;
    if (worst != nullptr) *worst = name;
  }
  return largest;
}

double RelativeDistance(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = a.size() == b.size() ? 0.0 : std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double relative = std::abs(a[i] - b[i]) / std::abs(b[i]);
    if (std::isnan(relative)) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, relative);
  }
  return largest;
}

}  // namespace shardit
