// SiLU, embedding, token and patch ops. Legend: N images, T tokens, D width, V rows of a table.
#include <cmath>

#include "core/ops/embedding.h"
#include "core/ops/patch_embed.h"
#include "core/ops/silu.h"
#include "core/ops/timestep_embedding.h"
#include "core/ops/tokens.h"
#include "core/ops/unpatchify.h"
#include "tests/core/op_case.h"

namespace shardit {
namespace {

OpCase Timed(OpCase op) {
  op.timed = true;
  return op;
}

OpCase SiluCase(Shape shape, double spread = 2) {
  return {.name = CaseName("silu", {shape.elements()}, spread > 2 ? "spread" : ""),
          .inputs = {{.shape = shape, .spread = spread}},
          .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> { return {Silu(tape, in[0])}; },
          .naive = [](const std::vector<Array>& in) -> std::vector<Array> {
            Array y = in[0];
            for (double& value : y.values) value /= 1 + std::exp(-value);
            return {y};
          }};
}

INSTANTIATE_OP_CASES(Silu, (std::vector<OpCase>{SiluCase({1}), SiluCase({3, 7}), SiluCase({5, 33}, 30),
                                                SiluCase({3, 4100}), Timed(SiluCase({32, 1152}))}));

// Every second id is 0 or the last row; the others are spread over the table.
std::vector<int32_t> Ids(int64_t rows, int64_t count) {
  std::vector<int32_t> ids;
  for (int64_t n = 0; n < count; ++n) {
    ids.push_back(static_cast<int32_t>(n % 4 == 0 ? 0 : n % 4 == 2 ? rows - 1 : n * 7 % rows));
  }
  return ids;
}

OpCase EmbeddingCase(int64_t rows, int64_t count, int64_t width) {
  return {.name = CaseName("embedding", {rows, count, width}),
          .inputs = {{.shape = {rows, width}}},
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            const std::vector<int32_t> ids = Ids(rows, count);
            Tensor ids_N = Tensor::Empty(tape.allocator(), {count}, DType::kI32);
            std::copy(ids.begin(), ids.end(), ids_N.data<int32_t>());
            return {Embedding(tape, in[0], ids_N)};
          },
          .naive = [=](const std::vector<Array>& in) -> std::vector<Array> {
            const std::vector<int32_t> ids = Ids(rows, count);
            Array y({count, width});
            for (int64_t n = 0; n < count; ++n) {
              for (int64_t i = 0; i < width; ++i) y(n, i) = in[0](ids[static_cast<size_t>(n)], i);
            }
            return {y};
          }};
}

INSTANTIATE_OP_CASES(Embedding,
                     (std::vector<OpCase>{EmbeddingCase(1, 1, 1), EmbeddingCase(11, 9, 37), EmbeddingCase(5, 40, 17),
                                          EmbeddingCase(101, 33, 300), Timed(EmbeddingCase(1001, 256, 1152))}));

TEST(EmbeddingDeathTest, RefusesIdsOutsideTheTable) {
  RankContext context(1);
  Tape tape(context);
  const Var table(Tensor::Zeros(context.allocator(), {3, 2}));
  for (int32_t id : {-1, 3}) {
    EXPECT_DEATH(Embedding(tape, table, Tensor::Borrow(&id, {1}, DType::kI32)), "id (-1|3) at 0, the table has 3 rows");
  }
}

OpCase Append(int64_t n, int64_t t, int64_t d, bool strided = false) {
  const OpInput row{.shape = {n, d}, .strided = strided};
  return {.name = CaseName("append", {n, t, d}, strided ? "strided" : ""),
          .inputs = {{.shape = {n, t, d}}, row, row},
          .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {AppendTokens(tape, in[0], in[1], in[2])};
          },
          .naive = [=](const std::vector<Array>& in) -> std::vector<Array> {
            Array y({n, t + 2, d});
            for (int64_t image = 0; image < n; ++image) {
              for (int64_t i = 0; i < d; ++i) {
                for (int64_t token = 0; token < t; ++token) y(image, token, i) = in[0](image, token, i);
                y(image, t, i) = in[1](image, i);
                y(image, t + 1, i) = in[2](image, i);
              }
            }
            return {y};
          }};
}

