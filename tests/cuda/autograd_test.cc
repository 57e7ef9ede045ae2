// Tape, tensors and allocator on a device: what tests/core/autograd_test.cc promises, where memory is the device's,
// work is asynchronous and activations may be bf16 beside fp32 gradients.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/autograd/recompute.h"
#include "core/autograd/tape.h"
#include "core/cuda/device_query.h"
#include "core/ops/gated_residual.h"
#include "core/ops/layer_norm.h"
#include "core/ops/linear.h"
#include "core/ops/mlp.h"
#include "core/ops/silu.h"
#include "core/ops/split.h"
#include "core/tensor/rng.h"
#include "gtest/gtest.h"
#include "tests/core/host_copy.h"
#include "tests/cuda/wants_gpus.h"

namespace shardit {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kBatch = 2, kTokens = 5, kWidth = 8;

// All tests run in both types of activations and parameters; gradients of parameters are fp32 in both.
class CudaAutograd : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_GPUS(1);
    context_ = std::make_unique<RankContext>(Device::Cuda(0), CudaOptions{}, 1);
    allocator().Reserve(int64_t{8} << 20);
  }

  Allocator& allocator() { return context_->allocator(); }
  DType dtype() const { return GetParam(); }
  Tensor New(Shape shape, const Floats& values) { return New(shape, values, dtype()); }
  Tensor New(Shape shape, const Floats& values, DType type) {
    Tensor tensor = Tensor::Empty(allocator(), shape, type);
    WriteFloats(tensor, values);
    return tensor;
  }
  Tensor Draw(Shape shape, uint64_t stream, float spread = 1) {
    Floats values(static_cast<size_t>(shape.elements()));
    FillNormal({.seed = 1, .stream = stream}, 0, shape.elements(), values.data());
    for (float& value : values) value *= spread;
    return New(shape, values);
  }
  Tensor Ones(Shape shape) { return New(shape, Floats(static_cast<size_t>(shape.elements()), 1.0f)); }
  Leaf Parameter(const std::string& name, Shape shape, uint64_t stream) {
    Leaf leaf;
    leaf.name = name;
    leaf.value = Draw(shape, stream);
    return leaf;
  }
  Leaf Activation(const std::string& name, Shape shape, uint64_t stream) {
    Leaf leaf = Parameter(name, shape, stream);
    leaf.grad_dtype = dtype();
    return leaf;
  }

  std::unique_ptr<RankContext> context_;
};

INSTANTIATE_TEST_SUITE_P(Types, CudaAutograd, ::testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& info) { return std::string(Name(info.param)); });

std::vector<uint32_t> Bits(const Tensor& tensor) {
  std::vector<uint32_t> bits;
  for (const float value : ReadFloats(tensor)) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

// Parameters of a small network with a bit of everything.
struct Network {
  explicit Network(std::vector<Leaf> parameters) : leaves(std::move(parameters)) {}

  // x + gate mlp(LN(x)(1 + scale) + shift), the modulation from a linear layer on `condition`.
  Var Block(Tape& tape, const Var& x_NTD, const Var& condition) {
    const std::vector<Var> modulation = SplitColumns(tape, Linear(tape, condition, P(0), P(1)), 3);
    const Var h = LayerNormModulate(tape, x_NTD, modulation[0], modulation[1]);
    return GatedResidual(tape, x_NTD, modulation[2], Mlp(tape, h, P(2), P(3), P(4), P(5)));
  }
  Var P(size_t index) { return Var(leaves[index]); }
  std::vector<Leaf*> Pointers() {
    std::vector<Leaf*> pointers;
    for (Leaf& leaf : leaves) pointers.push_back(&leaf);
    return pointers;
  }
  std::vector<std::vector<uint32_t>> GradBits() const {
    std::vector<std::vector<uint32_t>> bits;
    for (const Leaf& leaf : leaves) bits.push_back(Bits(leaf.grad));
    return bits;
  }

  std::vector<Leaf> leaves;
};

class CudaNetwork : public CudaAutograd {
 protected:
  Network NewNetwork() {
    return Network({Parameter("w", {3 * kWidth, kWidth}, 101), Parameter("b", {3 * kWidth}, 102),
                    Parameter("w1", {4 * kWidth, kWidth}, 103), Parameter("b1", {4 * kWidth}, 104),
                    Parameter("w2", {kWidth, 4 * kWidth}, 105), Parameter("b2", {kWidth}, 106)});
  }
};

INSTANTIATE_TEST_SUITE_P(Types, CudaNetwork, ::testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& info) { return std::string(Name(info.param)); });

