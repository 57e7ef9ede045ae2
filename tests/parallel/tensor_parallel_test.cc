// The seams of the tensor axis against what one rank computes. Inputs are small whole numbers, so every comparison is
// exact.
#include "parallel/tensor/tensor_parallel.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "core/ops/linear.h"
#include "core/tensor/rng.h"
#include "tests/parallel/tensor_cases.h"

namespace shardit::tensor_cases {
namespace {

constexpr int64_t kWidth = 5;

// Streams of the ranks' own inputs.
std::vector<int> RankStreams(int ranks, int first) {
  std::vector<int> streams(static_cast<size_t>(ranks));
  std::iota(streams.begin(), streams.end(), first);
  return streams;
}

// A leaf whose gradient already holds a contribution, so that backward must add.
struct AddedTo : Leaf {
  AddedTo(RankContext& context, Tensor initial) {
    value = std::move(initial);
    grad = Filled(context, value.shape(), 99);
    grad_written = true;
  }
  // The gradient that backward added.
  Tensor Added(RankContext& context) const {
    Tensor added = Tensor::Empty(context.allocator(), grad.shape());
    for (int64_t i = 0; i < added.elements(); ++i) added.data()[i] = grad.data()[i] - Whole(99, i);
    return added;
  }
};

TEST(TensorParallel, EnterGivesAllTokensAndSumsTheirGradients) {
  ForEachLayout([](Seat& seat) {
    const Shape shape{seat.layout.images, seat.layout.tokens, kWidth};
    const Tensor whole = Filled(seat.context, shape, 1);
    Leaf x{.value = seat.Own(whole)};
    AddedTo again(seat.context, seat.Own(whole));
    for (Leaf* leaf : {&x, static_cast<Leaf*>(&again)}) {
      Tape tape(seat.context);
      const Var y = seat.seams.Enter(tape, Var(*leaf));
      ExpectEqual(y.value(), whole, "y");
      EXPECT_EQ(tape.SavedBytes(), 0);
      tape.Backward({{y, Filled(seat.context, shape, 10 + seat.axis.rank())}});
    }
    const Tensor sum = seat.Own(SumFilled(seat.context, shape, RankStreams(seat.axis.size(), 10)));
    ExpectEqual(x.grad, sum, "dx");
    ExpectEqual(again.Added(seat.context), sum, "added dx");
  });
}

TEST(TensorParallel, LeaveSumsPartsAndAddsTheBiasOnce) {
  ForEachLayout([](Seat& seat) {
    const Shape shape{seat.layout.images, seat.layout.tokens, kWidth};
    Leaf partial{.value = Filled(seat.context, shape, 10 + seat.axis.rank())};
    Leaf bias{.value = Filled(seat.context, {kWidth}, 2)};
    AddedTo bias_again(seat.context, Filled(seat.context, {kWidth}, 2));
    Tensor expected = SumFilled(seat.context, shape, RankStreams(seat.axis.size(), 10));
    for (int64_t i = 0; i < expected.elements(); ++i) expected.data()[i] += bias.value.data()[i % kWidth];

    const Tensor dy = Filled(seat.context, shape, 3);
    Tape tape(seat.context);
    const Var y = seat.seams.Leave(tape, Var(partial), Var(bias));
    ExpectEqual(y.value(), seat.Own(expected), "y");
    EXPECT_EQ(tape.SavedBytes(), 0);
    tape.Backward({{y, seat.Own(dy)}});
    ExpectEqual(partial.grad, dy, "dpartial");

    const Tensor own_dy = seat.Own(dy);
    Tensor sums = Tensor::Zeros(seat.context.allocator(), {kWidth});
    for (int64_t i = 0; i < own_dy.elements(); ++i) sums.data()[i % kWidth] += own_dy.data()[i];
    ExpectEqual(bias.grad, sums, "dbias");

    // A bias alone, whose gradient is added to.
    Tape second(seat.context);
    const Var z = seat.seams.Leave(second, Var(Filled(seat.context, shape, 4)), Var(bias_again));
    second.Backward({{z, seat.Own(dy)}});
    ExpectEqual(bias_again.Added(seat.context), sums, "added dbias");
  });
}

TEST(TensorParallel, ConditionsPassAndTheirGradientsAreSummed) {
  ForEachLayout([](Seat& seat) {
    for (const Shape& shape : {Shape{seat.layout.images, kWidth}, Shape{seat.layout.images, 2, kWidth}}) {
      Leaf c{.value = Filled(seat.context, shape, 1)}, token{.value = Filled(seat.context, shape, 1)};
      const Tensor sum = SumFilled(seat.context, shape, RankStreams(seat.axis.size(), 10));
      Tape tape(seat.context);
      const Var y = seat.seams.EnterCondition(tape, Var(c));
      ExpectEqual(y.value(), c.value, "c");
      tape.Backward({{y, Filled(seat.context, shape, 10 + seat.axis.rank())}});
      ExpectEqual(c.grad, sum, "dc");

      Tape tokens(seat.context);
      const Var z = seat.seams.EnterTokens(tokens, Var(token));
      ExpectEqual(z.value(), token.value, "token");
      EXPECT_EQ(tokens.size(), seat.layout.cut ? 1u : 0u);
      if (!seat.layout.cut) continue;
      tokens.Backward({{z, Filled(seat.context, shape, 10 + seat.axis.rank())}});
      ExpectEqual(token.grad, sum, "dtoken");
    }
  });
}

TEST(TensorParallel, TokensAreScatteredAndGathered) {
  ForEachLayout([](Seat& seat) {
    const Shape shape{seat.layout.images, seat.layout.tokens, kWidth};
    const Tensor whole = Filled(seat.context, shape, 1), dy = Filled(seat.context, shape, 3);
    Leaf x{.value = whole}, own{.value = seat.Own(whole)};
    AddedTo again(seat.context, whole);
    if (!seat.layout.cut) {
      Tape tape(seat.context);
      EXPECT_EQ(seat.seams.ScatterTokens(tape, Var(x)).leaf(), &x);
      EXPECT_EQ(seat.seams.GatherTokens(tape, Var(x)).leaf(), &x);
      return;
    }
    for (Leaf* leaf : {&x, static_cast<Leaf*>(&again)}) {
      Tape tape(seat.context);
      const Var y = seat.seams.ScatterTokens(tape, Var(*leaf));
      ExpectEqual(y.value(), own.value, "scattered");
      tape.Backward({{y, seat.Own(dy)}});
    }
    // The ranks' gradients are parts of one sum: zero outside of own tokens.
    const Range range = seat.own();
    for (int64_t i = 0; i < x.grad.elements(); ++i) {
      const int64_t token = i / kWidth % seat.layout.tokens;
      const bool mine = range.begin <= token && token < range.end;
      ASSERT_EQ(x.grad.data()[i], mine ? dy.data()[i] : 0) << i;
    }
    ExpectEqual(again.Added(seat.context), x.grad, "added dx");

    Tape tape(seat.context);
    const Var y = seat.seams.GatherTokens(tape, Var(own));
    ExpectEqual(y.value(), whole, "gathered");
    EXPECT_EQ(tape.SavedBytes(), 0);
    Tensor same_everywhere = Filled(seat.context, shape, 3);
    tape.Backward({{y, std::move(same_everywhere)}});
    ExpectEqual(own.grad, seat.Own(dy), "d own");
  });
}

// Linear(Linear(x)) cut on its hidden width, as fc1 and fc2, with two uses of x so that gradients meet.
struct TwoLayers {
  static constexpr int64_t kHidden = 12;

