// CPU attention, forward and backward, against fp64 loops on every instruction set of this machine.
#include "core/ops/attention_kernel.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/base/simd_targets.h"
#include "core/tensor/rng.h"
#include "gtest/gtest.h"
#include "hwy/highway.h"

namespace shardit {
namespace {

constexpr float kGuard = 12345.0f;

// A [batch, tokens, heads, head_dim] operand inside a buffer of `slots` such parts per token, plus a gap after each.
struct Operand {
  Operand(const AttentionShape& s, int64_t tokens, int64_t slots, int64_t slot, int64_t gap, uint64_t stream,
          float size)
      : head_stride(s.head_dim), row_stride(slots * s.heads * s.head_dim + gap), batch_stride(tokens * row_stride) {
    offset = slot * s.heads * s.head_dim;
    data.assign(static_cast<size_t>(s.batch * batch_stride), kGuard);
    std::vector<float> values(static_cast<size_t>(s.batch * tokens * s.heads * s.head_dim));
    FillNormal({3, RngPurpose::kTest, stream}, 0, static_cast<int64_t>(values.size()), values.data());
    size_t next = 0;
    for (int64_t n = 0; n < s.batch; ++n) {
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t i = 0; i < s.heads * s.head_dim; ++i) {
          data[static_cast<size_t>(offset + n * batch_stride + t * row_stride + i)] = size * values[next++];
        }
      }
    }
  }
  HeadsView View() { return {data.data() + offset, batch_stride, row_stride, head_stride}; }
  ConstHeadsView View() const { return {data.data() + offset, batch_stride, row_stride, head_stride}; }
  double At(int64_t n, int64_t t, int64_t h, int64_t i) const {
    return data[static_cast<size_t>(offset + n * batch_stride + t * row_stride + h * head_stride + i)];
  }

  int64_t head_stride, row_stride, batch_stride, offset = 0;
  std::vector<float> data;
};

struct Problem {
  Problem(const AttentionShape& s, int64_t gap, float size)
      : shape(s),
        q(s, s.queries, 3, 0, gap, 1, size),
        k(s, s.keys, 3, 1, gap, 2, size),
        v(s, s.keys, 3, 2, gap, 3, 1),
        out(s, s.queries, 1, 0, gap, 4, 1),
        d_out(s, s.queries, 1, 0, gap, 5, 1),
        dq(s, s.queries, 3, 0, gap, 6, 1),
        dk(s, s.keys, 3, 1, gap, 7, 1),
        dv(s, s.keys, 3, 2, gap, 8, 1),
        lse(static_cast<size_t>(s.batch * s.heads * s.queries)) {}

  void Run(int threads) {
    ThreadPool pool(threads);
    Workspace workspace(threads);
    CpuContext context{pool, workspace};
    const Problem& in = *this;
    cpu::AttentionFwd({shape, in.q.View(), in.k.View(), in.v.View(), out.View(), lse.data()}, context);
    cpu::AttentionBwd({shape, in.q.View(), in.k.View(), in.v.View(), in.out.View(), in.d_out.View(), lse.data(),
                       dq.View(), dk.View(), dv.View()},
                      context);
  }

  AttentionShape shape;
  Operand q, k, v, out, d_out, dq, dk, dv;
  std::vector<float> lse;
};

// One head in fp64, [tokens, head_dim] each.
struct Exact {
  Exact(const Problem& p, int64_t n, int64_t h) : dim(p.shape.head_dim) {
    const int64_t queries = p.shape.queries, keys = p.shape.keys;
    out.resize(static_cast<size_t>(queries * dim));
    dq.resize(out.size());
    dk.resize(static_cast<size_t>(keys * dim));
    dv.resize(dk.size());
    std::vector<double> weight(static_cast<size_t>(keys)), grad(weight.size());
    for (int64_t t = 0; t < queries; ++t) {
      double total = 0, delta = 0;
      for (int64_t s = 0; s < keys; ++s) {
        double score = 0;
        for (int64_t i = 0; i < dim; ++i) score += p.q.At(n, t, h, i) * p.k.At(n, s, h, i);
        total += weight[static_cast<size_t>(s)] = std::exp(score * p.shape.scale);
      }
      lse.push_back(std::log(total));
      for (int64_t s = 0; s < keys; ++s) {
        double& w = weight[static_cast<size_t>(s)];
        double& g = grad[static_cast<size_t>(s)];
        w /= total;
        g = 0;
        for (int64_t i = 0; i < dim; ++i) {
          out[Index(t, i)] += w * p.v.At(n, s, h, i);
          dv[Index(s, i)] += w * p.d_out.At(n, t, h, i);
          g += p.d_out.At(n, t, h, i) * p.v.At(n, s, h, i);
        }
        delta += w * g;
      }
      for (int64_t s = 0; s < keys; ++s) {
        const double ds = weight[static_cast<size_t>(s)] * (grad[static_cast<size_t>(s)] - delta) * p.shape.scale;
        for (int64_t i = 0; i < dim; ++i) {
          dq[Index(t, i)] += ds * p.k.At(n, s, h, i);
          dk[Index(s, i)] += ds * p.q.At(n, t, h, i);
        }
      }
    }
  }
  size_t Index(int64_t t, int64_t i) const { return static_cast<size_t>(t * dim + i); }

  int64_t dim;
  std::vector<double> out, dq, dk, dv, lse;
};