TEST_P(CudaAutograd, AdditionsFollowTheForwardOrderNotTheSeeds) {
  const auto run = [&](bool reversed) {
    Leaf x = Activation("x", {64}, 4);
    Tape tape(*context_);
    std::vector<Tape::Seed> seeds;
    for (uint64_t i = 0; i < 3; ++i) {
      const Var y = Silu(tape, Var(x));
      seeds.push_back({y, Draw({64}, 10 + i, std::pow(10.0f, 3.0f * static_cast<float>(i)))});
    }
    if (reversed) std::reverse(seeds.begin(), seeds.end());
    tape.Backward(std::move(seeds));
    return Bits(x.grad);
  };
  EXPECT_EQ(run(false), run(true));
}

TEST_P(CudaAutograd, GradientsGoIntoTheGivenDestinationAndAddUpOverMicroBatches) {
  const Tensor flat = New({3 * 5 + 3}, Floats(18, kNan), DType::kF32);
  Leaf w = Parameter("w", {3, 5}, 1), b = Parameter("b", {3}, 2);
  w.grad = flat.Narrow(0, 0, 15).Reshape({3, 5});
  b.grad = flat.Narrow(0, 15, 3);
  const auto micro_batch = [&] {
    Tape tape(*context_);
    const Var y = Linear(tape, Var(Draw({7, 5}, 20)), Var(w), Var(b));
    tape.Backward({{y, Ones({7, 3})}});
  };
  micro_batch();
  const Floats first = ReadFloats(flat);
  EXPECT_EQ(first[15], 7.0f);  // b: one from each row
  micro_batch();
  const Floats second = ReadFloats(flat);
  for (size_t i = 0; i < first.size(); ++i) EXPECT_FLOAT_EQ(second[i], 2 * first[i]) << i;
  EXPECT_EQ(w.grad.storage_id(), flat.storage_id());
  // The next step overwrites.
  w.grad_written = b.grad_written = false;
  micro_batch();
  EXPECT_EQ(ReadFloats(flat), first);
}

// 1 and then 64 times 2^-9: in bf16 every addition would be lost.
TEST_P(CudaAutograd, GradientsOfWhatManyReadAreGatheredInFp32) {
  Leaf x = Activation("x", {4}, 1);
  x.value = New({4}, Floats(4, 0.0f));  // where the slope of SiLU is 1/2
  Tape tape(*context_);
  const Var y = Silu(tape, Var(x));
  std::vector<Tape::Seed> seeds{{y, Ones({4})}};
  for (int i = 0; i < 64; ++i) seeds.push_back({y, New({4}, Floats(4, std::ldexp(1.0f, -9)))});
  tape.Backward(std::move(seeds));
  EXPECT_EQ(ReadFloats(x.grad), Floats(4, 0.5f * 1.125f));
  EXPECT_EQ(Name(x.grad.dtype()), Name(dtype()));
}

// A gradient that arrives in another type than its leaf wants is converted, not moved in.
TEST_P(CudaAutograd, DeliveredGradientsHaveTheTypeOfTheirLeaf) {
  Leaf a = Activation("a", {4}, 1), b = Activation("b", {4}, 2);
  a.grad_dtype = DType::kF32;
  Tape tape(*context_);
  const Var sum = Add(tape, Var(a), Var(b));
  tape.Backward({{sum, New({4}, {1, 2, 3, -4})}});
  EXPECT_EQ(Name(a.grad.dtype()), "f32");
  EXPECT_EQ(Name(b.grad.dtype()), Name(dtype()));
  EXPECT_EQ(ReadFloats(a.grad), (Floats{1, 2, 3, -4}));
  EXPECT_EQ(ReadFloats(b.grad), (Floats{1, 2, 3, -4}));
}

