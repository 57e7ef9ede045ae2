// SiLU, embedding, token and patch ops. Legend: N images, T tokens, D width, V rows of a table.
#include <cmath>

#include "core/ops/embedding.h"
#include "core/ops/patch_embed.h"
#include "core/ops/silu.h"
#include "core/ops/tokens.h"
#include "core/ops/unpatchify.h"
#include "tests/core/host_copy.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

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
          .inputs = {{.shape = {rows, width}, .role = OpRole::kParameter}},
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            std::vector<int32_t> ids = Ids(rows, count);
            return {Embedding(tape, in[0], Placed(tape.allocator(), Tensor::Borrow(ids.data(), {count}, DType::kI32)))};
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

// The definition by einops: n c (h p) (w q) -> n (h w) (c p q).
OpCase PatchifyCase(int64_t n, int64_t channels, int64_t patch, int64_t h, int64_t w) {
  return {.name = CaseName("patchify", {n, channels, patch, h, w}),
          .inputs = {{.shape = {n, channels, h * patch, w * patch}, .wants_grad = false, .role = OpRole::kData}},
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

}  // namespace

std::vector<OpCase> SiluCases() {
  std::vector<OpCase> cases{SiluCase({1}), SiluCase({3, 7}), SiluCase({5, 33}, 30), SiluCase({3, 4100}),
                            Timed(SiluCase({32, 1152}))};
  for (const auto& [width, heads] : kModelWidths) cases.push_back(Large(SiluCase({kModelBatch, width})));
  return cases;
}

std::vector<OpCase> EmbeddingCases() {
  std::vector<OpCase> cases{EmbeddingCase(1, 1, 1), EmbeddingCase(11, 9, 37), EmbeddingCase(5, 40, 17),
                            EmbeddingCase(101, 33, 300), Timed(EmbeddingCase(1001, 256, 1152))};
  for (const auto& [width, heads] : kModelWidths) cases.push_back(Large(EmbeddingCase(1001, kModelBatch, width)));
  return cases;
}

std::vector<OpCase> TokensCases() {
  std::vector<OpCase> cases{Append(1, 1, 1),
                            Append(3, 5, 19, true),
                            Append(5, 64, 72),
                            Stack(1, 1),
                            Stack(3, 19, true),
                            Keep(1, 1, 1, 1),
                            Keep(3, 7, 5, 5),
                            Keep(3, 66, 100, 64),
                            Timed(Append(32, 256, 384)),
                            Timed(Keep(32, 258, 384, 256))};
  for (const auto& [width, heads] : kModelWidths) {
    cases.push_back(Large(Append(kModelBatch, kModelTokens, width)));
    cases.push_back(Large(Stack(kModelBatch, width)));
  }
  cases.push_back(Large(Keep(kModelBatch, kModelTokens + 2, 32, kModelTokens)));
  return cases;
}

std::vector<OpCase> UnpatchifyCases() {
  return {UnpatchifyCase(1, 1, 1, 1, 1),           UnpatchifyCase(2, 3, 2, 3, 5),
          UnpatchifyCase(2, 8, 4, 1, 2),           UnpatchifyCase(3, 8, 2, 20, 18),
          Timed(UnpatchifyCase(32, 8, 2, 16, 16)), Large(UnpatchifyCase(kModelBatch, 8, 2, 16, 16))};
}

std::vector<OpCase> PatchifyCases() {
  return {PatchifyCase(1, 1, 1, 1, 1),           PatchifyCase(2, 3, 2, 3, 5),
          PatchifyCase(2, 4, 8, 1, 2),           PatchifyCase(3, 4, 2, 20, 18),
          Timed(PatchifyCase(32, 4, 2, 16, 16)), Large(PatchifyCase(kModelBatch, 4, 2, 16, 16))};
}

}  // namespace shardit
