// Legend: N images, T query tokens, S key tokens, H heads, K head dim, D = H K.
#include <cmath>

#include "core/ops/attention.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

// Where the operands lie: columns of q [N, T, *] and kv [N, S, *] from which heads' columns of D start.
struct Heads {
  int64_t heads, head_dim, q_column, k_column, v_column;
  double scale() const { return 1 / std::sqrt(static_cast<double>(head_dim)); }
};

// One row of softmax(q k^T scale).
std::vector<double> Weights(const Array& q, const Array& kv, const Heads& at, int64_t n, int64_t t, int64_t column) {
  std::vector<double> weights(static_cast<size_t>(kv.dim(1)));
  double sum = 0;
  for (int64_t s = 0; s < kv.dim(1); ++s) {
    double dot = 0;
    for (int64_t i = column; i < column + at.head_dim; ++i) {
      dot += q(n, t, at.q_column + i) * kv(n, s, at.k_column + i);
    }
    sum += weights[static_cast<size_t>(s)] = std::exp(dot * at.scale());
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

// [N, T, D]; `stored` rounds what lies between the two products.
Array NaiveAttention(const Array& q, const Array& kv, const Heads& at, double (*stored)(double)) {
  Array out({q.dim(0), q.dim(1), at.heads * at.head_dim});
  for (int64_t n = 0; n < q.dim(0); ++n) {
    for (int64_t t = 0; t < q.dim(1); ++t) {
      for (int64_t column = 0; column < at.heads * at.head_dim; column += at.head_dim) {
        const std::vector<double> weights = Weights(q, kv, at, n, t, column);
        for (int64_t s = 0; s < kv.dim(1); ++s) {
          const double weight = stored(weights[static_cast<size_t>(s)]);
          for (int64_t i = column; i < column + at.head_dim; ++i) out(n, t, i) += weight * kv(n, s, at.v_column + i);
        }
      }
    }
  }
  return out;
}

double Exact(double value) { return value; }

// Backward in bf16, by the formulas of attention_kernel.h: the output, the weights and dS are rounded. Adds to dq and
// dkv, shaped as q and kv; they may be one array.
void TwinBackward(const Array& q, const Array& kv, const Array& d_out, const Heads& at, Array& dq, Array& dkv) {
  const Array out = ToBf16(NaiveAttention(q, kv, at, ToBf16));
  for (int64_t n = 0; n < q.dim(0); ++n) {
    for (int64_t t = 0; t < q.dim(1); ++t) {
      for (int64_t column = 0; column < at.heads * at.head_dim; column += at.head_dim) {
        const int64_t end = column + at.head_dim;
        const std::vector<double> weights = Weights(q, kv, at, n, t, column);
        double delta = 0;
        for (int64_t i = column; i < end; ++i) delta += d_out(n, t, i) * out(n, t, i);
        for (int64_t s = 0; s < kv.dim(1); ++s) {
          const double weight = weights[static_cast<size_t>(s)];
          double d_weight = 0;
          for (int64_t i = column; i < end; ++i) d_weight += d_out(n, t, i) * kv(n, s, at.v_column + i);
          const double d_score = at.scale() * ToBf16(weight * (d_weight - delta));
          for (int64_t i = column; i < end; ++i) {
            dq(n, t, at.q_column + i) += d_score * kv(n, s, at.k_column + i);
            dkv(n, s, at.k_column + i) += d_score * q(n, t, at.q_column + i);
            dkv(n, s, at.v_column + i) += ToBf16(weight) * d_out(n, t, i);
          }
        }
      }
    }
  }
}

OpCase Self(int64_t n, int64_t t, int64_t heads, int64_t head_dim) {
  const int64_t width = heads * head_dim;
  const Heads at{heads, head_dim, 0, width, 2 * width};
  return {.name = CaseName("self", {n, t, heads, head_dim}),
          .inputs = {{.shape = {n, t, 3 * width}}},
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {SelfAttention(tape, in[0], heads)};
          },
          .naive = [=](const Arrays& in) -> Arrays { return {NaiveAttention(in[0], in[0], at, Exact)}; },
          .tolerance = 4e-6,
          .adds_to_gradients = false,
          .twin = [=](const Arrays& in) -> Arrays { return {NaiveAttention(in[0], in[0], at, ToBf16)}; },
          .twin_grads = [=](const Arrays& in, const Arrays& seeds) -> Arrays {
            Array d_qkv(in[0].shape);
            TwinBackward(in[0], in[0], seeds[0], at, d_qkv, d_qkv);
            return {d_qkv};
          }};
}

OpCase Cross(int64_t n, int64_t t, int64_t s, int64_t heads, int64_t head_dim) {
  const int64_t width = heads * head_dim;
  const Heads at{heads, head_dim, 0, 0, width};
  return {.name = CaseName("cross", {n, t, s, heads, head_dim}),
          .inputs = {{.shape = {n, t, width}}, {.shape = {n, s, 2 * width}}},
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {CrossAttention(tape, in[0], in[1], heads)};
          },
          .naive = [=](const Arrays& in) -> Arrays { return {NaiveAttention(in[0], in[1], at, Exact)}; },
          .tolerance = 4e-6,
          .adds_to_gradients = false,
          .inputs_independent = false,
          .twin = [=](const Arrays& in) -> Arrays { return {NaiveAttention(in[0], in[1], at, ToBf16)}; },
          .twin_grads = [=](const Arrays& in, const Arrays& seeds) -> Arrays {
            Array dq(in[0].shape), dkv(in[1].shape);
            TwinBackward(in[0], in[1], seeds[0], at, dq, dkv);
            return {dq, dkv};
          }};
}

}  // namespace

std::vector<OpCase> AttentionCases() {
  std::vector<OpCase> cases{Self(1, 1, 1, 1),           Self(2, 5, 3, 4),       Self(1, 17, 2, 72),
                            Self(2, 33, 1, 7),          Self(1, 40, 1, 64),     Cross(1, 1, 1, 1, 1),
                            Cross(2, 5, 2, 3, 8),       Cross(1, 19, 2, 2, 72), Timed(Self(4, 256, 6, 64)),
                            Timed(Self(4, 256, 16, 72))};
  for (const auto& [width, heads] : kModelWidths) {
    for (const int64_t tokens : {kModelTokens, kModelTokens / 4, kModelTokens / 16}) {
      cases.push_back(Large(Self(kModelBatch, tokens, heads, width / heads)));
    }
    cases.push_back(Large(Cross(kModelBatch, kModelTokens, 2, heads, width / heads)));
    cases.push_back(Large(Self(kModelBatch, kModelTokens + 2, heads, width / heads)));  // in-context
  }
  cases.push_back(Large(Self(2, 1024, 16, 72)));
  return cases;
}

}  // namespace shardit