TEST_P(CudaAutograd, PartsOfASplitShareOneGradient) {
  Leaf x = Activation("x", {3, 6}, 1);
  Tape tape(*context_);
  const std::vector<Var> parts = SplitColumns(tape, Var(x), 3);
  tape.Backward({{parts[0], Ones({3, 2})}, {parts[2], Ones({3, 2})}, {parts[2], Ones({3, 2})}});
  EXPECT_EQ(ReadFloats(x.grad), (Floats{1, 1, 0, 0, 2, 2, 1, 1, 0, 0, 2, 2, 1, 1, 0, 0, 2, 2}));
}

TEST_P(CudaAutograd, FiniteCheckNamesTheNodeThatBroke) {
  Leaf x = Activation("x", {4}, 1);
  Tape tape(*context_);
  tape.set_check_finite(true);
  const Var top = Add(tape, Silu(tape, Var(x)), Var(Ones({4})));
  tape.Backward({{top, New({4}, {1, 1, std::numeric_limits<float>::infinity(), 1})}});
  EXPECT_EQ(tape.NonFiniteNode(), "add");
}

TEST_P(CudaNetwork, DeferredWeightsAndRecomputeGiveTheSameBits) {
  const auto run = [&](bool recompute, bool defer) {
    Network network = NewNetwork();
    Leaf x = Activation("x", {kBatch, kTokens, kWidth}, 1), c = Activation("c", {kBatch, kWidth}, 2);
    Tape tape(*context_);
    const std::vector<Leaf*> leaves = network.Pointers();
    const Segment segment = [&](Tape& inner, std::span<const Var> in) { return network.Block(inner, in[0], in[1]); };
    const Var condition = Silu(tape, Var(c));  // its gradient, from both blocks, is gathered in fp32
    const auto block = [&](const Var& in) {
      return recompute ? Recompute(tape, {in, condition}, leaves, segment) : network.Block(tape, in, condition);
    };
    const Var y = block(block(Var(x)));  // both blocks use the same parameters
    tape.Backward({{y, Draw(y.shape(), 3)}}, {.defer_weights = defer});
    for (const Leaf* leaf : leaves) EXPECT_NE(leaf->grad_written, defer) << leaf->name;
    if (defer) tape.RunDeferredWeights();
    for (const Leaf* leaf : leaves) EXPECT_EQ(Name(leaf->grad.dtype()), "f32") << leaf->name;
    std::vector<std::vector<uint32_t>> bits = network.GradBits();
    for (const Tensor& tensor : {y.value(), x.grad, c.grad}) bits.push_back(Bits(tensor));
    return bits;
  };
  const auto plain = run(false, false);
  EXPECT_TRUE(run(false, true) == plain) << "deferred";
  EXPECT_TRUE(run(true, false) == plain) << "recomputed";
  EXPECT_TRUE(run(true, true) == plain) << "both";
}

TEST_P(CudaNetwork, NoSystemAllocationsAfterTheSecondStep) {
  allocator().Trim();  // of what was reserved: the steps themselves ask for memory
  Network network = NewNetwork();
  const Tensor x = Draw({kBatch, kTokens, kWidth}, 1), c = Draw({kBatch, kWidth}, 2);
  AllocatorStats after_two;
  int64_t free_bytes = 0;
  std::vector<void*> addresses;
  for (int step = 0; step < 6; ++step) {
    for (int micro_batch = 0; micro_batch < 2; ++micro_batch) {
      Tape tape(*context_);
      const Var y = network.Block(tape, network.Block(tape, Var(x), Var(c)), Var(c));
      addresses.push_back(y.value().raw());
      tape.Backward({{y, Ones(y.shape())}});
    }
    for (Leaf* leaf : network.Pointers()) leaf->grad_written = false;
    if (step == 1) {
      after_two = allocator().stats();
      free_bytes = cuda::MemoryInfo(context_->device()).free_bytes;
    }
  }
  EXPECT_EQ(allocator().stats().system_allocations, after_two.system_allocations);
  EXPECT_EQ(allocator().stats().bytes_in_use, after_two.bytes_in_use);
  EXPECT_EQ(allocator().stats().peak_bytes_in_use, after_two.peak_bytes_in_use);
  EXPECT_EQ(cuda::MemoryInfo(context_->device()).free_bytes, free_bytes);
  // A recorded step depends on it: the same request is served at the same address.
  EXPECT_EQ(addresses[10], addresses[8]);
}

