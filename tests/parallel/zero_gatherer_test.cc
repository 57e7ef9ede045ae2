// Weights gathered for use, and a whole ZeRO step of a toy model: a chain of units, each y = x * w0 + w1 elementwise.
#include <mutex>
#include <vector>

#include "core/autograd/recompute.h"
#include "core/tensor/rng.h"
#include "gtest/gtest.h"
#include "parallel/comm/world.h"
#include "parallel/data/grad_reducer.h"
#include "parallel/data/parameter_gatherer.h"
#include "tests/parallel/zero_toys.h"

namespace shardit {
namespace {

constexpr int64_t kWidth = 1 << 14;
constexpr int kUnits = 8;
constexpr int64_t kUnitBytes = 2 * kWidth * 4;

using Floats = std::vector<float>;

std::vector<ToySpec> Chain() {
  std::vector<ToySpec> specs;
  for (int unit = 0; unit < kUnits; ++unit) specs.insert(specs.end(), 2, {.elements = kWidth, .unit = unit});
  return specs;
}

// The initial value of element i of parameter p.
float Weight(size_t p, int64_t i) {
  return 1.0f + static_cast<float>((i * 31 + static_cast<int64_t>(p) * 17) % 64) / 512;
}

size_t IndexOf(const Parameter& parameter) { return std::stoul(parameter.name.substr(1)); }

class ScaleNode : public Node {
 public:
  ScaleNode(const Var& x, const Var& w) : Node(1), x_(x), w_(w) {}
  const char* name() const override { return "scale"; }
  bool has_deferrable_weights() const override { return true; }
  void Backward(RankContext& context) override {
    if (!Needs(0)) return;
    Tensor dx = Tensor::Empty(context.allocator(), Grad().shape());
    for (int64_t i = 0; i < dx.elements(); ++i) dx.data()[i] = Grad().data()[i] * w_.value().data()[i];
    Deliver(context, 0, std::move(dx));
  }
  void BackwardWeights(RankContext& context) override {
    const GradDestination dw = Destination(context, 1), db = Destination(context, 2);
    for (int64_t i = 0; i < Grad().elements(); ++i) {
      const float dy = Grad().data()[i];
      dw.tensor.data()[i] = (dw.accumulate ? dw.tensor.data()[i] : 0.0f) + dy * x_.value().data()[i];
      db.tensor.data()[i] = (db.accumulate ? db.tensor.data()[i] : 0.0f) + dy;
    }
  }

 private:
  SavedVar x_, w_;
};

Var Unit(Tape& tape, const Var& x, Parameter& w, Parameter& b) {
  Tensor y = Tensor::Empty(tape.allocator(), x.shape());
  for (int64_t i = 0; i < y.elements(); ++i) {
    y.data()[i] = x.value().data()[i] * w.value.data()[i] + b.value.data()[i];
  }
  const Var var_w(w), var_b(b);
  if (!tape.Records({&x, &var_w, &var_b})) return Var(y);
  auto node = std::make_unique<ScaleNode>(x, var_w);
  return tape.Record(std::move(node), {x, var_w, var_b}, {y}, {x.value()})[0];
}

enum class Recomputing { kNo, kYes };

Var Forward(Tape& tape, const ToyParameters& parameters, ParameterUnits& units, const Range& part, Var x,
            Recomputing recompute = Recomputing::kNo) {
  for (int unit = static_cast<int>(part.begin); unit < part.end; ++unit) {
    Parameter& w = parameters[static_cast<size_t>(2 * unit)];
    Parameter& b = parameters[static_cast<size_t>(2 * unit + 1)];
    units.Enter(tape, unit);
    if (recompute == Recomputing::kYes) {
      Leaf* const leaves[] = {&w, &b};
      x = Recompute(tape, {x}, leaves,
                    [&w, &b](Tape& inner, std::span<const Var> inputs) { return Unit(inner, inputs[0], w, b); });
    } else {
      x = Unit(tape, x, w, b);
    }
    x = units.Leave(tape, unit, x);
  }
  return x;
}

Tensor Input(Allocator& allocator, int64_t shard) {
  Tensor x = Tensor::Empty(allocator, {kWidth});
  for (int64_t i = 0; i < kWidth; ++i) x.data()[i] = static_cast<float>((i + shard * 3) % 16) / 16;
  return x;
}

// No gathering: weights lie in place.
class InPlace : public ParameterUnits {
 public:
  void Enter(Tape&, int) override {}
  Var Leave(Tape&, int, const Var& x) override { return x; }
};

struct Outcome {
  std::vector<Floats> outputs;  // by virtual shard
  std::vector<Floats> grads;    // by parameter, summed over shards
};

// One rank does everything on whole weights.
Outcome Reference(int64_t shards) {
  RankContext context(1);
  const ToyParameters parameters(Chain());
  InPlace units;
  Outcome outcome;
  for (Parameter* parameter : parameters.all()) {
    parameter->value = Tensor::Empty(context.allocator(), {kWidth});
    for (int64_t i = 0; i < kWidth; ++i) parameter->value.data()[i] = Weight(IndexOf(*parameter), i);
  }
  for (int64_t shard = 0; shard < shards; ++shard) {
    Tape tape(context);
    const Var y = Forward(tape, parameters, units, {0, kUnits}, Var(Input(context.allocator(), shard)));
    outcome.outputs.emplace_back(y.value().data(), y.value().data() + kWidth);
    tape.Backward({{y, Input(context.allocator(), shard + 1)}});
  }
  for (const Parameter* parameter : parameters.all()) {
    outcome.grads.emplace_back(parameter->grad.data(), parameter->grad.data() + kWidth);
  }
  return outcome;
}

// One rank of stage 3.
struct ShardedRank {
  ShardedRank(Communicator& data, Communicator& weights_axis, std::vector<Range> model_parts)
      : layout(parameters.all(), {.bucket_per_unit = true}),
        map(layout, data.size(), data.rank()),
        weights(Tensor::Zeros(context.allocator(), {map.size()})),
        grads(Tensor::Zeros(context.allocator(), {map.size()})),
        parts(std::move(model_parts)),
        gatherer(context, weights_axis, layout, weights, parts),
        reducer(context, data, nullptr, layout, grads, {.zero_stage = 3}) {
    for (const ShardMap::Piece& piece : map.pieces()) {
      for (int64_t i = 0; i < piece.count(); ++i) {
        weights.data()[piece.shard_begin + i] = Weight(IndexOf(*piece.entry->parameter), piece.begin + i);
      }
    }
  }

