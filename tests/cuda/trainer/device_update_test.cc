#include "trainer/train/device_update.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/cuda/graph.h"
#include "core/tensor/rng.h"
#include "parallel/comm/world.h"
#include "tests/cuda/device_buffer.h"
#include "trainer/train/optimizer.h"

namespace shardit {
namespace {

using cuda::DeviceVector;
using cuda::TestContext;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

class CudaUpdate : public cuda::CudaTest {};

// Members one by one: structs have padding.
void ExpectSame(const UpdateControl& got, const UpdateControl& want) {
  EXPECT_EQ(std::memcmp(&got.scalars, &want.scalars, sizeof(AdamwScalars)), 0);
  EXPECT_EQ(got.skip, want.skip);
  EXPECT_EQ(got.spike, want.spike);
  const auto same = [](double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); };
  EXPECT_TRUE(same(got.grad_norm, want.grad_norm)) << got.grad_norm << ", not " << want.grad_norm;
  EXPECT_TRUE(same(got.loss, want.loss)) << got.loss << ", not " << want.loss;
  EXPECT_TRUE(same(got.mse, want.mse)) << got.mse << ", not " << want.mse;
  EXPECT_TRUE(same(got.vb, want.vb)) << got.vb << ", not " << want.vb;
}

TEST_F(CudaUpdate, DecidesAsTheHostDoes) {
  UpdateInputs inputs{.scalars = {.keep = 0.875f, .step = 0.1f}, .clip_norm = 0.7, .images = 48};
  inputs.loss_limit = {.mean = 1.0 / 3.0, .spread = 0.1};
  const double near_limit = 48 * (1.0 / 3.0 + 0.1);
  int skipped = 0, spikes = 0, clipped = 0;
  for (const double clip_norm : {0.0, 0.7, 1e9}) {
    for (const double norm : {0.0, 1e-3, 0.7, 1.0 / 3.0, 1e30, kInfinity, kNan}) {
      for (const double loss : {0.0, 7.3, near_limit, 48.0, -1e3, kInfinity, kNan}) {
        inputs.clip_norm = clip_norm;
        // The terms differ in size, and one of them is subnormal.
        ExactSum sums[kStepSums];
        sums[kSquaresSum].Add(norm * norm);
        sums[kSquaresSum].Add(1e-20);
        sums[kLossSum].Add(loss);
        sums[kMseSum].Add(-loss);
        sums[kMseSum].Add(1e-310);
        sums[kVbSum].Add(0.1);
        std::vector<int64_t> limbs;
        for (ExactSum& sum : sums) limbs.insert(limbs.end(), sum.limbs().begin(), sum.limbs().end());
        // As digits that were added up without a carry.
        limbs[20] += int64_t{1} << 33, limbs[21] -= 2;
        const DeviceVector<UpdateInputs> device_inputs(std::vector{inputs});
        const DeviceVector<int64_t> device_limbs(limbs);
        DeviceVector<UpdateControl> control(1);
        cuda::PrepareUpdate(device_inputs.data(), device_limbs.data(), control.data(), TestContext());
        const UpdateControl want = Decide(inputs, {.squares = sums[kSquaresSum].Round(),
                                                   .loss = sums[kLossSum].Round(),
                                                   .mse = sums[kMseSum].Round(),
                                                   .vb = sums[kVbSum].Round()});
        ExpectSame(control.Download()[0], want);
        EXPECT_EQ(want.skip != 0, !std::isfinite(norm) || !std::isfinite(loss) || want.spike != 0);
        skipped += want.skip, spikes += want.spike, clipped += want.scalars.grad_scale < 1;
      }
    }
  }
  EXPECT_GT(spikes, 0);
  EXPECT_GT(skipped, spikes);
  EXPECT_GT(clipped, 0);
}

DitConfig SmallModel() {
  return {.depth = 1, .width = 24, .heads = 2, .patch = 2, .channels = 2, .side = 4, .classes = 3};
}

std::vector<float> Floats(const Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  tensor.ToHost(values.data());
  return values;
}

void FillGradients(const TrainState& state, int64_t step, bool poisoned) {
  std::vector<float> values(static_cast<size_t>(state.grads().elements()));
  const RngKey key{.seed = 7, .stream = static_cast<uint64_t>(step)};
  FillNormal(key, 0, state.grads().elements(), values.data());
  // Padding stays zero, as in training: only what belongs to parameters gets values.
  std::vector<float> padded(values.size());
  for (const ShardMap::Piece& piece : state.kept().pieces()) {
    const int64_t at = state.grads_placement() == Placement::kFlat ? piece.flat_begin() : piece.shard_begin;
    std::copy_n(values.begin() + at, piece.count(), padded.begin() + at);
  }
  // One that this rank counts.
  const ShardMap::Piece& counted = state.owned().pieces().back();
  const int64_t at = state.grads_placement() == Placement::kFlat ? counted.flat_begin() : counted.shard_begin;
  if (poisoned) padded[static_cast<size_t>(at + counted.count() - 1)] = std::numeric_limits<float>::quiet_NaN();
  state.grads().FromHost(padded.data());
}

// The weights that this rank's state covers, wherever they lie: where forward reads a bf16 copy they lie elsewhere.
std::vector<float> KeptWeights(const TrainState& state) {
  const std::vector<float> weights = Floats(state.weights());
  std::vector<float> kept;
  for (const ShardMap::Piece& piece : state.kept().pieces()) {
    const int64_t at = state.weights_placement() == Placement::kFlat ? piece.flat_begin() : piece.shard_begin;
    kept.insert(kept.end(), weights.begin() + at, weights.begin() + at + piece.count());
  }
  return kept;
}

// Seven steps with gradients and losses of every kind on a rank of a data axis of `ranks`: on the GPU, first issued,
// then replayed, beside Optimizer::Step on the CPU. The world is the rank's own, which adds nothing from elsewhere.
void CompareSteps(int zero_stage, int ranks, int rank, DType compute) {
  SCOPED_TRACE(testing::Message() << "stage " << zero_stage << " rank " << rank << " " << Name(compute));
  World world = SelfWorld();
  RankContext cpu(1), gpu(Device::Cuda(0), {}, 1);
  Sharding sharding = MakeSharding(SmallModel(), {.dp = ranks, .zero_stage = zero_stage}, false, MeshShape{1, ranks, 1},
                                   MeshCoords{0, rank, 0});
  sharding.bucket_bytes = 4096;
  TrainState want(SmallModel(), sharding, cpu.allocator());
  sharding.compute = compute;
  TrainState got(SmallModel(), sharding, gpu.allocator());
  want.Initialize(5);
  got.Initialize(5);
  const Optimizer optimizer({.learning_rate = 1e-2, .weight_decay = 0.1, .clip_norm = 3.0, .warmup_steps = 4},
                            {.decay = 0.99, .warmup = true}, 20);
  const LossLimit limit{.mean = 1.0, .spread = 0.5};
  constexpr double kImages = 4;
  DeviceUpdate update(gpu, got);
  const Stream stream = gpu.cuda().stream;
  std::unique_ptr<cuda::Graph> graph;
  ForwardLossResult losses;
  losses.device_per_image = Tensor::Empty(gpu.allocator(), {4, 2}, DType::kF64);
  const auto issue = [&] {
    update.sums().Zero();
    update.sums().AddImages(losses, gpu.cuda());
    update.Enqueue(world.comm());
  };
  for (int64_t step = 0; step < 7; ++step) {
    const bool poisoned = step == 2, spike = step == 4, bad_loss = step == 5;
    FillGradients(want, step, poisoned);
    FillGradients(got, step, poisoned);
    const ImageLoss images[4] = {{0.5, 0.1}, {0.25, spike ? 7.0 : 0.2}, {1.0, bad_loss ? kNan : 0.0}, {0.125, 0.375}};
    losses.device_per_image.FromHost(images);
    const std::vector<float> before = Floats(got.weights()), moments_before = Floats(got.adam_m());

    update.Begin(optimizer.Begin(got, kImages, limit));
    if (step == 1) graph = cuda::Graph::Capture(stream, issue);
    graph != nullptr ? graph->Launch(stream) : issue();
    gpu.Synchronize();
    const UpdateReport report = optimizer.End(update.control(), got);

    const UpdateReport expected = optimizer.Step(cpu, want, world.comm(), !spike && !bad_loss);
    EXPECT_EQ(report.skipped, poisoned || spike || bad_loss) << "step " << step;
    EXPECT_EQ(report.skipped, expected.skipped);
    EXPECT_TRUE(report.grad_norm == expected.grad_norm || (poisoned && std::isnan(report.grad_norm)));
    EXPECT_EQ(report.learning_rate, expected.learning_rate);
    EXPECT_EQ(update.control().spike != 0, spike);
    if (!bad_loss) {
      EXPECT_EQ(update.control().loss, (0.6 + (0.25 + (spike ? 7.0 : 0.2)) + 1.0 + 0.5) / 4);
    }
    if (report.skipped) {
      EXPECT_EQ(Floats(got.weights()), before);
      EXPECT_EQ(Floats(got.adam_m()), moments_before);
    } else {
      EXPECT_NE(Floats(got.weights()), before);
    }
  }
  EXPECT_EQ(got.step, want.step);
  EXPECT_EQ(got.updates, want.updates);
  EXPECT_EQ(got.skipped, 3);
  EXPECT_EQ(KeptWeights(got), KeptWeights(want));
  EXPECT_EQ(Floats(got.adam_m()), Floats(want.adam_m()));
  EXPECT_EQ(Floats(got.adam_v()), Floats(want.adam_v()));
  EXPECT_EQ(Floats(got.ema()), Floats(want.ema()));
  if (compute != DType::kBF16) return;
  std::vector<BFloat16> rounded(static_cast<size_t>(got.compute_weights().elements()));
  got.compute_weights().ToHost(rounded.data());
  const std::vector<float> weights = Floats(got.weights());
  const auto at = [](Placement placement, const ShardMap::Piece& piece) {
    return static_cast<size_t>(placement == Placement::kFlat ? piece.flat_begin() : piece.shard_begin);
  };
  for (const ShardMap::Piece& piece : got.kept().pieces()) {
    for (size_t i = 0; i < static_cast<size_t>(piece.count()); ++i) {
      ASSERT_EQ(rounded[at(got.compute_placement(), piece) + i].bits,
                BFloat16::FromFloat(weights[at(got.weights_placement(), piece) + i]).bits);
    }
  }
}

TEST_F(CudaUpdate, StepsAreThoseOfTheCpu) {
  CompareSteps(0, 1, 0, DType::kF32);
  CompareSteps(0, 1, 0, DType::kBF16);
}

TEST_F(CudaUpdate, StepsOfAShardedRankAreThoseOfTheCpu) {
  for (const int zero_stage : {0, 1, 2, 3}) CompareSteps(zero_stage, 3, 1, DType::kBF16);
  CompareSteps(1, 3, 2, DType::kF32);
}

// On tensor rank 1 the parameters that every rank holds whole are not counted.
TEST_F(CudaUpdate, TheNormCountsUncutParametersOnce) {
  World world = SelfWorld();
  RankContext cpu(1), gpu(Device::Cuda(0), {}, 1);
  const Optimizer optimizer({}, {}, 20);
  double norms[2];
  for (const int tp : {0, 1}) {
    const Sharding sharding = MakeSharding(SmallModel(), {.tp = 2}, false, MeshShape{1, 1, 2}, MeshCoords{0, 0, tp});
    TrainState want(SmallModel(), sharding, cpu.allocator()), got(SmallModel(), sharding, gpu.allocator());
    FillGradients(want, 1, false);
    FillGradients(got, 1, false);
    DeviceUpdate update(gpu, got);
    update.Begin(optimizer.Begin(got));
    update.sums().Zero();
    update.Enqueue(world.comm());
    gpu.Synchronize();
    norms[tp] = update.control().grad_norm;
    EXPECT_EQ(norms[tp], optimizer.Step(cpu, want, world.comm(), true).grad_norm);
  }
  EXPECT_LT(norms[1], norms[0]);
}

}  // namespace
}  // namespace shardit