  ParameterList parameters;
  Parameter& w1 = parameters.Add("w1", {kHidden, kWidth}, Init::Zero(), {{kHidden, kWidth}, 0});
  Parameter& b1 = parameters.Add("b1", {kHidden}, Init::Zero(), {{kHidden}, 0});
  Parameter& w2 = parameters.Add("w2", {kWidth, kHidden}, Init::Zero(), {{kWidth, kHidden}, 1});
  Parameter& b2 = parameters.Add("b2", {kWidth}, Init::Zero());

  TwoLayers(RankContext& context, TensorPart part) {
    int stream = 20;
    for (const auto& parameter : parameters.all()) {
      parameter->value = Local(context, *parameter, Filled(context, parameter->shape, stream++), part);
    }
  }
};

TEST(TensorParallel, ColumnThenRowLayersEqualUncutOnes) {
  ForEachLayout([](Seat& seat) {
    const Shape shape{seat.layout.images, seat.layout.tokens, kWidth};
    const Tensor whole = Filled(seat.context, shape, 1);

    TwoLayers uncut(seat.context, {});
    Leaf x{.value = whole};
    Tape tape(seat.context);
    Var y = Linear(tape, Var(x), Var(uncut.w1), Var(uncut.b1));
    y = Linear(tape, y, Var(uncut.w2), Var(uncut.b2));
    tape.Backward({{y, Filled(seat.context, shape, 3)}});

    for (const bool defer : {false, true}) {
      TwoLayers cut(seat.context, seat.part());
      Leaf own{.value = seat.Own(whole)};
      Tape cut_tape(seat.context);
      Var z = Linear(cut_tape, seat.seams.Enter(cut_tape, Var(own)), Var(cut.w1), Var(cut.b1));
      z = seat.seams.Leave(cut_tape, Linear(cut_tape, z, Var(cut.w2), Var()), Var(cut.b2));
      ExpectEqual(z.value(), seat.Own(y.value()), "y");
      cut_tape.Backward({{z, seat.Own(Filled(seat.context, shape, 3))}}, {.defer_weights = defer});
      EXPECT_EQ(cut_tape.RunDeferredWeights(), defer ? 2 : 0);
      ExpectEqual(own.grad, seat.Own(x.grad), "dx");
      for (size_t i = 0; i < 3; ++i) {
        const Parameter& parameter = *uncut.parameters.all()[i];
        ExpectEqual(cut.parameters.all()[i]->grad, Local(seat.context, parameter, parameter.grad, seat.part()),
                    parameter.name.c_str());
      }
      const Tensor b2 = seat.layout.cut ? Summed(seat.context, seat.axis, cut.b2.grad) : cut.b2.grad;
      ExpectEqual(b2, uncut.b2.grad, "b2");
    }
  });
}

TEST(TensorParallel, InferenceRecordsNothing) {
  ForEachLayout([](Seat& seat) {
    const Shape shape{seat.layout.images, seat.layout.tokens, kWidth};
    const Tensor whole = Filled(seat.context, shape, 1);
    Leaf x{.value = whole}, own{.value = seat.Own(whole)}, bias{.value = Filled(seat.context, {kWidth}, 2)};
    Tape tape(seat.context, Tape::Mode::kInference);
    ExpectEqual(seat.seams.ScatterTokens(tape, Var(x)).value(), own.value, "scattered");
    ExpectEqual(seat.seams.Enter(tape, Var(own)).value(), whole, "entered");
    ExpectEqual(seat.seams.GatherTokens(tape, Var(own)).value(), whole, "gathered");
    seat.seams.EnterCondition(tape, Var(x));
    seat.seams.EnterTokens(tape, Var(x));
    Leaf partial{.value = Filled(seat.context, shape, 4)};
    const Var left = seat.seams.Leave(tape, Var(partial), Var(bias));
    const Tensor in = Filled(seat.context, shape, 4);
    Tensor expected = Tensor::Empty(seat.context.allocator(), shape);
    for (int64_t i = 0; i < in.elements(); ++i) {
      expected.data()[i] = static_cast<float>(seat.axis.size()) * in.data()[i] + bias.value.data()[i % kWidth];
    }
    ExpectEqual(left.value(), seat.Own(expected), "left");
    EXPECT_EQ(tape.size(), 0u);
    EXPECT_FALSE(left.requires_grad());
  });
}

// y = x; reports from its weight part what the axis had been asked for by then.
class AskInWeightPart : public Node {
 public:
  AskInWeightPart(Communicator& axis, std::vector<int64_t>& calls) : Node(1), axis_(axis), calls_(calls) {}
  const char* name() const override { return "ask"; }
  bool has_deferrable_weights() const override { return true; }
  void Backward(RankContext& context) override {
    Tensor copy = Tensor::Empty(context.allocator(), Grad().shape());
    copy.CopyFrom(Grad());
    Deliver(context, 0, std::move(copy));
  }
  void BackwardWeights(RankContext&) override { calls_.push_back(axis_.counters().TotalData().calls); }

