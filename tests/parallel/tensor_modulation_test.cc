// adaLN layers cut over the tensor axis against whole linear layers. Inputs are small whole numbers: exact.
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "core/ops/linear.h"
#include "parallel/comm/fake_comm.h"
#include "parallel/tensor/tensor_parallel.h"
#include "tests/parallel/tensor_cases.h"

namespace shardit::tensor_cases {
namespace {

constexpr int64_t kWidth = 12, kParts = 3, kLayers = 2;

// The adaLN layers of two blocks, on one rank of the axis.
struct Layers {
  ParameterList parameters;
  std::vector<LinearLayer> layers;

  Layers(RankContext& context, TensorPart part) {
    int stream = 20;
    for (int64_t l = 0; l < kLayers; ++l) {
      layers.push_back(LinearLayer::Make(parameters, "blocks." + std::to_string(l), kWidth, kParts * kWidth,
                                         {.weight_init = Init::Zero(),
                                          .weight_shard = {{kParts, kWidth, kWidth}, 1},
                                          .bias_shard = {{kParts, kWidth}, 1}}));
    }
    for (const auto& parameter : parameters.all()) {
      parameter->value = Local(context, *parameter, Filled(context, parameter->shape, stream++), part);
    }
  }
};

constexpr int kGrads = 50;  // stream of the gradients of layer 0's output on rank 0

Tensor OutputGrad(RankContext& context, const Seat& seat, int64_t layer, int rank) {
  return Filled(context, {seat.layout.images, kParts * kWidth}, kGrads + 10 * static_cast<int>(layer) + rank);
}

// What the whole layers give for the sum of the ranks' gradients where tokens are cut, else for rank 0's.
struct Uncut {
  Layers layers;
  Leaf c;
  std::vector<Tensor> values;

