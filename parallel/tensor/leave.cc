// Leave: the way out of layers that are cut on their inputs.
#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <utility>

#include "core/ops/column_sums.h"
#include "core/tensor/copy_rows.h"
#include "parallel/comm/timed_wait.h"
#include "parallel/tensor/tensor_parallel.h"
#include "parallel/tensor/token_exchange.h"

namespace shardit {
namespace {

constexpr int64_t kGrain = 16384;  // elements: below it, waking a thread costs more than it saves

// y[.., E] += bias [E], in place.
void AddBias(RankContext& context, const Tensor& y, const Tensor& bias) {
  const int64_t width = bias.elements(), rows = y.elements() / width;
  if (context.cpu().Planned({"add_bias", 0, 2.0 * static_cast<double>(y.bytes())})) return;
  if (context.on_cuda()) {
    return cuda::CopyRows({.source = bias.ref(),
                           .destination = y.ref(),
                           .destination_stride = width,
                           .accumulate = true,
                           .rows = rows,
                           .count = width},
                          context.cuda());
  }
  const float* const add = bias.data();
  float* const to = y.data();
  context.pool().ParallelFor(rows, kGrain / width, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t i = 0; i < width; ++i) to[row * width + i] += add[i];
    }
  });
}

// sums [E] (+)= the column sums of dy [.., E]. On the CPU rows are added in blocks, so that rounding errors grow with
// the number of blocks, not of rows; the order does not depend on the threads.
void SumColumns(RankContext& context, const Tensor& dy, const GradDestination& sums) {
  const int64_t width = dy.dim(-1), rows = dy.elements() / width;
  if (context.cpu().Planned({"column_sums", 0, static_cast<double>(dy.bytes())})) return;
  if (context.on_cuda()) {
    return cuda::ColumnSums({.rows = rows,
                             .columns = width,
                             .x = dy.ref(),
                             .ld = width,
                             .sums = sums.tensor.data(),
                             .accumulate = sums.accumulate},
                            context.cuda());
  }
  constexpr int64_t kColumns = 64, kRows = 64;
  const float* const from = dy.data();
  float* const to = sums.tensor.data();
  const auto sum_columns = [&](int64_t first, int64_t count) {
    std::array<float, kColumns> total{};
    for (int64_t row = 0; row < rows; row += kRows) {
      std::array<float, kColumns> block{};
      for (int64_t r = row; r < std::min(row + kRows, rows); ++r) {
        for (int64_t i = 0; i < count; ++i) block[static_cast<size_t>(i)] += from[r * width + first + i];
      }
      for (size_t i = 0; i < kColumns; ++i) total[i] += block[i];
    }
    for (int64_t i = 0; i < count; ++i) {
      to[first + i] = (sums.accumulate ? to[first + i] : 0.0f) + total[static_cast<size_t>(i)];
    }
  };
  context.pool().ParallelFor(CeilDiv(width, kColumns), kGrain / (rows * kColumns),
                             [&](int64_t begin, int64_t end, int) {
                               for (int64_t c = begin; c < end; ++c)
                                 sum_columns(c * kColumns, std::min(kColumns, width - c * kColumns));
                             });
}

enum Input { kPartial, kBias };

// y = the sum of partial over the axis + bias, whole: dpartial = dy.
class LeaveNode : public Node {
 public:
  LeaveNode() : Node(1) {}

  const char* name() const override { return "tp_leave"; }

  void Backward(RankContext& context) override {
    if (Needs(kBias)) SumColumns(context, Grad(), Destination(context, kBias));
    if (Needs(kPartial)) Deliver(context, kPartial, Grad());
  }
};

// The same on own tokens: dpartial = the dy of all ranks' tokens.
class LeaveToOwnTokensNode : public Node {
 public:
  LeaveToOwnTokensNode(Communicator& axis, int64_t tokens) : Node(1), axis_(axis), tokens_(tokens) {}

  const char* name() const override { return "sp_leave"; }

  void StartBackward(RankContext& context) override {
    if (Needs(kPartial)) all_.emplace(context, axis_, Grad(), tokens_, "sp leave grad");
  }

  void Backward(RankContext& context) override {
    if (Needs(kBias)) SumColumns(context, Grad(), Destination(context, kBias));
    if (Needs(kPartial)) Deliver(context, kPartial, all_->Wait(context));
  }

 private:
  Communicator& axis_;
  const int64_t tokens_;
  std::optional<TokenGather> all_;
};

}  // namespace

Var TensorParallel::Leave(Tape& tape, const Var& partial_NTD, const Var& bias_D) const {
  RankContext& context = tape.context();
  Tensor y = partial_NTD.value();
  CHECK(y.ndim() == 3 && y.is_dense() && bias_D.shape() == Shape({y.dim(2)}) && bias_D.value().is_dense())
      << "[tp_leave] partial " << y.shape() << ", bias " << bias_D.shape();
  // Each rank multiplied its own part of the layer's inputs: the output is the sum over the tensor axis.
  if (cuts_tokens()) {
    CHECK_EQ(y.dim(1), cut_tokens_) << "[sp_leave] partial " << y.shape();
    y = TokenReduceScatter(context, axis_, y, "sp leave").Wait(context);
  } else {
    TimedWait(context, axis_.AllReduce(y.ref(), y.ref(), y.elements(), ReduceOp::kSum, {"tp leave"}), "tp leave");
  }
  AddBias(context, y, bias_D.value());
  if (!tape.Records({&partial_NTD, &bias_D})) return Var(std::move(y));
  std::unique_ptr<Node> node;
  if (cuts_tokens()) {
    node = std::make_unique<LeaveToOwnTokensNode>(axis_, cut_tokens_);
  } else {
    node = std::make_unique<LeaveNode>();
  }
  return tape.Record(std::move(node), {partial_NTD, bias_D}, {std::move(y)}, {})[0];
}

}  // namespace shardit