OpCase Stack(int64_t n, int64_t d, bool strided = false) {
  const OpInput row{.shape = {n, d}, .strided = strided};
  return {.name = CaseName("stack", {n, d}, strided ? "strided" : ""),
          .inputs = {row, row},
          .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {StackTokens(tape, in[0], in[1])};
          },
          .naive = [=](const std::vector<Array>& in) -> std::vector<Array> {
            Array y({n, 2, d});
            for (int64_t image = 0; image < n; ++image) {
              for (int64_t i = 0; i < d; ++i) {
                y(image, 0, i) = in[0](image, i);
                y(image, 1, i) = in[1](image, i);
              }
            }
            return {y};
          }};
}

OpCase Keep(int64_t n, int64_t s, int64_t d, int64_t keep) {
  return {.name = CaseName("keep", {n, s, d, keep}),
          .inputs = {{.shape = {n, s, d}}},
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {KeepTokens(tape, in[0], keep)};
          },
          .naive = [=](const std::vector<Array>& in) -> std::vector<Array> {
            Array y({n, keep, d});
            for (int64_t image = 0; image < n; ++image) {
              for (int64_t token = 0; token < keep; ++token) {
                for (int64_t i = 0; i < d; ++i) y(image, token, i) = in[0](image, token, i);
              }
            }
            return {y};
          }};
}

INSTANTIATE_OP_CASES(Tokens,
                     (std::vector<OpCase>{Append(1, 1, 1), Append(3, 5, 19, true), Append(5, 64, 72), Stack(1, 1),
                                          Stack(3, 19, true), Keep(1, 1, 1, 1), Keep(3, 7, 5, 5), Keep(3, 66, 100, 64),
                                          Timed(Append(32, 256, 384)), Timed(Keep(32, 258, 384, 256))}));

// The definition by einops: n (h w) (p q c) -> n c (h p) (w q).
OpCase UnpatchifyCase(int64_t n, int64_t channels, int64_t patch, int64_t h, int64_t w) {
  return {.name = CaseName("unpatchify", {n, channels, patch, h, w}),
          .inputs = {{.shape = {n, h * w, patch * patch * channels}}},
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {Unpatchify(tape, in[0], channels, patch, h, w)};
          },
          .naive = [=](const std::vector<Array>& in) -> std::vector<Array> {
            Array y({n, channels, h * patch, w * patch});
            for (int64_t image = 0; image < n; ++image) {
              for (int64_t c = 0; c < channels; ++c) {
                for (int64_t i = 0; i < h * patch; ++i) {
                  for (int64_t j = 0; j < w * patch; ++j) {
                    const int64_t token = i / patch * w + j / patch;
                    y(image, c, i, j) = in[0](image, token, (i % patch * patch + j % patch) * channels + c);
                  }
                }
              }
            }
            return {y};
          }};
}

INSTANTIATE_OP_CASES(Unpatchify, (std::vector<OpCase>{UnpatchifyCase(1, 1, 1, 1, 1), UnpatchifyCase(2, 3, 2, 3, 5),
                                                      UnpatchifyCase(2, 8, 4, 1, 2), UnpatchifyCase(3, 8, 2, 20, 18),
                                                      Timed(UnpatchifyCase(32, 8, 2, 16, 16))}));

// The definition by einops: n c (h p) (w q) -> n (h w) (c p q).
OpCase PatchifyCase(int64_t n, int64_t channels, int64_t patch, int64_t h, int64_t w) {
  return {.name = CaseName("patchify", {n, channels, patch, h, w}),
          .inputs = {{.shape = {n, channels, h * patch, w * patch}, .wants_grad = false}},
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {Var(Patchify(tape.context(), in[0].value(), patch))};
          },
          .naive = [=](const std::vector<Array>& in) -> std::vector<Array> {
            Array y({n, h * w, channels * patch * patch});
            for (int64_t image = 0; image < n; ++image) {
              for (int64_t c = 0; c < channels; ++c) {
                for (int64_t i = 0; i < h * patch; ++i) {
                  for (int64_t j = 0; j < w * patch; ++j) {
                    const int64_t token = i / patch * w + j / patch;
                    y(image, token, (c * patch + i % patch) * patch + j % patch) = in[0](image, c, i, j);
                  }
                }
              }
            }
            return {y};
          }};
}

INSTANTIATE_OP_CASES(Patchify, (std::vector<OpCase>{PatchifyCase(1, 1, 1, 1, 1), PatchifyCase(2, 3, 2, 3, 5),
                                                    PatchifyCase(2, 4, 8, 1, 2), PatchifyCase(3, 4, 2, 20, 18),
                                                    Timed(PatchifyCase(32, 4, 2, 16, 16))}));

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
