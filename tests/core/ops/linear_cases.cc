// Linear, the MLP, the patch projection and column splits. Legend: N images, T tokens, in/out/hidden widths.
#include <cmath>

#include "core/ops/linear.h"
#include "core/ops/mlp.h"
#include "core/ops/patch_projection.h"
#include "core/ops/split.h"
#include "core/ops/tokens.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

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
  std::vector<OpInput> inputs{{.shape = {n, t, in}}, {.shape = {out, in}, .role = OpRole::kParameter}};
  if (bias) inputs.push_back({.shape = {out}, .role = OpRole::kParameter});
  return {.name = CaseName("linear", {n, t, in, out}, bias ? "" : "no_bias"),
          .inputs = inputs,
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {Linear(tape, in[0], in[1], bias ? in[2] : Var())};
          },
          .naive = [=](const std::vector<Array>& in) -> std::vector<Array> {
            return {NaiveLinear(in[0], in[1], bias ? &in[2] : nullptr)};
          },
          .inputs_independent = false,
          .products = true};
}

// Of the MLP's pre-activation, and its derivative. The tanh form.
double Gelu(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
double GeluGrad(double x) {
  const double t = std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

// dx = dy w.
Array NaiveInputGrad(const Array& dy, const Array& w, Shape shape) {
  Array dx(shape);
  const int64_t out = w.dim(0), in = w.dim(1);
  for (int64_t row = 0; row < dx.shape.elements() / in; ++row) {
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i) {
        dx.values[static_cast<size_t>(row * in + i)] += dy.values[static_cast<size_t>(row * out + o)] * w(o, i);
      }
    }
  }
  return dx;
}

// dw = dy^T x and db = column sums of dy.
Arrays NaiveWeightGrads(const Array& dy, const Array& x, Shape shape) {
  Array dw(shape), db({shape[0]});
  const int64_t out = shape[0], in = shape[1];
  for (int64_t row = 0; row < dy.shape.elements() / out; ++row) {
    for (int64_t o = 0; o < out; ++o) {
      const double d = dy.values[static_cast<size_t>(row * out + o)];
      db(o) += d;
      for (int64_t i = 0; i < in; ++i) dw(o, i) += d * x.values[static_cast<size_t>(row * in + i)];
    }
  }
  return {dw, db};
}

// In bf16 the pre-activation, the activation and its gradient are stored, rounded.
Arrays MlpTwin(const Arrays& in) {
  Array h = ToBf16(NaiveLinear(in[0], in[1], &in[2]));
  for (double& x : h.values) x = ToBf16(Gelu(x));
  return {NaiveLinear(h, in[3], &in[4])};
}
Arrays MlpTwinGrads(const Arrays& in, const Arrays& seeds) {
  const Array pre = ToBf16(NaiveLinear(in[0], in[1], &in[2]));
  Array act = pre;
  for (double& x : act.values) x = ToBf16(Gelu(x));
  Array d_pre = NaiveInputGrad(seeds[0], in[3], pre.shape);
  for (size_t i = 0; i < pre.values.size(); ++i) d_pre.values[i] = ToBf16(d_pre.values[i] * GeluGrad(pre.values[i]));
  const Arrays first = NaiveWeightGrads(d_pre, in[0], in[1].shape);
  const Arrays second = NaiveWeightGrads(seeds[0], act, in[3].shape);
  return {NaiveInputGrad(d_pre, in[1], in[0].shape), first[0], first[1], second[0], second[1]};
}

OpCase MlpCase(int64_t n, int64_t t, int64_t width, int64_t hidden, double spread = 0.5) {
  return {.name = CaseName("mlp", {n, t, width, hidden}),
          .inputs = {{.shape = {n, t, width}},
                     {.shape = {hidden, width}, .spread = spread, .role = OpRole::kParameter},
                     {.shape = {hidden}, .role = OpRole::kParameter},
                     {.shape = {width, hidden}, .spread = spread, .role = OpRole::kParameter},
                     {.shape = {width}, .role = OpRole::kParameter}},
          .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {Mlp(tape, in[0], in[1], in[2], in[3], in[4])};
          },
          .naive = [](const std::vector<Array>& in) -> std::vector<Array> {
            Array h = NaiveLinear(in[0], in[1], &in[2]);
            for (double& x : h.values) x = Gelu(x);
            return {NaiveLinear(h, in[3], &in[4])};
          },
          .inputs_independent = false,
          .twin = MlpTwin,
          .twin_grads = MlpTwinGrads,
          .products = true};
}

