// Cross-entropy: the cases, PyTorch's numbers for logits of every size, and what it refuses.
#include "core/ops/cross_entropy.h"

#include <cmath>
#include <limits>

#include "tests/core/op_case_cpu.h"
#include "tests/core/ops/golden_arrays.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

INSTANTIATE_OP_CASES(CrossEntropy, CrossEntropyCases());

// Rows of logits from 0 to 1e30: nothing overflows, and a sure answer keeps its small gradient.
TEST(CrossEntropy, IsPyTorchsInDoublePrecision) {
  GoldenArray logits = ReadGolden("cross_entropy.logits"), dlosses = ReadGolden("cross_entropy.dlosses");
  const GoldenArray losses = ReadGolden("cross_entropy.losses"), dlogits = ReadGolden("cross_entropy.dlogits");
  std::vector<int32_t> labels = ReadGoldenIntegers("cross_entropy.labels");
  const int64_t count = logits.shape[0];
  RankContext context(1);
  Tape tape(context);
  Leaf leaf;
  leaf.value = Tensor::Borrow(logits.values.data(), logits.shape);
  const Var y = CrossEntropy(tape, Var(leaf), Tensor::Borrow(labels.data(), {count}, DType::kI32));
  tape.Backward({{y, Tensor::Borrow(dlosses.values.data(), {count})}});
  for (int64_t n = 0; n < count; ++n) {
    const double want = losses.values[static_cast<size_t>(n)];
    EXPECT_NEAR(y.value().data()[n], want, 1e-6 * std::abs(want)) << n;
  }
  for (size_t i = 0; i < dlogits.values.size(); ++i) {
    EXPECT_NEAR(leaf.grad.data()[i], dlogits.values[i], 1e-6 * std::abs(dlogits.values[i])) << i;
  }
}

TEST(CrossEntropy, NanShows) {
  std::vector<float> logits{1, std::numeric_limits<float>::quiet_NaN(), 2, 1, std::numeric_limits<float>::infinity(), 2,
                            1, -std::numeric_limits<float>::infinity(), 2};
  std::vector<int32_t> labels{0, 0, 1};
  RankContext context(1);
  Tape tape(context, Tape::Mode::kInference);
  const Var losses =
      CrossEntropy(tape, Var(Tensor::Borrow(logits.data(), {3, 3})), Tensor::Borrow(labels.data(), {3}, DType::kI32));
  EXPECT_TRUE(std::isnan(losses.value().data()[0]));
  EXPECT_TRUE(std::isnan(losses.value().data()[1]));
  EXPECT_EQ(losses.value().data()[2], std::numeric_limits<float>::infinity());
}

TEST(CrossEntropyDeathTest, RefusesLabelsThatAreNoClass) {
  RankContext context(1);
  Tape tape(context);
  const Var logits(Tensor::Zeros(context.allocator(), {2, 4}));
  for (const int32_t bad : {-1, 4}) {
    std::vector<int32_t> labels{3, bad};
    EXPECT_DEATH(CrossEntropy(tape, logits, Tensor::Borrow(labels.data(), {2}, DType::kI32)),
                 "label (-1|4) at 1, there are 4 classes");
  }
  std::vector<int32_t> labels{3};
  EXPECT_DEATH(CrossEntropy(tape, logits, Tensor::Borrow(labels.data(), {1}, DType::kI32)), "labels \\[1\\]");
}

}  // namespace
}  // namespace shardit