  explicit Uncut(Seat& seat) : layers(seat.context, {}) {
    c.value = Filled(seat.context, {seat.layout.images, kWidth}, 1);
    Tape tape(seat.context);
    std::vector<Tape::Seed> seeds;
    for (int64_t l = 0; l < kLayers; ++l) {
      const Var y = layers.layers[static_cast<size_t>(l)](tape, Var(c));
      values.push_back(y.value());
      std::vector<int> streams;
      for (int r = 0; r < (seat.layout.cut ? seat.axis.size() : 1); ++r) {
        streams.push_back(kGrads + 10 * static_cast<int>(l) + r);
      }
      seeds.push_back({y, SumFilled(seat.context, y.shape(), streams)});
    }
    tape.Backward(std::move(seeds));
  }
};

void ExpectGradients(Seat& seat, const Uncut& uncut, const Layers& cut, const Leaf& c) {
  ExpectEqual(c.grad, uncut.c.grad, "dc");
  for (size_t i = 0; i < cut.parameters.size(); ++i) {
    const Parameter& whole = *uncut.layers.parameters.all()[i];
    ExpectEqual(cut.parameters.all()[i]->grad, Local(seat.context, whole, whole.grad, seat.part()), whole.name.c_str());
  }
}

TEST(TensorModulation, ValuesAndGradientsAreThoseOfWholeLayers) {
  ForEachLayout([](Seat& seat) {
    const Uncut uncut(seat);
    for (const bool defer : {false, true}) {
      Layers cut(seat.context, seat.part());
      Leaf c{.value = Filled(seat.context, {seat.layout.images, kWidth}, 1)};
      const std::vector<Tensor> values = seat.seams.GatherModulations(seat.context, c.value, cut.layers, kParts);
      ASSERT_EQ(values.size(), static_cast<size_t>(kLayers));
      Tape tape(seat.context);
      const Var entered = seat.seams.EnterCondition(tape, Var(c));
      std::vector<Tape::Seed> seeds;
      for (int64_t l = 0; l < kLayers; ++l) {
        const size_t at = static_cast<size_t>(l);
        ExpectEqual(values[at], uncut.values[at], "value");
        const Var y = seat.seams.Modulation(tape, entered, cut.layers[at], kParts, values[at]);
        seeds.push_back({y, OutputGrad(seat.context, seat, l, seat.layout.cut ? seat.axis.rank() : 0)});
      }
      EXPECT_EQ(tape.SavedBytes(), c.value.bytes());  // c, once for both layers
      tape.Backward(std::move(seeds), {.defer_weights = defer});
      EXPECT_EQ(tape.RunDeferredWeights(), defer ? kLayers : 0);
      ExpectGradients(seat, uncut, cut, c);
    }
  });
}

// Between forward and backward the weights lie nowhere and come back elsewhere (ZeRO stage 3).
TEST(TensorModulation, WeightsAreReadWhereTheyLieAtBackward) {
  ForEachLayout([](Seat& seat) {
    const Uncut uncut(seat);
    Layers cut(seat.context, seat.part());
    Leaf c{.value = Filled(seat.context, {seat.layout.images, kWidth}, 1)};
    Tape tape(seat.context);
    const Var entered = seat.seams.EnterCondition(tape, Var(c));
    std::vector<Tape::Seed> seeds;
    for (int64_t l = 0; l < kLayers; ++l) {
      const LinearLayer& layer = cut.layers[static_cast<size_t>(l)];
      const Tensor value = seat.seams.GatherModulations(seat.context, c.value, {&layer, 1}, kParts)[0];
      const Var y = seat.seams.Modulation(tape, entered, layer, kParts, value);
      seeds.push_back({y, OutputGrad(seat.context, seat, l, seat.layout.cut ? seat.axis.rank() : 0)});
    }
    for (const auto& parameter : cut.parameters.all()) {
      Tensor moved = Tensor::Empty(seat.context.allocator(), parameter->value.shape());
      moved.CopyFrom(parameter->value);
      for (int64_t i = 0; i < moved.elements(); ++i) {
        parameter->value.data()[i] = std::numeric_limits<float>::quiet_NaN();
      }
      parameter->value = moved;
    }
    tape.Backward(std::move(seeds));
    ExpectGradients(seat, uncut, cut, c);
  });
}

TEST(TensorModulation, FrozenPartsWantNoGradient) {
  ForEachLayout([](Seat& seat) {
    const Uncut uncut(seat);
    const Tensor c = Filled(seat.context, {seat.layout.images, kWidth}, 1);
    Layers weights(seat.context, seat.part()), frozen(seat.context, seat.part());
    const auto backward = [&](const LinearLayer& layer, const Var& condition) {
      Tape tape(seat.context);
      const Var entered = seat.seams.EnterCondition(tape, condition);
      const Var y = seat.seams.Modulation(tape, entered, layer, kParts, uncut.values[0]);
      tape.Backward({{y, OutputGrad(seat.context, seat, 0, seat.layout.cut ? seat.axis.rank() : 0)}});
    };
    backward(weights.layers[0], Var(c));
    const Parameter& whole = *uncut.layers.layers[0].weight;
    ExpectEqual(weights.layers[0].weight->grad, Local(seat.context, whole, whole.grad, seat.part()), "dw");

    for (const auto& parameter : frozen.parameters.all()) parameter->requires_grad = false;
    Leaf condition{.value = c};
    backward(frozen.layers[0], Var(condition));
    EXPECT_FALSE(frozen.layers[0].weight->grad.defined());
    EXPECT_TRUE(condition.grad.defined());

    Tape inference(seat.context, Tape::Mode::kInference);
    seat.seams.Modulation(inference, Var(c), weights.layers[0], kParts, uncut.values[0]);
    EXPECT_EQ(inference.size(), 0u);
  });
}

TEST(TensorModulation, TrafficIsTheFormula) {
  ForEachLayout([](Seat& seat) {
    const int64_t t = seat.axis.size();
    Layers cut(seat.context, seat.part());
    const Tensor c = Filled(seat.context, {seat.layout.images, kWidth}, 1);
    const std::vector<Tensor> values = seat.seams.GatherModulations(seat.context, c, cut.layers, kParts);
    const int64_t bytes = 4 * seat.layout.images * kParts * kWidth;  // of one layer's output
    EXPECT_EQ(seat.axis.counters().of(CollectiveKind::kAllGather),
              (Traffic{1, kLayers * bytes, (t - 1) * kLayers * bytes / t}));
    Tape tape(seat.context);
    const Var y = seat.seams.Modulation(tape, Var(c), cut.layers[0], kParts, values[0]);
    tape.Backward({{y, OutputGrad(seat.context, seat, 0, 0)}});
    EXPECT_EQ(seat.axis.counters().of(CollectiveKind::kReduceScatter),
              seat.layout.cut ? (Traffic{1, bytes, (t - 1) * bytes / t}) : Traffic{});
    EXPECT_EQ(seat.axis.counters().TotalData().calls, seat.layout.cut ? 2 : 1);
  });
}

// A forward and backward of every seam on one rank of an axis.
void RunSeams(RankContext& context, Communicator& axis, const Layout& layout) {
  const TensorParallel seams(axis, layout.cut ? layout.tokens : 0);
  const TensorPart part{axis.rank(), axis.size()};
  ParameterList parameters;
  const LinearLayer adaln = LinearLayer::Make(parameters, "adaLN", kWidth, kParts * kWidth,
                                              {.weight_init = Init::Zero(),
                                               .weight_shard = {{kParts, kWidth, kWidth}, 1},
                                               .bias_shard = {{kParts, kWidth}, 1}});
  const LinearLayer row = LinearLayer::Make(parameters, "row", kWidth, kWidth);
  for (const auto& parameter : parameters.all()) {
    parameter->value = Tensor::Zeros(context.allocator(), LocalShape(*parameter, part));
  }
  Leaf c{.value = Tensor::Zeros(context.allocator(), {layout.images, kWidth})};
  Leaf x{.value = Tensor::Zeros(context.allocator(), {layout.images, layout.tokens, kWidth})};
  const std::vector<Tensor> values = seams.GatherModulations(context, c.value, {&adaln, 1}, kParts);
  Tape tape(context);
  const Var modulation = seams.Modulation(tape, seams.EnterCondition(tape, Var(c)), adaln, kParts, values[0]);
  Var y = seams.Enter(tape, seams.ScatterTokens(tape, Var(x)));
  y = seams.Leave(tape, Linear(tape, y, Var(*row.weight), Var()), Var(*row.bias));
  y = seams.GatherTokens(tape, y);
  tape.Backward({{y, Tensor::Zeros(context.allocator(), y.shape())},
                 {modulation, Tensor::Zeros(context.allocator(), modulation.shape())}});
}

// Planned, a rank asks for the same memory and the same traffic, and touches nothing.
TEST(TensorModulation, PlannedSeamsCountWhatRealOnesDo) {
  ForEachLayout([](Seat& seat) {
    RankContext real(1);
    RunSeams(real, seat.axis, seat.layout);
    CostRecorder costs;
    RankContext planned = RankContext::Planning(costs);
    CollectiveLog log;
    FakeCommunicator fake(seat.axis.rank(), seat.axis.size(), "tp", &log);
    RunSeams(planned, fake, seat.layout);
    EXPECT_EQ(planned.allocator().stats().peak_bytes_in_use, real.allocator().stats().peak_bytes_in_use);
    EXPECT_EQ(planned.allocator().stats().bytes_in_use, 0);
    for (int kind = 0; kind < kCollectiveKinds; ++kind) {
      const CollectiveKind of = static_cast<CollectiveKind>(kind);
      EXPECT_EQ(fake.counters().of(of), seat.axis.counters().of(of)) << Name(of);
    }
    const double own_bytes = 4.0 * static_cast<double>(seat.layout.images * seat.own().size() * kWidth);
    EXPECT_EQ(costs.totals().at("add_bias").bytes, 2 * own_bytes);
    EXPECT_EQ(costs.totals().at("column_sums").bytes, own_bytes);
  });
}

}  // namespace
}  // namespace shardit::tensor_cases
