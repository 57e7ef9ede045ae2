// Linear, the MLP, the patch projection and column splits. Legend: N images, T tokens, in/out/hidden widths.
#include "core/ops/linear.h"

#include <cmath>

#include "core/ops/mlp.h"
#include "core/ops/patch_projection.h"
#include "core/ops/split.h"
#include "core/ops/tokens.h"
#include "tests/core/op_case.h"

namespace shardit {
namespace {

OpCase Timed(OpCase op) {
  op.timed = true;
  return op;
}

// x [..., in] w [out, in]^T + b [out]; without b where it is null.
Array NaiveLinear(const Array& x, const Array& w, const Array* b) {
  const int64_t in = w.dim(1), out = w.dim(0), rows = x.shape.elements() / in;
  Shape shape = x.shape;
  shape[-1] = out;
  Array y(shape);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t o = 0; o < out; ++o) {
      double sum = b == nullptr ? 0 : (*b)(o);
      for (int64_t i = 0; i < in; ++i) sum += x.values[static_cast<size_t>(row * in + i)] * w(o, i);
      y.values[static_cast<size_t>(row * out + o)] = sum;
    }
  }
  return y;
}

OpCase LinearCase(int64_t n, int64_t t, int64_t in, int64_t out, bool bias) {
  std::vector<OpInput> inputs{{.shape = {n, t, in}}, {.shape = {out, in}}};
  if (bias) inputs.push_back({.shape = {out}});
  return {.name = CaseName("linear", {n, t, in, out}, bias ? "" : "no_bias"),
          .inputs = inputs,
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {Linear(tape, in[0], in[1], bias ? in[2] : Var())};
          },
          .naive = [=](const std::vector<Array>& in) -> std::vector<Array> {
            return {NaiveLinear(in[0], in[1], bias ? &in[2] : nullptr)};
          },
          .inputs_independent = false};
}

INSTANTIATE_OP_CASES(Linear, (std::vector<OpCase>{LinearCase(1, 1, 1, 1, true), LinearCase(2, 3, 5, 7, true),
                                                  LinearCase(2, 5, 72, 33, false), LinearCase(3, 37, 19, 72, true),
                                                  Timed(LinearCase(4, 256, 384, 1152, true))}));

OpCase MlpCase(int64_t n, int64_t t, int64_t width, int64_t hidden) {
  return {.name = CaseName("mlp", {n, t, width, hidden}),
          .inputs = {{.shape = {n, t, width}},
                     {.shape = {hidden, width}, .spread = 0.5},
                     {.shape = {hidden}},
                     {.shape = {width, hidden}, .spread = 0.5},
                     {.shape = {width}}},
          .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {Mlp(tape, in[0], in[1], in[2], in[3], in[4])};
          },
          .naive = [](const std::vector<Array>& in) -> std::vector<Array> {
            Array h = NaiveLinear(in[0], in[1], &in[2]);
            for (double& x : h.values) x *= 0.5 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
            return {NaiveLinear(h, in[3], &in[4])};
          },
          .inputs_independent = false};
}

INSTANTIATE_OP_CASES(Mlp, (std::vector<OpCase>{MlpCase(1, 1, 1, 1), MlpCase(2, 5, 9, 36), MlpCase(1, 33, 17, 40),
                                               Timed(MlpCase(4, 256, 384, 1536))}));

// The patches and the position table are data.
OpCase PatchProjectionCase(int64_t n, int64_t t, int64_t channels, int64_t patch, int64_t width) {
  return {.name = CaseName("patch_projection", {n, t, channels, patch, width}),
          .inputs = {{.shape = {n, t, channels * patch * patch}, .wants_grad = false},
                     {.shape = {width, channels, patch, patch}},
                     {.shape = {width}},
                     {.shape = {t, width}, .wants_grad = false}},
          .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {PatchProjection(tape, in[0].value(), in[1], in[2], in[3].value())};
          },
          .naive = [=](const std::vector<Array>& in) -> std::vector<Array> {
            Array w({width, channels * patch * patch});
            w.values = in[1].values;
            Array y = NaiveLinear(in[0], w, &in[2]);
            for (size_t i = 0; i < y.values.size(); ++i) y.values[i] += in[3].values[i % in[3].values.size()];
            return {y};
          },
          .inputs_independent = false};
}

INSTANTIATE_OP_CASES(PatchProjection,
                     (std::vector<OpCase>{PatchProjectionCase(1, 1, 1, 1, 1), PatchProjectionCase(3, 6, 3, 2, 19),
                                          PatchProjectionCase(2, 16, 4, 2, 72)}));

// Every part beside the next one: each is read in place and used twice.
OpCase SplitCase(int64_t n, int64_t parts, int64_t width) {
  return {.name = CaseName("split", {n, parts, width}),
          .inputs = {{.shape = {n, parts * width}}},
          .run =
              [=](Tape& tape, const std::vector<Var>& in) {
                const std::vector<Var> views = SplitColumns(tape, in[0], parts);
                std::vector<Var> out;
                for (size_t part = 0; part < views.size(); ++part) {
                  out.push_back(StackTokens(tape, views[part], views[(part + 1) % views.size()]));
                }
                return out;
              },
          .naive =
              [=](const std::vector<Array>& in) {
                std::vector<Array> out;
                for (int64_t part = 0; part < parts; ++part) {
                  out.emplace_back(Shape{n, 2, width});
                  for (int64_t row = 0; row < n; ++row) {
                    for (int64_t i = 0; i < width; ++i) {
                      out.back()(row, 0, i) = in[0](row, part * width + i);
                      out.back()(row, 1, i) = in[0](row, (part + 1) % parts * width + i);
                    }
                  }
                }
                return out;
              }};
}

INSTANTIATE_OP_CASES(Split, (std::vector<OpCase>{SplitCase(1, 1, 1), SplitCase(3, 2, 5), SplitCase(2, 6, 72)}));

}  // namespace
}  // namespace shardit
