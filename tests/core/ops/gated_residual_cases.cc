// Legend: N images, T tokens, D width.
#include "core/ops/gated_residual.h"
#include "tests/core/ops/naive_norm.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

// x + gate[n] * y; without a gate where `gate` is null.
Array NaiveResidual(const Array& x, const Array* gate, const Array& y) {
  Array out = x;
  for (int64_t n = 0; n < x.dim(0); ++n) {
    for (int64_t t = 0; t < x.dim(1); ++t) {
      for (int64_t i = 0; i < x.dim(2); ++i) out(n, t, i) += (gate == nullptr ? 1.0 : (*gate)(n, i)) * y(n, t, i);
    }
  }
  return out;
}

OpCase AddCase(Shape shape) {
  return {.name = CaseName("add", {shape.elements()}),
          .inputs = {{.shape = shape}, {.shape = shape}},
          .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> { return {Add(tape, in[0], in[1])}; },
          .naive = [](const std::vector<Array>& in) -> std::vector<Array> {
            Array sum = in[0];
            for (size_t i = 0; i < sum.values.size(); ++i) sum.values[i] += in[1].values[i];
            return {sum};
          }};
}

OpCase Gated(int64_t n, int64_t t, int64_t d, bool strided) {
  return {.name = CaseName("gated", {n, t, d}, strided ? "strided" : ""),
          .inputs = {{.shape = {n, t, d}}, {.shape = {n, d}, .strided = strided}, {.shape = {n, t, d}}},
          .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {GatedResidual(tape, in[0], in[1], in[2])};
          },
          .naive = [](const std::vector<Array>& in) -> std::vector<Array> {
            return {NaiveResidual(in[0], &in[1], in[2])};
          }};
}

OpCase GatedNorm(int64_t n, int64_t t, int64_t d, bool strided) {
  const OpInput row{.shape = {n, d}, .strided = strided};
  return {.name = CaseName("gated_norm", {n, t, d}, strided ? "strided" : ""),
          .inputs = {{.shape = {n, t, d}}, row, {.shape = {n, t, d}}, row, row},
          .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            const ResidualNorm out = GatedResidualNorm(tape, in[0], in[1], in[2], in[3], in[4]);
            return {out.x, out.h};
          },
          .naive = [](const std::vector<Array>& in) -> std::vector<Array> {
            const Array x = NaiveResidual(in[0], &in[1], in[2]);
            return {x, NaiveModulatedNorm(x, in[3], in[4], 1e-6)};
          },
          .twin = [](const Arrays& in) -> Arrays {
            const Array x = ToBf16(NaiveResidual(in[0], &in[1], in[2]));
            return {x, NaiveModulatedNorm(x, in[3], in[4], 1e-6)};
          }};
}

OpCase PlainNorm(int64_t n, int64_t t, int64_t d) {
  const OpInput row{.shape = {n, d}, .strided = true};
  return {.name = CaseName("plain_norm", {n, t, d}),
          .inputs = {{.shape = {n, t, d}}, {.shape = {n, t, d}}, row, row},
          .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            const ResidualNorm out = GatedResidualNorm(tape, in[0], Var(), in[1], in[2], in[3]);
            return {out.x, out.h};
          },
          .naive = [](const std::vector<Array>& in) -> std::vector<Array> {
            const Array x = NaiveResidual(in[0], nullptr, in[1]);
            return {x, NaiveModulatedNorm(x, in[2], in[3], 1e-6)};
          },
          .twin = [](const Arrays& in) -> Arrays {
            const Array x = ToBf16(NaiveResidual(in[0], nullptr, in[1]));
            return {x, NaiveModulatedNorm(x, in[2], in[3], 1e-6)};
          }};
}

}  // namespace

std::vector<OpCase> GatedResidualCases() {
  std::vector<OpCase> cases{
      AddCase({1}),
      AddCase({3, 5, 7}),
      AddCase({3, 101, 72}),
      Gated(1, 1, 1, false),
      Gated(2, 5, 72, true),
      Gated(3, 70, 97, true),
      GatedNorm(1, 1, 16, false),
      GatedNorm(2, 7, 72, true),
      GatedNorm(3, 33, 19, true),
      GatedNorm(2, 129, 72, true),
      PlainNorm(1, 3, 8),
      PlainNorm(2, 37, 72),
      PlainNorm(3, 100, 65),
      Timed(AddCase({4, 256, 384})),
      Timed(Gated(4, 256, 384, true)),
      Timed(GatedNorm(4, 256, 384, true)),
      Timed(GatedNorm(32, 16, 384, true)),
      Timed(GatedNorm(32, 256, 1152, true)),
  };
  for (const auto& [width, heads] : kModelWidths) {
    cases.push_back(Large(AddCase({kModelBatch, kModelTokens, width})));
    cases.push_back(Large(Gated(kModelBatch, kModelTokens, width, true)));
    cases.push_back(Large(GatedNorm(kModelBatch, kModelTokens, width, true)));
    cases.push_back(Large(GatedNorm(kModelBatch, kModelTokens / 16, width, true)));
    cases.push_back(Large(PlainNorm(kModelBatch, kModelTokens, width)));
  }
  return cases;
}

}  // namespace shardit
