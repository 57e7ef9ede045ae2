// The tape's promises: what a leaf, a destination, a deferred weight, a recomputed segment and a saved byte are.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/autograd/recompute.h"
#include "core/autograd/tape.h"
#include "core/ops/gated_residual.h"
#include "core/ops/layer_norm.h"
#include "core/ops/linear.h"
#include "core/ops/mlp.h"
#include "core/ops/silu.h"
#include "core/ops/split.h"
#include "core/tensor/rng.h"
#include "gtest/gtest.h"

namespace shardit {
namespace {

using Names = std::vector<std::string>;

Tensor Draw(Allocator& allocator, Shape shape, uint64_t stream) {
  Tensor tensor = Tensor::Empty(allocator, shape);
  FillNormal({.seed = 1, .stream = stream}, 0, tensor.elements(), tensor.data());
  return tensor;
}

std::vector<uint32_t> Bits(const Tensor& tensor) {
  std::vector<uint32_t> bits(static_cast<size_t>(tensor.elements()));
  std::memcpy(bits.data(), tensor.data(), bits.size() * sizeof(uint32_t));
  return bits;
}

// out = a + b; its backward leaves its label in a log.
class LoggedSum : public Node {
 public:
  LoggedSum(std::string label, Names& log) : Node(1), label_(std::move(label)), log_(log) {}
  const char* name() const override { return "logged_sum"; }
  void Backward(RankContext& context) override {
    log_.push_back(label_);
    for (int input = 0; input < 2; ++input) {
      if (!Needs(input)) continue;
      Tensor copy = Tensor::Empty(context.allocator(), Grad().shape());
      copy.CopyFrom(Grad());
      Deliver(context, input, std::move(copy));
    }
  }

 private:
  const std::string label_;
  Names& log_;
};

Var Sum(Tape& tape, const Var& a, const Var& b, const std::string& label, Names& log) {
  Tensor out = Tensor::Empty(tape.allocator(), a.shape());
  for (int64_t i = 0; i < out.elements(); ++i) out.data()[i] = a.value().data()[i] + b.value().data()[i];
  return tape.Record(std::make_unique<LoggedSum>(label, log), {a, b}, {out}, {})[0];
}

// Writes "final NAME" into a log, where nodes write too.
class LoggingObserver : public LeafObserver {
 public:
  explicit LoggingObserver(Names& log) : log_(log) {}
  void OnLeafFinal(Leaf& leaf) override { log_.push_back("final " + leaf.name); }

 private:
  Names& log_;
};

class Autograd : public ::testing::Test {
 protected:
  Allocator& allocator() { return context_.allocator(); }
  Leaf NewLeaf(const std::string& name, Shape shape, uint64_t stream) {
    Leaf leaf;
    leaf.name = name;
    leaf.value = Draw(allocator(), shape, stream);
    return leaf;
  }
  Tensor Ones(Shape shape) {
    Tensor tensor = Tensor::Empty(allocator(), shape);
    std::fill_n(tensor.data(), tensor.elements(), 1.0f);
    return tensor;
  }