TEST_P(CudaAutograd, TensorsAreClearedAndCopiedWhereTheyLie) {
  const Shape shape{4, 6};
  Floats values(24);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) - 7;
  const Tensor whole = New(shape, values);
  whole.Narrow(1, 2, 3).Zero();  // rows of a wider tensor
  Floats want = values;
  for (size_t i = 0; i < want.size(); ++i) want[i] = i % 6 >= 2 && i % 6 < 5 ? 0 : values[i];
  EXPECT_EQ(ReadFloats(whole), want);
  const Tensor copy = Tensor::Empty(allocator(), shape, dtype());
  copy.CopyFrom(whole);
  whole.Zero();
  EXPECT_EQ(ReadFloats(copy), want);
  EXPECT_EQ(ReadFloats(whole), Floats(24, 0.0f));
  EXPECT_EQ(ReadFloats(Tensor::Zeros(allocator(), {3}, dtype())), Floats(3, 0.0f));
}

// A block that comes back is given out again while work that reads it may still be under way: stream order keeps both
// right.
TEST_P(CudaAutograd, MemoryIsReusedInTheOrderOfTheStream) {
  const Shape shape{1000};
  const Tensor ones = Ones(shape);
  Tensor sum = Tensor::Zeros(allocator(), shape, dtype());
  const void* first = nullptr;
  for (int i = 0; i < 20; ++i) {
    Tape tape(*context_, Tape::Mode::kInference);
    const Tensor step = Tensor::Empty(allocator(), shape, dtype());
    if (first == nullptr) first = step.raw();
    EXPECT_EQ(step.raw(), first);
    step.CopyFrom(ones);
    const Var next = Add(tape, Var(sum), Var(step));
    sum.CopyFrom(next.value());
  }
  EXPECT_EQ(ReadFloats(sum), Floats(1000, 20.0f));
}

TEST_P(CudaAutograd, StatisticsCountWhatIsInUse) {
  const int64_t before = allocator().stats().bytes_in_use;
  {
    const Tensor tensor = Tensor::Empty(allocator(), {1000}, dtype());
    const int64_t bytes = allocator().RoundedSize(tensor.bytes());
    EXPECT_EQ(allocator().stats().bytes_in_use, before + bytes);
    EXPECT_GE(allocator().stats().bytes_reserved, allocator().stats().bytes_in_use);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.raw()) % 256, 0u);
  }
  EXPECT_EQ(allocator().stats().bytes_in_use, before);
}

using CudaAutogradDeathTest = CudaAutograd;

TEST_P(CudaAutogradDeathTest, RunningOutOfMemoryEndsTheProcessWithTheStatistics) {
  // A forked process must not go on with the device of its parent: the test is run anew in it.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const Tensor kept = Tensor::Empty(allocator(), {1 << 20}, dtype());
  EXPECT_DEATH(Tensor::Empty(allocator(), {int64_t{1} << 48}, dtype()),
               "out of memory on cuda:0: [0-9]+ bytes asked for.*\n.*activations");
}

INSTANTIATE_TEST_SUITE_P(Types, CudaAutogradDeathTest, ::testing::Values(DType::kBF16),
                         [](const auto& info) { return std::string(Name(info.param)); });

}  // namespace
}  // namespace shardit