 private:
  Communicator& axis_;
  std::vector<int64_t>& calls_;
};

TEST(TensorParallel, BackwardCollectivesAreUnderWayDuringWeightGradients) {
  ForEachLayout([](Seat& seat) {
    const Shape shape{seat.layout.images, seat.layout.tokens, kWidth};
    Leaf x{.value = seat.Own(Filled(seat.context, shape, 1))}, bias{.value = Filled(seat.context, {kWidth}, 2)};
    std::vector<int64_t> calls;
    Tape tape(seat.context);
    const auto ask = [&](const Var& v) {
      return tape.Record(std::make_unique<AskInWeightPart>(seat.axis, calls), {v}, {v.value()}, {})[0];
    };
    const Var entered = ask(seat.seams.Enter(tape, Var(x)));
    const Var left = ask(seat.seams.Leave(tape, entered, Var(bias)));
    const int64_t forward_calls = seat.axis.counters().TotalData().calls;
    EXPECT_EQ(forward_calls, seat.layout.cut ? 2 : 1);
    tape.Backward({{left, seat.Own(Filled(seat.context, shape, 3))}});
    // After Leave's consumer: Leave's own collective is out, if it has one; after Enter's consumer, Enter's too.
    const int64_t of_leave = seat.layout.cut ? 1 : 0;
    EXPECT_EQ(calls, (std::vector<int64_t>{forward_calls + of_leave, forward_calls + of_leave + 1}));
  });
}

TEST(TensorParallel, EveryWaitIsInTheTimeline) {
  ForEachLayout([](Seat& seat) {
    seat.context.timeline().Enable();
    seat.context.timeline().BeginStep(0);
    const Shape shape{seat.layout.images, seat.layout.tokens, kWidth};
    Leaf x{.value = Filled(seat.context, shape, 1)}, bias{.value = Filled(seat.context, {kWidth}, 2)};
    Tape tape(seat.context);
    const Var own = seat.seams.ScatterTokens(tape, Var(x));
    const Var left = seat.seams.Leave(tape, seat.seams.Enter(tape, own), Var(bias));
    const Var out = seat.seams.GatherTokens(tape, left);
    tape.Backward({{out, Filled(seat.context, shape, 3)}});
    std::vector<std::string> names;
    for (const Span& span : seat.context.timeline().spans()) {
      EXPECT_EQ(span.kind, SpanKind::kWait);
      EXPECT_LE(span.begin, span.end);
      names.emplace_back(span.name);
    }
    const std::vector<std::string> whole{"tp leave", "tp enter grad"};
    const std::vector<std::string> cut{"sp enter", "sp leave", "sp gather tokens", "sp leave grad", "sp enter grad"};
    EXPECT_EQ(names, seat.layout.cut ? cut : whole);
  });
}

// What a block asks of the axis in one micro-batch: two Enter and two Leave, forward and backward.
TEST(TensorParallel, TrafficOfABlockIsTheFormula) {
  ForEachLayout([](Seat& seat) {
    const int64_t t = seat.axis.size(), n = seat.layout.images, tokens = seat.layout.tokens;
    const int64_t width = 12;
    const Shape shape{n, tokens, width};
    const int64_t bytes = 4 * shape.elements();  // of A
    Leaf x{.value = seat.Own(Filled(seat.context, shape, 1))}, bias{.value = Filled(seat.context, {width}, 2)};
    Tape tape(seat.context);
    Var y(x);
    for (int branch = 0; branch < 2; ++branch) {
      // Leave takes its input's memory, which without cuts is Enter's input: give it its own, as a layer would.
      const Var entered = seat.seams.Enter(tape, y);
      const Var zero(Tensor::Zeros(seat.context.allocator(), {width, width}));
      y = seat.seams.Leave(tape, Linear(tape, entered, zero, Var()), Var(bias));
    }
    tape.Backward({{y, seat.Own(Filled(seat.context, shape, 3))}});

    const TrafficCounters counters = seat.axis.counters();
    EXPECT_EQ(counters.TotalControl().calls, 0);
    EXPECT_EQ(counters.TotalData().calls, seat.layout.cut ? 8 : 4);
    if (!seat.layout.cut) {
      EXPECT_EQ(counters.of(CollectiveKind::kAllReduce),
                (Traffic{4, 4 * bytes, 8 * (t - 1) * bytes / t}));  // 12 columns: every t divides A
      return;
    }
    const auto own = [&](int64_t r) { return 4 * n * PartRange(tokens, t, r % t).size() * width; };
    EXPECT_EQ(counters.of(CollectiveKind::kAllGather),
              (Traffic{4, 4 * bytes, 4 * (bytes - own(seat.axis.rank() + 1))}));
    EXPECT_EQ(counters.of(CollectiveKind::kReduceScatter),
              (Traffic{4, 4 * bytes, 4 * (bytes - own(seat.axis.rank()))}));
    if (tokens % t == 0) {
      EXPECT_EQ(counters.TotalData().ring_bytes, 8 * (t - 1) * bytes / t);
    }
  });
}

// More rows and columns than the kernels' blocks, on any number of threads: the same bits, near the exact sums.
TEST(TensorParallel, BiasGradientsDoNotDependOnThreads) {
  const Shape shape{2, 300, 130};
  std::vector<std::vector<float>> sums, outputs;
  for (const int threads : {1, 2, 3}) {
    RunThreadWorld(1, [&](World& world) {
      RankContext context(threads);
      const TensorParallel seams(world.comm());
      Leaf partial{.value = Tensor::Empty(context.allocator(), shape)}, bias{.value = Filled(context, {130}, 2)};
      FillNormal({.seed = 1, .stream = 1}, 0, shape.elements(), partial.value.data());
      Tensor dy = Tensor::Empty(context.allocator(), shape);
      FillNormal({.seed = 1, .stream = 2}, 0, shape.elements(), dy.data());
      std::vector<double> exact(130);
      for (int64_t i = 0; i < dy.elements(); ++i) exact[static_cast<size_t>(i % 130)] += dy.data()[i];
      Tape tape(context);
      const Var y = seams.Leave(tape, Var(partial), Var(bias));
      outputs.push_back(Values(y.value()));
      tape.Backward({{y, std::move(dy)}});
      sums.push_back(Values(bias.grad));
      for (size_t i = 0; i < exact.size(); ++i) EXPECT_NEAR(sums.back()[i], exact[i], 1e-4) << i;
    });
    EXPECT_EQ(sums.back(), sums.front()) << threads << " threads";
    EXPECT_EQ(outputs.back(), outputs.front()) << threads << " threads";
  }
}

TEST(TensorParallelDeathTest, EveryRankOwnsAToken) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(RunThreadWorld(3, [](World& world) { const TensorParallel seams(world.comm(), 2); }),
               "2 tokens over 3 ranks");
}

}  // namespace
}  // namespace shardit::tensor_cases