  RankContext context{1};
  ToyParameters parameters{Chain()};
  FlatLayout layout;
  ShardMap map;
  Tensor weights, grads;
  std::vector<Range> parts;
  UnitGatherer gatherer;
  GradReducer reducer;
};

void ExpectNear(const Floats& got, const Floats& want, const char* what) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-5 * (1 + std::abs(want[i]))) << what;
}

void ExpectPieces(const ShardedRank& rank, const Outcome& want) {
  for (const ShardMap::Piece& piece : rank.map.pieces()) {
    const Floats& grad = want.grads[IndexOf(*piece.entry->parameter)];
    const float* got = rank.grads.data() + piece.shard_begin;
    ExpectNear(Floats(got, got + piece.count()), Floats(grad.begin() + piece.begin, grad.begin() + piece.end), "grad");
  }
}

TEST(UnitGatherer, ZeroThreeStepEqualsOneRankOnWholeWeights) {
  constexpr int64_t kMicroBatches = 2;
  for (const int n : {1, 2, 3, 4}) {
    const Outcome want = Reference(n * kMicroBatches);
    for (const bool defer : {false, true}) {
      for (const Recomputing recompute : {Recomputing::kNo, Recomputing::kYes}) {
        RunThreadWorld(n, [&](World& world) {
          const auto weights_axis = world.comm().Split(0, world.rank(), "dp");
          ShardedRank rank(world.comm(), *weights_axis, {{0, kUnits}});
          rank.reducer.BeginStep(kMicroBatches);
          for (int64_t m = 0; m < kMicroBatches; ++m) {
            const int64_t shard = m * n + world.rank();
            Tape tape(rank.context);
            const Var x(Input(rank.context.allocator(), shard));
            const Var y = Forward(tape, rank.parameters, rank.gatherer, {0, kUnits}, x, recompute);
            const float* got = y.value().data();
            EXPECT_EQ(Floats(got, got + kWidth), want.outputs[static_cast<size_t>(shard)]);
            tape.Backward({{y, Input(rank.context.allocator(), shard + 1)}},
                          {.observer = &rank.reducer, .defer_weights = defer});
            rank.gatherer.EndBackward();
            if (defer) tape.RunDeferredWeights();
          }
          rank.reducer.Finish();
          ExpectPieces(rank, want);
          EXPECT_EQ(rank.gatherer.peak_bytes(), 2 * kUnitBytes);
          for (const Parameter* parameter : rank.parameters.all()) EXPECT_TRUE(parameter->value.is_meta());
        });
      }
    }
  }
}

