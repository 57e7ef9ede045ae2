// Legend: N images, T tokens, D width.
#include "core/ops/layer_norm.h"
#include "tests/core/ops/naive_norm.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

OpCase Affine(int64_t n, int64_t t, int64_t d, double spread = 1) {
  return {.name = CaseName("affine", {n, t, d}, spread == 1 ? "" : "spread"),
          .inputs = {{.shape = {n, t, d}, .spread = spread},
                     {.shape = {d}, .role = OpRole::kParameter},
                     {.shape = {d}, .role = OpRole::kParameter}},
          .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {LayerNorm(tape, in[0], in[1], in[2])};
          },
          .naive = [](const std::vector<Array>& in) -> std::vector<Array> {
            Array y = NaiveNorm(in[0], 1e-6);
            for (size_t i = 0; i < y.values.size(); ++i) {
              const size_t column = i % in[1].values.size();
              y.values[i] = y.values[i] * in[1].values[column] + in[2].values[column];
            }
            return {y};
          }};
}

OpCase Modulate(int64_t n, int64_t t, int64_t d, bool strided) {
  return {
      .name = CaseName("modulate", {n, t, d}, strided ? "strided" : ""),
      .inputs = {{.shape = {n, t, d}}, {.shape = {n, d}, .strided = strided}, {.shape = {n, d}, .strided = strided}},
      .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
        return {LayerNormModulate(tape, in[0], in[1], in[2])};
      },
      .naive = [](const std::vector<Array>& in) -> std::vector<Array> {
        return {NaiveModulatedNorm(in[0], in[1], in[2], 1e-6)};
      }};
}

}  // namespace

std::vector<OpCase> LayerNormCases() {
  std::vector<OpCase> cases{
      Affine(1, 1, 8),
      Affine(2, 5, 72),
      Affine(3, 37, 19),
      Affine(2, 4, 33, 100),
      // Several runs of tokens a image, and enough elements for several threads.
      Affine(3, 100, 72),
      Modulate(1, 1, 16, false),
      Modulate(2, 7, 72, true),
      Modulate(3, 33, 17, true),
      Modulate(3, 129, 72, true),
      Modulate(1, 65, 384, false),
      Timed(Modulate(4, 256, 384, true)),
      Timed(Modulate(32, 16, 384, true)),
      Timed(Modulate(32, 256, 1152, true)),
      Timed(Affine(4, 256, 384)),
  };
  for (const auto& [width, heads] : kModelWidths) {
    cases.push_back(Large(Modulate(kModelBatch, kModelTokens, width, true)));
    cases.push_back(Large(Affine(kModelBatch, kModelTokens, width)));
  }
  return cases;
}

}  // namespace shardit