  RankContext context_{1};
  Names log_;
};

// A leaf that several nodes use is final right after the last of them, whichever input it is of each.
TEST_F(Autograd, LeafIsFinalAfterItsLastConsumerWhateverTheOrderOfInputs) {
  const auto run = [&](bool swapped) {
    log_.clear();
    Leaf w = NewLeaf("w", {4}, 1), v = NewLeaf("v", {4}, 2), x = NewLeaf("x", {4}, 3);
    Tape tape(context_);
    const auto sum = [&](const Var& a, const Var& b, const std::string& label) {
      return swapped ? Sum(tape, b, a, label, log_) : Sum(tape, a, b, label, log_);
    };
    const Var first = sum(Var(x), Var(w), "first");
    const Var left = sum(first, Var(v), "left");
    const Var right = sum(first, Var(w), "right");
    const Var top = sum(left, right, "top");
    LoggingObserver observer(log_);
    tape.Backward({{top, Ones({4})}}, {.observer = &observer});
    EXPECT_EQ(w.grad.data()[0], 3.0f);  // once by "right", twice by "first"
    EXPECT_EQ(v.grad.data()[0], 1.0f);
    EXPECT_EQ(x.grad.data()[0], 2.0f);
    std::sort(log_.begin() + 5, log_.end());  // the two leaves that "first" finishes
    return log_;
  };
  const Names want = {"top", "right", "left", "final v", "first", "final w", "final x"};
  EXPECT_EQ(run(false), want);
  EXPECT_EQ(run(true), want);
}

// Three contributions of very different size: another order of additions would give other bits.
TEST_F(Autograd, AdditionsFollowTheForwardOrderNotTheSeeds) {
  const auto run = [&](bool reversed_seeds) {
    Leaf x = NewLeaf("x", {64}, 4);
    Tape tape(context_);
    std::vector<Tape::Seed> seeds;
    for (uint64_t i = 0; i < 3; ++i) {
      const Var y = Silu(tape, Var(x));
      Tensor seed = Draw(allocator(), {64}, 10 + i);
      for (int64_t k = 0; k < 64; ++k) seed.data()[k] *= std::pow(10.0f, 3.0f * static_cast<float>(i));
      seeds.push_back({y, seed});
    }
    if (reversed_seeds) std::reverse(seeds.begin(), seeds.end());
    tape.Backward(std::move(seeds));
    return Bits(x.grad);
  };
  EXPECT_EQ(run(false), run(true));
}

TEST_F(Autograd, GradientsGoIntoTheGivenDestinationAndAddUpOverMicroBatches) {
  const Tensor flat = Tensor::Empty(allocator(), {3 * 5 + 3});
  std::fill_n(flat.data(), flat.elements(), std::numeric_limits<float>::quiet_NaN());
  Leaf w = NewLeaf("w", {3, 5}, 1), b = NewLeaf("b", {3}, 2);
  w.grad = flat.Narrow(0, 0, 15).Reshape({3, 5});
  b.grad = flat.Narrow(0, 15, 3);
  const auto micro_batch = [&](uint64_t stream) {
    Tape tape(context_);
    const Var y = Linear(tape, Var(Draw(allocator(), {7, 5}, stream)), Var(w), Var(b));
    tape.Backward({{y, Ones({7, 3})}});
  };
  micro_batch(20);
  std::vector<float> first(flat.data(), flat.data() + flat.elements());
  for (const float value : first) EXPECT_TRUE(std::isfinite(value));
  micro_batch(20);
  for (size_t i = 0; i < first.size(); ++i) EXPECT_FLOAT_EQ(flat.data()[i], 2 * first[i]) << i;
  EXPECT_EQ(w.grad.storage_id(), flat.storage_id());
  // The next step overwrites.
  w.grad_written = b.grad_written = false;
  micro_batch(20);
  EXPECT_EQ(Bits(flat), Bits(Tensor::Borrow(first.data(), flat.shape())));
}

// Parameters of a small network with a bit of everything.
struct Network {
  Network(Allocator& allocator, int64_t width) {
    const auto add = [&](const char* name, Shape shape) {
      leaves.push_back(std::make_unique<Leaf>());
      leaves.back()->name = name;
      leaves.back()->value = Draw(allocator, shape, 100 + leaves.size());
    };
    add("w", {3 * width, width});
    add("b", {3 * width});
    add("w1", {4 * width, width});
    add("b1", {4 * width});
    add("w2", {width, 4 * width});
    add("b2", {width});
  }

  // x + gate mlp(LN(x)(1 + scale) + shift), the modulation from a linear layer on SiLU(c).
  Var Block(Tape& tape, const Var& x_NTD, const Var& c_ND) const {
    const std::vector<Var> modulation = SplitColumns(tape, Linear(tape, Silu(tape, c_ND), P(0), P(1)), 3);
    const Var h = LayerNormModulate(tape, x_NTD, modulation[0], modulation[1]);
    return GatedResidual(tape, x_NTD, modulation[2], Mlp(tape, h, P(2), P(3), P(4), P(5)));
  }
  Var P(size_t index) const { return Var(*leaves[index]); }
  std::vector<Leaf*> Pointers() const {
    std::vector<Leaf*> pointers;
    for (const std::unique_ptr<Leaf>& leaf : leaves) pointers.push_back(leaf.get());
    return pointers;
  }
  std::vector<std::vector<uint32_t>> GradBits() const {
    std::vector<std::vector<uint32_t>> bits;
    for (const std::unique_ptr<Leaf>& leaf : leaves) bits.push_back(Bits(leaf->grad));
    return bits;
  }