TEST(UnitGatherer, BytesAreTheClosedForms) {
  constexpr int64_t kMicroBatches = 3, kElements = kUnits * 2 * kWidth;
  for (const int n : {2, 4, 8}) {
    RunThreadWorld(n, [&](World& world) {
      const auto weights_axis = world.comm().Split(0, world.rank(), "dp");
      ShardedRank rank(world.comm(), *weights_axis, {{0, kUnits}});
      rank.reducer.BeginStep(kMicroBatches);
      for (int64_t m = 0; m < kMicroBatches; ++m) {
        Tape tape(rank.context);
        const Var x(Input(rank.context.allocator(), m));
        const Var y = Forward(tape, rank.parameters, rank.gatherer, {0, kUnits}, x);
        tape.Backward({{y, Input(rank.context.allocator(), m)}}, {.observer = &rank.reducer});
        rank.gatherer.EndBackward();
      }
      rank.reducer.Finish();
      const Traffic gathers = weights_axis->counters().TotalData(), grads = world.comm().counters().TotalData();
      EXPECT_EQ(gathers.ring_bytes, (n - 1) * kElements / n * kMicroBatches * 2 * 4);
      EXPECT_EQ(grads.ring_bytes, (n - 1) * kElements / n * kMicroBatches * 4);
    });
  }
}

// All parameters are never in memory: the peak is the shard, two units of weights, the reducer's few buckets of
// gradients and the activations, which inference drops.
TEST(UnitGatherer, HighWaterMarkStaysFarBelowAllParameters) {
  RunThreadWorld(4, [&](World& world) {
    const auto weights_axis = world.comm().Split(0, world.rank(), "dp");
    ShardedRank rank(world.comm(), *weights_axis, {{0, kUnits}});
    const int64_t before = rank.context.allocator().stats().bytes_in_use;
    rank.context.allocator().ResetPeak();
    for (int pass = 0; pass < 2; ++pass) {
      Tape tape(rank.context, Tape::Mode::kInference);
      Forward(tape, rank.parameters, rank.gatherer, {0, kUnits}, Var(Input(rank.context.allocator(), 0)));
    }
    const AllocatorStats stats = rank.context.allocator().stats();
    const int64_t activations = 3 * kWidth * 4;
    EXPECT_LE(stats.peak_bytes_in_use - before, 2 * kUnitBytes + activations);
    EXPECT_EQ(stats.bytes_in_use, before);
    EXPECT_EQ(rank.gatherer.peak_bytes(), 2 * kUnitBytes);
  });
}

// Two model parts of one rank take turns, two micro-batches in flight.
TEST(UnitGatherer, PartsInterleave) {
  const Outcome want = Reference(4);
  RunThreadWorld(2, [&](World& world) {
    const auto weights_axis = world.comm().Split(0, world.rank(), "dp");
    const std::vector<Range> parts = {{0, 4}, {4, kUnits}};
    ShardedRank rank(world.comm(), *weights_axis, parts);
    struct Flight {
      Leaf boundary;
      std::unique_ptr<Tape> tapes[2];
      Var outputs[2];
    };
    std::vector<Flight> flights(2);
    rank.reducer.BeginStep(2);
    for (int part = 0; part < 2; ++part) {
      for (int64_t m = 0; m < 2; ++m) {
        Flight& flight = flights[static_cast<size_t>(m)];
        flight.tapes[part] = std::make_unique<Tape>(rank.context);
        Var x(Input(rank.context.allocator(), m * 2 + world.rank()));
        if (part == 1) {
          flight.boundary.value = flight.outputs[0].value();
          x = Var(flight.boundary);
        }
        flight.outputs[part] =
            Forward(*flight.tapes[part], rank.parameters, rank.gatherer, parts[static_cast<size_t>(part)], x);
      }
    }
    for (int part = 1; part >= 0; --part) {
      for (int64_t m = 0; m < 2; ++m) {
        Flight& flight = flights[static_cast<size_t>(m)];
        Tensor seed = part == 1 ? Input(rank.context.allocator(), m * 2 + world.rank() + 1) : flight.boundary.grad;
        flight.tapes[part]->Backward({{flight.outputs[part], seed}}, {.observer = &rank.reducer});
        rank.gatherer.EndBackward();
      }
    }
    rank.reducer.Finish();
    ExpectPieces(rank, want);
    EXPECT_EQ(rank.gatherer.peak_bytes(), 2 * kUnitBytes);
    // Nothing was gathered ahead of a part's end: two gathers of each unit and micro-batch.
    EXPECT_EQ(weights_axis->counters().of(CollectiveKind::kAllGather).calls, 2 * 2 * kUnits);
  });
}

