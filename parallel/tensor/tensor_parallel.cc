// The constructor, ScatterTokens and GatherTokens: where tokens begin and end to be cut.
#include "parallel/tensor/tensor_parallel.h"

#include <memory>
#include <utility>

#include "core/tensor/copy_rows.h"
#include "parallel/tensor/token_exchange.h"

namespace shardit {
namespace {

// Between the own tokens [N, T_r, E] and their place in whole [N, T, E].
CopyRowsArgs OwnRows(const Communicator& axis, const Shape& whole) {
  const int64_t count = OwnTokens(axis, whole[1]).size() * whole[2];
  return {.source_stride = whole[1] * whole[2], .destination_stride = count, .rows = whole[0], .count = count};
}

Tensor TakeOwnTokens(RankContext& context, const Communicator& axis, const Tensor& whole) {
  CHECK(whole.ndim() == 3 && whole.is_dense())
      << "[own tokens] " << whole.shape() << " with strides " << whole.strides();
  const Range range = OwnTokens(axis, whole.dim(1));
  Tensor own = Tensor::Empty(context.allocator(), {whole.dim(0), range.size(), whole.dim(2)}, whole.dtype());
  CopyRowsArgs copy = OwnRows(axis, whole.shape());
  copy.source = whole.ref().At(range.begin * whole.dim(2));
  copy.destination = own.ref();
  CopyRows(copy, context);
  return own;
}

// y = own tokens of x; dx = dy there, 0 elsewhere.
class ScatterTokensNode : public Node {
 public:
  ScatterTokensNode(const Communicator& axis, Shape whole) : Node(1), axis_(axis), whole_(whole) {}

  const char* name() const override { return "sp_scatter_tokens"; }

  void Backward(RankContext& context) override {
    const GradDestination dx = Destination(context, 0);
    CHECK(dx.tensor.is_dense()) << "[sp_scatter_tokens] gradient strides " << dx.tensor.strides();
    if (!dx.accumulate) dx.tensor.Zero();
    CopyRowsArgs copy = OwnRows(axis_, whole_);
    std::swap(copy.source_stride, copy.destination_stride);
    copy.source = Grad().ref();
    copy.destination = dx.tensor.ref().At(OwnTokens(axis_, whole_[1]).begin * whole_[2]);
    copy.accumulate = dx.accumulate;
    CopyRows(copy, context);
  }

 private:
  const Communicator& axis_;
  const Shape whole_;
};

// y = the tokens of all ranks; dx = own tokens of dy, which is the same on every rank.
class GatherTokensNode : public Node {
 public:
  explicit GatherTokensNode(const Communicator& axis) : Node(1), axis_(axis) {}

  const char* name() const override { return "sp_gather_tokens"; }

  void Backward(RankContext& context) override { Deliver(context, 0, TakeOwnTokens(context, axis_, Grad())); }

 private:
  const Communicator& axis_;
};

}  // namespace

TensorParallel::TensorParallel(Communicator& axis, int64_t cut_tokens) : axis_(axis), cut_tokens_(cut_tokens) {
  CHECK(cut_tokens == 0 || cut_tokens >= axis.size())
      << "[tensor parallel] " << cut_tokens << " tokens over " << axis.size() << " ranks: every rank owns a token";
}

Var TensorParallel::ScatterTokens(Tape& tape, const Var& x_NTD) const {
  if (!cuts_tokens()) return x_NTD;
  CHECK_EQ(x_NTD.dim(1), cut_tokens_) << "[sp_scatter_tokens] x " << x_NTD.shape();
  Tensor own = TakeOwnTokens(tape.context(), axis_, x_NTD.value());
  if (!tape.Records({&x_NTD})) return Var(std::move(own));
  return tape.Record(std::make_unique<ScatterTokensNode>(axis_, x_NTD.shape()), {x_NTD}, {std::move(own)}, {})[0];
}

Var TensorParallel::GatherTokens(Tape& tape, const Var& x_NTD) const {
  if (!cuts_tokens()) return x_NTD;
  Tensor whole =
      TokenGather(tape.context(), axis_, x_NTD.value(), cut_tokens_, "sp gather tokens").Wait(tape.context());
  if (!tape.Records({&x_NTD})) return Var(std::move(whole));
  return tape.Record(std::make_unique<GatherTokensNode>(axis_), {x_NTD}, {std::move(whole)}, {})[0];
}

}  // namespace shardit
