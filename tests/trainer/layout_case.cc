#include "tests/trainer/layout_case.h"

#include <cmath>
#include <limits>
#include <memory>

#include "absl/strings/str_cat.h"
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

  Samples(const DitConfig& config, const LayoutCase& layout, int dp_rank, int64_t micro_batch, int step) {
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
void Collect(const TrainState& state, const Tensor& values, Placement placement,
             std::map<std::string, std::vector<float>>& into) {
  const TensorPart tensor = state.sharding().tensor();
  for (const StateRun& run : StateRuns(state.owned(), placement, tensor)) {
    if (!(tensor.size > 1 && run.parameter->shard.dim >= 0) && tensor.index != 0) continue;
    std::vector<float>& whole = into[run.parameter->name];
    whole.resize(static_cast<size_t>(run.parameter->shape.elements()));
    CopyBox(run.box, values.data() + run.begin, WholeBox({run.parameter->shape.begin(), run.parameter->shape.end()}),
            whole.data());
  }
}

void RunRank(World& world, const LayoutCase& layout, std::mutex& mutex, LayoutOutcome& outcome) {
  const DitConfig config = LayoutModel(layout.conditioning);
  Mesh mesh = *Mesh::Create({layout.pp, layout.dp, layout.tp}, world.comm());
  const StepComms comms(mesh);
  RankContext context(1);
  const ParallelOptions parallel{.dp = layout.dp,
                                 .tp = layout.tp,
                                 .pp = layout.pp,
                                 .zero_stage = layout.zero_stage,
                                 .sequence_parallel = layout.sequence_parallel,
                                 .schedule = layout.schedule,
                                 .virtual_stages = layout.virtual_stages};
  Sharding sharding = MakeSharding(config, parallel, layout.deterministic, mesh.shape(), mesh.coords());
  sharding.bucket_bytes = 32 << 10;  // several buckets
  TrainState state(config, sharding, context.allocator());
  for (const auto& parameter : state.model().parameters().all()) parameter->init = Init::Normal(0.05);
  state.Initialize(3);
  const Diffusion diffusion({});
  const Optimizer optimizer({.learning_rate = 1e-3, .clip_norm = 0.5, .warmup_steps = 3}, {.decay = 0.9}, layout.steps);
  const int64_t local = kLayoutBatch / layout.dp;
  int64_t micro_batch = layout.micro_batch;
  if (layout.deterministic) micro_batch = kLayoutBatch / 8;
  if (micro_batch == 0) micro_batch = layout.pp == 1 ? local : std::max<int64_t>(1, local / (2 * layout.pp));
  TrainStep step(context, state, diffusion, optimizer, comms,
                 {.seed = 5, .global_batch = kLayoutBatch, .micro_batch = micro_batch, .recompute = layout.recompute});
  std::vector<double> losses, norms;
  std::vector<StepReport> reports;
  StepComms::Bytes before, after;
  for (int s = 0; s < layout.steps; ++s) {
    const Samples samples(config, layout, mesh.coords().dp, micro_batch, s);
    before = comms.BytesSent();
    reports.push_back(step.Run(samples.batch()));
    after = comms.BytesSent();
    losses.push_back(reports.back().loss);
    norms.push_back(reports.back().update.grad_norm);
  }
  step.FinishGather();
  const std::lock_guard lock(mutex);
  const Placement kept = sharding.zero_stage == 0 ? Placement::kFlat : Placement::kShard;
  Collect(state, state.grads(), state.grads_placement(), outcome.gradients);
  Collect(state, state.weights(), state.weights_placement(), outcome.weights);
  Collect(state, state.ema(), kept, outcome.ema);
  Collect(state, state.adam_m(), kept, outcome.adam_m);
  Collect(state, state.adam_v(), kept, outcome.adam_v);
  outcome.bytes_last_step[static_cast<size_t>(world.rank())] = {after.dp - before.dp, after.tp - before.tp,
                                                                after.pp - before.pp};
  outcome.memory[static_cast<size_t>(world.rank())] = context.allocator().stats();
  if (world.rank() != 0) return;
  outcome.losses = losses;
  outcome.norms = norms;
  outcome.reports = std::move(reports);
}

}  // namespace

std::string LayoutCase::Text() const {
  std::string text = absl::StrCat(std::string(shardit::Name(conditioning)), " pp", pp, " dp", dp, " tp", tp);
  if (sequence_parallel) text += " sp";
  if (zero_stage > 0) absl::StrAppend(&text, " zero", zero_stage);
  if (pp > 1) absl::StrAppend(&text, " ", std::string(shardit::Name(schedule)));
  if (virtual_stages > 1) absl::StrAppend(&text, " v", virtual_stages);
  if (recompute != RecomputeMode::kNone) absl::StrAppend(&text, " recompute ", std::string(Name(recompute)));
  if (micro_batch > 0) absl::StrAppend(&text, " micro-batch ", micro_batch);
  if (deterministic) text += " deterministic";
  return text;
}

DitConfig LayoutModel(Conditioning conditioning) {
  DitConfig config;
  config.depth = 6;
  config.width = 48;
  config.heads = 12;
  config.patch = 2;
  config.channels = 2;
  config.side = 8;
  config.classes = 3;
  config.conditioning = conditioning;
  return config;
}

LayoutOutcome RunLayout(const LayoutCase& layout) {
  LayoutOutcome outcome;
  outcome.bytes_last_step.resize(static_cast<size_t>(layout.world()));
  outcome.memory.resize(static_cast<size_t>(layout.world()));
  std::mutex mutex;
  RunThreadWorld(layout.world(), [&](World& world) { RunRank(world, layout, mutex, outcome); });
  return outcome;
}

double RelativeDistance(const std::map<std::string, std::vector<float>>& a,
                        const std::map<std::string, std::vector<float>>& b, std::string* worst) {
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
    if (!(relative > largest)) continue;
    largest = relative;
    if (worst != nullptr) *worst = name;
  }
  return largest;
}

}  // namespace shardit
