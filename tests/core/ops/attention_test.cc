// Legend: N images, T query tokens, S key tokens, H heads, K head dim, D = H K.
#include "core/ops/attention.h"

#include <cmath>

#include "tests/core/op_case.h"

namespace shardit {
namespace {

// q [N, T, *] with heads' columns from `q_column` on; k, v [N, S, *] likewise -> [N, T, D].
struct NaiveHeads {
  int64_t heads, head_dim, q_column, k_column, v_column;
};
Array NaiveAttention(const Array& q, const Array& kv, const NaiveHeads& at) {
  const int64_t keys = kv.dim(1);
  Array out({q.dim(0), q.dim(1), at.heads * at.head_dim});
  std::vector<double> weight(static_cast<size_t>(keys));
  for (int64_t n = 0; n < q.dim(0); ++n) {
    for (int64_t t = 0; t < q.dim(1); ++t) {
      for (int64_t head = 0; head < at.heads; ++head) {
        const int64_t column = head * at.head_dim;
        double sum = 0;
        for (int64_t s = 0; s < keys; ++s) {
          double dot = 0;
          for (int64_t i = column; i < column + at.head_dim; ++i) {
            dot += q(n, t, at.q_column + i) * kv(n, s, at.k_column + i);
          }
          sum += weight[static_cast<size_t>(s)] = std::exp(dot / std::sqrt(static_cast<double>(at.head_dim)));
        }
        for (int64_t i = column; i < column + at.head_dim; ++i) {
          for (int64_t s = 0; s < keys; ++s) {
            out(n, t, i) += weight[static_cast<size_t>(s)] / sum * kv(n, s, at.v_column + i);
          }
        }
      }
    }
  }
  return out;
}

OpCase Self(int64_t n, int64_t t, int64_t heads, int64_t head_dim) {
  const int64_t width = heads * head_dim;
  return {.name = CaseName("self", {n, t, heads, head_dim}),
          .inputs = {{.shape = {n, t, 3 * width}}},
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {SelfAttention(tape, in[0], heads)};
          },
          .naive = [=](const std::vector<Array>& in) -> std::vector<Array> {
            return {NaiveAttention(in[0], in[0], {heads, head_dim, 0, width, 2 * width})};
          },
          .tolerance = 4e-6,
          .adds_to_gradients = false};
}

OpCase Cross(int64_t n, int64_t t, int64_t s, int64_t heads, int64_t head_dim) {
  const int64_t width = heads * head_dim;
  return {.name = CaseName("cross", {n, t, s, heads, head_dim}),
          .inputs = {{.shape = {n, t, width}}, {.shape = {n, s, 2 * width}}},
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            return {CrossAttention(tape, in[0], in[1], heads)};
          },
          .naive = [=](const std::vector<Array>& in) -> std::vector<Array> {
            return {NaiveAttention(in[0], in[1], {heads, head_dim, 0, 0, width})};
          },
          .tolerance = 4e-6,
          .adds_to_gradients = false,
          .inputs_independent = false};
}

OpCase Timed(OpCase op) {
  op.timed = true;
  return op;
}

INSTANTIATE_OP_CASES(Attention,
                     (std::vector<OpCase>{Self(1, 1, 1, 1), Self(2, 5, 3, 4), Self(1, 17, 2, 72), Self(2, 33, 1, 7),
                                          Cross(1, 1, 1, 1, 1), Cross(2, 5, 2, 3, 8), Cross(1, 19, 2, 2, 72),
                                          Timed(Self(4, 256, 6, 64)), Timed(Self(4, 256, 16, 72))}));

}  // namespace
}  // namespace shardit