// The EMA shard of a stage-1 run, whose buckets straddle units, on a model of its own.
TEST(UnitGatherer, ServesBucketsThatStraddleUnits) {
  const Outcome want = Reference(1);
  RunThreadWorld(3, [&](World& world) {
    RankContext context(1);
    const ToyParameters ema(Chain());
    for (Parameter* parameter : ema.all()) parameter->requires_grad = false;
    const FlatLayout layout(ema.all(), {.bucket_bytes = 3 * kWidth * 4});
    const ShardMap map(layout, 3, world.rank());
    const Tensor shard = Tensor::Zeros(context.allocator(), {map.size()});
    for (const ShardMap::Piece& piece : map.pieces()) {
      for (int64_t i = 0; i < piece.count(); ++i) {
        shard.data()[piece.shard_begin + i] = Weight(IndexOf(*piece.entry->parameter), piece.begin + i);
      }
    }
    const std::vector<Range> parts = {{0, kUnits}};
    UnitGatherer gatherer(context, world.comm(), layout, shard, parts);
    Tape tape(context, Tape::Mode::kInference);
    const Var y = Forward(tape, ema, gatherer, parts[0], Var(Input(context.allocator(), 0)));
    EXPECT_EQ(Floats(y.value().data(), y.value().data() + kWidth), want.outputs[0]);
    gatherer.FinishAll();
    EXPECT_LT(gatherer.peak_bytes(), kUnits / 2 * kUnitBytes);
  });
}

TEST(WholeGatherer, BringsTheOtherRanksParts) {
  const Outcome want = Reference(1);
  for (const int n : {1, 2, 3, 4}) {
    RunThreadWorld(n, [&](World& world) {
      RankContext context(1);
      const ToyParameters parameters(Chain());
      const FlatLayout layout(parameters.all(), {.bucket_bytes = 3 * kWidth * 4});
      const ShardMap map(layout, n, world.rank());
      const Tensor weights = Tensor::Zeros(context.allocator(), {layout.size()});
      for (const FlatLayout::Entry& entry : layout.entries()) entry.parameter->value = layout.View(weights, entry);
      for (const ShardMap::Piece& piece : map.pieces()) {
        for (int64_t i = piece.begin; i < piece.end; ++i) {
          weights.data()[piece.entry->offset + i] = Weight(IndexOf(*piece.entry->parameter), i);
        }
      }
      WholeGatherer gatherer(context, world.comm(), layout, weights);
      gatherer.StartGather();
      Tape tape(context);
      const Var y = Forward(tape, parameters, gatherer, {0, kUnits}, Var(Input(context.allocator(), 0)));
      EXPECT_EQ(Floats(y.value().data(), y.value().data() + kWidth), want.outputs[0]);
      gatherer.FinishAll();
      for (const FlatLayout::Entry& entry : layout.entries()) {
        for (int64_t i = 0; i < entry.count; ++i) {
          ASSERT_EQ(weights.data()[entry.offset + i], Weight(IndexOf(*entry.parameter), i));
        }
      }
    });
  }
}

TEST(WholeGatherer, FirstUnitsFirstAndBytesAreTheClosedForm) {
  for (const int n : {2, 4, 8}) {
    RunThreadWorld(n, [&](World& world) {
      RankContext context(1);
      std::vector<ToySpec> specs;
      for (int unit = 0; unit < 3; ++unit) specs.push_back({.elements = (unit + 1) * 2048, .unit = unit});
      const ToyParameters parameters(specs);
      const FlatLayout layout(parameters.all(), {.bucket_bytes = 1});
      const Tensor weights = Tensor::Zeros(context.allocator(), {layout.size()});
      context.timeline().Enable();
      context.timeline().BeginStep(0);
      WholeGatherer gatherer(context, world.comm(), layout, weights);
      gatherer.StartGather();
      gatherer.FinishAll();
      int64_t traced = 0;
      for (const Span& span : context.timeline().spans()) {
        if (span.kind == SpanKind::kCommunication) traced += span.bytes;
      }
      EXPECT_EQ(traced, layout.size() * 4);
      EXPECT_EQ(world.comm().counters().TotalData().ring_bytes, (n - 1) * layout.size() / n * 4);
      std::vector<int64_t> sent;
      for (const CollectiveRecord& record : world.log().Last()) {
        if (!record.control) sent.push_back(record.bytes);
      }
      EXPECT_EQ(sent, (std::vector<int64_t>{2048 * 4, 2 * 2048 * 4, 3 * 2048 * 4}));
    });
  }
}

TEST(UnitGathererDeath, UnitOfAnotherRank) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto enter = [] {
    World world = SelfWorld();
    ShardedRank rank(world.comm(), world.comm(), {{0, 4}});
    Tape tape(rank.context);
    rank.gatherer.Enter(tape, 5);
  };
  EXPECT_DEATH(enter(), "unit 5 is in no part of this rank");
}

}  // namespace
}  // namespace shardit