  std::vector<std::unique_ptr<Leaf>> leaves;
};

constexpr int64_t kBatch = 2, kTokens = 5, kWidth = 8;
constexpr int64_t kFloat = 4;  // bytes

TEST_F(Autograd, SeveralTapesInFlight) {
  const auto run = [&](bool interleaved) {
    Network network(allocator(), kWidth);
    Leaf x = NewLeaf("x", {kBatch, kTokens, kWidth}, 1), c = NewLeaf("c", {kBatch, kWidth}, 2);
    std::vector<std::unique_ptr<Tape>> tapes;
    std::vector<Var> outputs;
    const auto forward = [&] {
      tapes.push_back(std::make_unique<Tape>(context_));
      outputs.push_back(network.Block(*tapes.back(), Var(x), Var(c)));
    };
    const auto backward = [&](size_t i) {
      tapes[i]->Backward({{outputs[i], Draw(allocator(), x.value.shape(), 7 + i)}});
    };
    if (interleaved) {
      forward();
      forward();
      forward();
      for (size_t i = 0; i < 3; ++i) backward(i);
    } else {
      for (size_t i = 0; i < 3; ++i) {
        forward();
        backward(i);
      }
    }
    std::vector<std::vector<uint32_t>> bits = network.GradBits();
    bits.push_back(Bits(x.grad));
    bits.push_back(Bits(c.grad));
    return bits;
  };
  EXPECT_TRUE(run(true) == run(false));
}

TEST_F(Autograd, DeferredWeightsRunLaterAndLeavesWaitForThem) {
  Network network(allocator(), kWidth), at_once(allocator(), kWidth);
  Leaf x = NewLeaf("x", {kBatch, kTokens, kWidth}, 1), c = NewLeaf("c", {kBatch, kWidth}, 2);
  Tape tape(context_);
  const Var y = network.Block(tape, Var(x), Var(c));
  LoggingObserver observer(log_);
  const Tensor seed = Draw(allocator(), y.shape(), 3);
  tape.Backward({{y, seed}}, {.observer = &observer, .defer_weights = true});
  EXPECT_EQ(log_, (Names{"final x", "final c"}));
  for (const Leaf* leaf : network.Pointers()) EXPECT_FALSE(leaf->grad_written) << leaf->name;
  EXPECT_EQ(tape.RunDeferredWeights(), 2);  // the MLP and the linear layer
  EXPECT_EQ(log_, (Names{"final x", "final c", "final w1", "final b1", "final w2", "final b2", "final w", "final b"}));
  EXPECT_EQ(tape.RunDeferredWeights(), 0);

  Leaf x2 = NewLeaf("x", {kBatch, kTokens, kWidth}, 1), c2 = NewLeaf("c", {kBatch, kWidth}, 2);
  Tape tape2(context_);
  const Var y2 = at_once.Block(tape2, Var(x2), Var(c2));
  tape2.Backward({{y2, Draw(allocator(), y.shape(), 3)}});
  EXPECT_TRUE(network.GradBits() == at_once.GradBits());
  EXPECT_EQ(Bits(x.grad), Bits(x2.grad));
}

TEST_F(Autograd, SavedBytesCountEachStorageOnceAndNoLeaf) {
  Network network(allocator(), kWidth);
  Leaf x = NewLeaf("x", {kBatch, kTokens, kWidth}, 1), c = NewLeaf("c", {kBatch, kWidth}, 2);
  Tape tape(context_);
  const Var y = network.Block(tape, Var(x), Var(c));
  const int64_t rows = kBatch * kWidth * kFloat, tokens = kTokens * rows;
  const auto bytes = tape.SavedBytesByNode();
  EXPECT_EQ(bytes.count("silu"), 0u);         // its input is a leaf
  EXPECT_EQ(bytes.at("linear"), rows);        // SiLU(c)
  EXPECT_EQ(bytes.at("layer_norm_modulate"),  // statistics and the storage behind scale, which the gate shares
            2 * kBatch * kTokens * kFloat + 3 * rows);
  EXPECT_EQ(bytes.at("mlp"), tokens + 2 * 4 * tokens);  // input, pre-activation, activation
  EXPECT_EQ(bytes.at("gated_residual"), tokens);        // the MLP's output
  EXPECT_EQ(tape.SavedBytes(), rows + 2 * kBatch * kTokens * kFloat + 3 * rows + 9 * tokens + tokens);
  tape.Backward({{y, Ones(y.shape())}});
  EXPECT_EQ(tape.SavedBytes(), 0);
}

// Saved tensors go as soon as their node has run: when the first leaf is final, the MLP's are gone already.
TEST_F(Autograd, MemoryFallsWhileBackwardRuns) {
  class BytesAtFinal : public LeafObserver {
   public:
    explicit BytesAtFinal(Tape& tape) : tape_(tape) {}
    void OnLeafFinal(Leaf& leaf) override { bytes.emplace_back(leaf.name, tape_.SavedBytes()); }
    std::vector<std::pair<std::string, int64_t>> bytes;

   private:
    Tape& tape_;
  };
  Network network(allocator(), kWidth);
  Leaf x = NewLeaf("x", {kBatch, kTokens, kWidth}, 1), c = NewLeaf("c", {kBatch, kWidth}, 2);
  Tape tape(context_);
  const Var y = network.Block(tape, Var(x), Var(c));
  BytesAtFinal observer(tape);
  const int64_t before = tape.SavedBytes();
  tape.Backward({{y, Ones(y.shape())}}, {.observer = &observer});
  ASSERT_EQ(observer.bytes.size(), 8u);
  EXPECT_EQ(observer.bytes.front().first, "w1");
  EXPECT_EQ(observer.bytes.front().second, before - 10 * kBatch * kTokens * kWidth * kFloat);
  for (size_t i = 1; i < observer.bytes.size(); ++i) EXPECT_LE(observer.bytes[i].second, observer.bytes[i - 1].second);
}

struct RecomputeRun {
  std::vector<std::vector<uint32_t>> bits;
  int64_t saved_bytes = 0;
  Names finals;
};

TEST_F(Autograd, RecomputeGivesTheSameBitsFromFewerBytes) {
  const auto run = [&](bool recompute, bool defer) {
    Network network(allocator(), kWidth);
    Leaf x = NewLeaf("x", {kBatch, kTokens, kWidth}, 1), c = NewLeaf("c", {kBatch, kWidth}, 2);
    Tape tape(context_);
    const std::vector<Leaf*> leaves = network.Pointers();
    const Segment segment = [&](Tape& inner, std::span<const Var> in) { return network.Block(inner, in[0], in[1]); };
    const auto block = [&](const Var& in) {
      return recompute ? Recompute(tape, {in, Var(c)}, leaves, segment) : network.Block(tape, in, Var(c));
    };
    const Var y = block(block(Var(x)));  // both blocks use the same parameters
    RecomputeRun result;
    result.saved_bytes = tape.SavedBytes();
    LoggingObserver observer(result.finals);
    tape.Backward({{y, Draw(allocator(), y.shape(), 3)}}, {.observer = &observer, .defer_weights = defer});
    for (const Leaf* leaf : leaves) EXPECT_NE(leaf->grad_written, defer) << leaf->name;
    if (defer) tape.RunDeferredWeights();
    result.bits = network.GradBits();
    result.bits.push_back(Bits(y.value()));
    result.bits.push_back(Bits(x.grad));
    result.bits.push_back(Bits(c.grad));
    return result;
  };
  const RecomputeRun plain = run(false, false), recomputed = run(true, false), deferred = run(true, true);
  EXPECT_TRUE(recomputed.bits == plain.bits);
  EXPECT_TRUE(deferred.bits == plain.bits);
  // Kept: the second block's input alone; the first one's inputs are leaves.
  EXPECT_EQ(recomputed.saved_bytes, kBatch * kTokens * kWidth * kFloat);
  EXPECT_GT(plain.saved_bytes, 20 * recomputed.saved_bytes);
  for (const RecomputeRun* one : {&plain, &recomputed, &deferred}) {
    Names sorted = one->finals;
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(sorted,
              (Names{"final b", "final b1", "final b2", "final c", "final w", "final w1", "final w2", "final x"}));
  }
}

TEST_F(Autograd, NoSystemAllocationsAfterTheSecondStep) {
  Network network(allocator(), kWidth);
  const Tensor x = Draw(allocator(), {kBatch, kTokens, kWidth}, 1), c = Draw(allocator(), {kBatch, kWidth}, 2);
  int64_t after_two = 0;
  int64_t in_use = 0;
  for (int step = 0; step < 6; ++step) {
    for (int micro_batch = 0; micro_batch < 2; ++micro_batch) {
      Tape tape(context_);
      const Var y = network.Block(tape, network.Block(tape, Var(x), Var(c)), Var(c));
      tape.Backward({{y, Ones(y.shape())}});
    }
    for (Leaf* leaf : network.Pointers()) leaf->grad_written = false;
    if (step == 1) {
      after_two = allocator().stats().system_allocations;
      in_use = allocator().stats().bytes_in_use;
    }
  }
  EXPECT_EQ(allocator().stats().system_allocations, after_two);
  EXPECT_EQ(allocator().stats().bytes_in_use, in_use);
}

TEST_F(Autograd, InferenceRecordsNothing) {
  Network network(allocator(), kWidth);
  Tape recording(context_), inference(context_, Tape::Mode::kInference);
  const Var x(Draw(allocator(), {kBatch, kTokens, kWidth}, 1)), c(Draw(allocator(), {kBatch, kWidth}, 2));
  const Var want = network.Block(recording, x, c);
  const Var got = network.Block(inference, x, c);
  EXPECT_EQ(Bits(got.value()), Bits(want.value()));
  EXPECT_EQ(inference.size(), 0u);
  EXPECT_EQ(inference.SavedBytes(), 0);
  EXPECT_FALSE(got.requires_grad());
}

TEST_F(Autograd, ConstantsAndFrozenLeavesGetNoGradientAndLeaveNoNode) {
  Leaf frozen = NewLeaf("frozen", {4}, 1);
  frozen.requires_grad = false;
  Leaf x = NewLeaf("x", {4}, 2);
  Tape tape(context_);
  const Var constant = Silu(tape, Var(frozen));
  EXPECT_EQ(tape.size(), 0u);
  const Var y = Add(tape, constant, Var(x));
  EXPECT_EQ(tape.size(), 1u);
  tape.Backward({{y, Ones({4})}});
  EXPECT_FALSE(frozen.grad_written);
  EXPECT_FALSE(frozen.grad.defined());
  EXPECT_EQ(x.grad.data()[0], 1.0f);
}

TEST_F(Autograd, OnlyWhatTheSeedsReachRuns) {
  Leaf x = NewLeaf("x", {4}, 1), unused = NewLeaf("unused", {4}, 2);
  Tape tape(context_);
  const Var used = Sum(tape, Var(x), Var(x), "used", log_);
  Sum(tape, used, Var(unused), "not reached", log_);
  LoggingObserver observer(log_);
  tape.Backward({{used, Ones({4})}}, {.observer = &observer});
  EXPECT_EQ(log_, (Names{"used", "final x"}));
  EXPECT_EQ(x.grad.data()[0], 2.0f);
  EXPECT_FALSE(unused.grad_written);
}

// A seed on a node that also has a consumer: both contributions arrive before it runs.
TEST_F(Autograd, SeedsInTheMiddleAddToWhatFlowsBack) {
  Leaf x = NewLeaf("x", {4}, 1);
  Tape tape(context_);
  const Var middle = Sum(tape, Var(x), Var(x), "middle", log_);
  const Var top = Sum(tape, middle, Var(Ones({4})), "top", log_);
  tape.Backward({{middle, Ones({4})}, {top, Ones({4})}, {top, Ones({4})}});
  EXPECT_EQ(log_, (Names{"top", "middle"}));
  EXPECT_EQ(x.grad.data()[0], 6.0f);
}

TEST_F(Autograd, PartsOfASplitShareOneGradient) {
  Leaf x = NewLeaf("x", {3, 6}, 1);
  Tape tape(context_);
  const std::vector<Var> parts = SplitColumns(tape, Var(x), 3);
  const Var y = Sum(tape, parts[0], parts[2], "sum", log_);
  tape.Backward({{y, Ones({3, 2})}});
  for (int64_t i = 0; i < 18; ++i) EXPECT_EQ(x.grad.data()[i], i % 6 / 2 == 1 ? 0.0f : 1.0f) << i;
}

TEST_F(Autograd, FiniteCheckNamesTheNodeThatBroke) {
  Leaf x = NewLeaf("x", {4}, 1);
  Tape tape(context_);
  tape.set_check_finite(true);
  const Var middle = Silu(tape, Var(x));
  const Var top = Add(tape, middle, Var(Ones({4})));
  Tensor seed = Ones({4});
  seed.data()[2] = std::numeric_limits<float>::infinity();
  tape.Backward({{top, seed}});
  EXPECT_EQ(tape.NonFiniteNode(), "add");
}

TEST_F(Autograd, OpsAreRecordedInTheRing) {
  Leaf x = NewLeaf("x", {4}, 1);
  Tape tape(context_);
  const Var y = Silu(tape, Var(x));
  tape.Backward({{y, Ones({4})}});
  ASSERT_EQ(context_.ops().recorded(), 2u);  // forward and backward
  EXPECT_STREQ(context_.ops().Last().back(), "silu");
}

using AutogradDeathTest = Autograd;

TEST_F(AutogradDeathTest, SeedsMustFit) {
  Leaf x = NewLeaf("x", {4}, 1);
  Tape tape(context_);
  const Var y = Silu(tape, Var(x));
  EXPECT_DEATH(tape.Backward({{Var(x), Ones({4})}}), "not recorded");
  EXPECT_DEATH(tape.Backward({{y, Ones({5})}}), "gradient \\[5\\] for output 0 \\[4\\]");
}

}  // namespace
}  // namespace shardit