double Exact(double value) { return value; }

// Patches w^T + b + the position table, which is laid down first, `stored`.
Array NaivePatchProjection(const Arrays& in, double (*stored)(double)) {
  Array w({in[1].dim(0), in[0].dim(2)});
  w.values = in[1].values;
  Array y = NaiveLinear(in[0], w, &in[2]);
  for (size_t i = 0; i < y.values.size(); ++i) y.values[i] += stored(in[3].values[i % in[3].values.size()]);
  return y;
}

// The patches and the position table are data.
OpCase PatchProjectionCase(int64_t n, int64_t t, int64_t channels, int64_t patch, int64_t width) {
  return {.name = CaseName("patch_projection", {n, t, channels, patch, width}),
          .inputs = {{.shape = {n, t, channels * patch * patch}, .wants_grad = false},
                     {.shape = {width, channels, patch, patch}, .role = OpRole::kParameter},
                     {.shape = {width}, .role = OpRole::kParameter},
                     {.shape = {t, width}, .wants_grad = false, .role = OpRole::kData}},
          .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {PatchProjection(tape, in[0].value(), in[1], in[2], in[3].value())};
          },
          .naive = [=](const Arrays& in) -> Arrays { return {NaivePatchProjection(in, Exact)}; },
          .inputs_independent = false,
          .twin = [=](const Arrays& in) -> Arrays { return {NaivePatchProjection(in, ToBf16)}; },
          .products = true};
}

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

}  // namespace

std::vector<OpCase> LinearCases() {
  std::vector<OpCase> cases{LinearCase(1, 1, 1, 1, true),    LinearCase(2, 3, 5, 7, true),
                            LinearCase(2, 5, 72, 33, false), LinearCase(3, 37, 19, 72, true),
                            LinearCase(2, 4, 64, 24, true),  Timed(LinearCase(4, 256, 384, 1152, true))};
  for (const auto& [width, heads] : kModelWidths) {
    cases.push_back(Large(LinearCase(kModelBatch, kModelTokens, width, 3 * width, true)));
    cases.push_back(Large(LinearCase(kModelBatch, 1, width, 6 * width, true)));      // modulation
    cases.push_back(Large(LinearCase(kModelBatch, kModelTokens, width, 32, true)));  // final layer
    cases.push_back(Large(LinearCase(kModelBatch, kModelTokens, width, width, false)));
  }
  return cases;
}

std::vector<OpCase> MlpCases() {
  std::vector<OpCase> cases{MlpCase(1, 1, 1, 1), MlpCase(2, 5, 9, 36), MlpCase(1, 33, 17, 40), MlpCase(2, 8, 16, 64),
                            Timed(MlpCase(4, 256, 384, 1536))};
  for (const auto& [width, heads] : kModelWidths) {
    cases.push_back(Large(MlpCase(kModelBatch, kModelTokens, width, 4 * width, 0.03)));
  }
  return cases;
}

std::vector<OpCase> PatchProjectionCases() {
  std::vector<OpCase> cases{PatchProjectionCase(1, 1, 1, 1, 1), PatchProjectionCase(3, 6, 3, 2, 19),
                            PatchProjectionCase(2, 16, 4, 2, 72)};
  for (const auto& [width, heads] : kModelWidths) {
    cases.push_back(Large(PatchProjectionCase(kModelBatch, kModelTokens, 4, 2, width)));
  }
  return cases;
}

std::vector<OpCase> SplitCases() { return {SplitCase(1, 1, 1), SplitCase(3, 2, 5), SplitCase(2, 6, 72)}; }

}  // namespace shardit
