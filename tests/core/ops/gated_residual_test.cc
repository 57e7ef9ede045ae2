// Legend: N images, T tokens, D width.
#include "core/ops/gated_residual.h"

#include "tests/core/op_case.h"
#include "tests/core/ops/naive_norm.h"

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
          }};
}

OpCase Timed(OpCase op) {
  op.timed = true;
  return op;
}

std::vector<OpCase> Cases() {
  return {
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
}

INSTANTIATE_OP_CASES(GatedResidual, Cases());

// The two inputs of a sum must not share one gradient buffer: what is later added to one would show in the other.
TEST(GatedResidual, GradientsOfASumAreApart) {
  for (const bool norm : {false, true}) {
    RankContext context(1);
    Leaf a{.name = "a", .value = Tensor::Zeros(context.allocator(), {1, 1, 4})};
    Leaf b{.name = "b", .value = Tensor::Zeros(context.allocator(), {1, 1, 4})};
    const Var row(Tensor::Zeros(context.allocator(), {1, 4}));
    Tape tape(context);
    const Var sum = norm ? GatedResidualNorm(tape, Var(a), Var(), Var(b), row, row).x : Add(tape, Var(a), Var(b));
    Tensor seed = Tensor::Zeros(context.allocator(), {1, 1, 4});
    tape.Backward({{sum, seed}});
    EXPECT_NE(a.grad.storage_id(), b.grad.storage_id());
  }
}

}  // namespace
}  // namespace shardit