// Largest difference over largest value, of all heads.
class MaxError {
 public:
  void Add(const Operand& got, const std::vector<double>& want, int64_t n, int64_t h, int64_t dim) {
    for (size_t i = 0; i < want.size(); ++i) {
      const int64_t t = static_cast<int64_t>(i) / dim;
      Add(got.At(n, t, h, static_cast<int64_t>(i) % dim), want[i]);
    }
  }
  void Add(double got, double want) {
    error_ = std::isfinite(got) ? std::max(error_, std::abs(got - want)) : 1e30;
    size_ = std::max(size_, std::abs(want));
  }
  double Relative() const { return error_ / std::max(size_, 1e-30); }

 private:
  double error_ = 0, size_ = 0;
};

std::string Name(const AttentionShape& s) {
  return "N" + std::to_string(s.batch) + " H" + std::to_string(s.heads) + " K" + std::to_string(s.head_dim) + " T" +
         std::to_string(s.queries) + " S" + std::to_string(s.keys);
}

AttentionShape Shape(int64_t batch, int64_t heads, int64_t head_dim, int64_t queries, int64_t keys) {
  return {batch, heads, head_dim, queries, keys, 1.0f / std::sqrt(static_cast<float>(head_dim))};
}

void Check(const AttentionShape& shape, int64_t gap = 0, double bound = 1e-6, float size = 1, int threads = 2) {
  Problem p(shape, gap, size);
  p.Run(threads);
  MaxError out, lse, dq, dk, dv;
  for (int64_t n = 0; n < shape.batch; ++n) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      const Exact exact(p, n, h);
      out.Add(p.out, exact.out, n, h, shape.head_dim);
      dq.Add(p.dq, exact.dq, n, h, shape.head_dim);
      dk.Add(p.dk, exact.dk, n, h, shape.head_dim);
      dv.Add(p.dv, exact.dv, n, h, shape.head_dim);
      for (int64_t t = 0; t < shape.queries; ++t) {
        const size_t row = static_cast<size_t>((n * shape.heads + h) * shape.queries + t);
        lse.Add(p.lse[row], exact.lse[static_cast<size_t>(t)]);
      }
    }
  }
  // With one key P is 1 and the gradients of the scores vanish: only rounding is left to compare.
  const bool has_score_grads = shape.keys > 1;
  EXPECT_LT(out.Relative(), bound) << Name(shape);
  EXPECT_LT(lse.Relative(), bound) << Name(shape);
  EXPECT_LT(dv.Relative(), bound) << Name(shape);
  if (!has_score_grads) return;
  EXPECT_LT(dq.Relative(), bound) << Name(shape);
  EXPECT_LT(dk.Relative(), bound) << Name(shape);
}

class AttentionKernel : public ::testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { hwy::SetSupportedTargetsForTest(GetParam()); }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }
};

TEST_P(AttentionKernel, OddShapes) {
  Check(Shape(1, 1, 1, 1, 1));
  Check(Shape(1, 1, 4, 3, 2), 0, 2e-6);  // P close to 0 and 1: dP - delta cancels
  Check(Shape(2, 3, 16, 16, 16));
  Check(Shape(1, 2, 72, 64, 64));
  Check(Shape(2, 2, 64, 17, 17));
  Check(Shape(1, 2, 33, 31, 31));
  Check(Shape(1, 1, 32, 258, 258));  // in-context conditioning: two tokens more
  Check(Shape(1, 2, 7, 130, 45));
}

TEST_P(AttentionKernel, PaddedRows) { Check(Shape(2, 2, 24, 20, 20), 5); }

TEST_P(AttentionKernel, CrossAttentionToTwoTokens) { Check(Shape(2, 4, 64, 64, 2)); }

TEST_P(AttentionKernel, DitTokens) { Check(Shape(1, 2, 64, 256, 256)); }

// Scores of +-50: a softmax that subtracts nothing would overflow in fp32 sums of squares of such weights.
TEST_P(AttentionKernel, LargeScores) { Check(Shape(1, 1, 64, 40, 40), 0, 4e-6, 4); }

TEST_P(AttentionKernel, WritesOnlyItsPart) {
  Problem p(Shape(2, 2, 20, 15, 15), 3, 1);
  p.Run(2);
  for (const Operand* operand : {&p.dq, &p.dk, &p.dv, &p.out}) {
    const int64_t slot_end = operand->offset + p.shape.heads * p.shape.head_dim;
    for (size_t i = 0; i < operand->data.size(); ++i) {
      const int64_t column = static_cast<int64_t>(i) % operand->row_stride;
      const bool inside = column >= operand->offset && column < slot_end;
      ASSERT_EQ(operand->data[i] == kGuard, !inside) << i;
    }
  }
}

// 9 threads for 2 heads: heads are cut by queries and by keys.
TEST_P(AttentionKernel, SameBitsOnAnyNumberOfThreads) {
  Problem one(Shape(1, 2, 24, 300, 150), 0, 1);
  one.Run(1);
  for (const int threads : {2, 3, 4, 9}) {
    Problem many(one.shape, 0, 1);
    many.Run(threads);
    EXPECT_EQ(one.out.data, many.out.data) << threads;
    EXPECT_EQ(one.lse, many.lse) << threads;
    EXPECT_EQ(one.dq.data, many.dq.data) << threads;
    EXPECT_EQ(one.dk.data, many.dk.data) << threads;
    EXPECT_EQ(one.dv.data, many.dv.data) << threads;
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, AttentionKernel, ::testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return hwy::TargetName(info.param); });

TEST(AttentionKernelDeathTest, NeedsPositiveScale) {
  ThreadPool pool(1);
  Workspace workspace(1);
  CpuContext context{pool, workspace};
  AttentionFwdArgs args;
  args.shape = {1, 1, 1, 1, 1, -1.0f};
  EXPECT_DEATH(cpu::AttentionFwd(args, context), "largest score");
}

}  // namespace
}  // namespace shardit
