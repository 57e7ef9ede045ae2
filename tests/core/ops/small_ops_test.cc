// SiLU, embedding, token and patch ops.
#include <cmath>

#include "core/ops/embedding.h"
#include "core/ops/timestep_embedding.h"
#include "tests/core/op_case_cpu.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

INSTANTIATE_OP_CASES(Silu, SiluCases());
INSTANTIATE_OP_CASES(Embedding, EmbeddingCases());
INSTANTIATE_OP_CASES(Tokens, TokensCases());
INSTANTIATE_OP_CASES(Unpatchify, UnpatchifyCases());
INSTANTIATE_OP_CASES(Patchify, PatchifyCases());

TEST(EmbeddingDeathTest, RefusesIdsOutsideTheTable) {
  RankContext context(1);
  Tape tape(context);
  const Var table(Tensor::Zeros(context.allocator(), {3, 2}));
  for (int32_t id : {-1, 3}) {
    EXPECT_DEATH(Embedding(tape, table, Tensor::Borrow(&id, {1}, DType::kI32)), "id (-1|3) at 0, the table has 3 rows");
  }
}

TEST(TimestepEmbedding, IsCosThenSin) {
  RankContext context(2);
  std::vector<int64_t> steps;
  std::vector<float> same;
  for (int64_t t : {0, 1, 2, 37, 500, 998, 999}) {
    steps.push_back(t);
    same.push_back(static_cast<float>(t));
  }
  const int64_t count = static_cast<int64_t>(steps.size());
  const Tensor out = TimestepEmbedding(context, Tensor::Borrow(steps.data(), {count}, DType::kI64));
  const Tensor out_f32 = TimestepEmbedding(context, Tensor::Borrow(same.data(), {count}));
  ASSERT_EQ(out.shape(), Shape({count, 256}));
  for (int64_t n = 0; n < count; ++n) {
    for (int64_t i = 0; i < 128; ++i) {
      const double angle = static_cast<double>(steps[static_cast<size_t>(n)]) * std::pow(10000.0, -i / 128.0);
      EXPECT_NEAR(out.data()[n * 256 + i], std::cos(angle), 1e-7) << n << " " << i;
      EXPECT_NEAR(out.data()[n * 256 + 128 + i], std::sin(angle), 1e-7) << n << " " << i;
    }
  }
  for (int64_t i = 0; i < out.elements(); ++i) ASSERT_EQ(out.data()[i], out_f32.data()[i]);
}

TEST(TimestepEmbedding, TakesFractionsAndOtherWidths) {
  RankContext context(1);
  float t = 0.5f;
  const Tensor out = TimestepEmbedding(context, Tensor::Borrow(&t, {1}), 4);
  EXPECT_FLOAT_EQ(out.data()[0], static_cast<float>(std::cos(0.5)));
  EXPECT_FLOAT_EQ(out.data()[1], static_cast<float>(std::cos(0.005)));
  EXPECT_FLOAT_EQ(out.data()[2], static_cast<float>(std::sin(0.5)));
  EXPECT_FLOAT_EQ(out.data()[3], static_cast<float>(std::sin(0.005)));
}

}  // namespace
}  // namespace shardit
