// Enter, EnterCondition and EnterTokens: the way into layers that are cut on their outputs.
#include <memory>
#include <optional>
#include <utility>

#include "parallel/comm/timed_wait.h"
#include "parallel/tensor/tensor_parallel.h"
#include "parallel/tensor/token_exchange.h"

namespace shardit {
namespace {

// y = x; dx = the sum of dy over the axis.
class SumGradNode : public Node {
 public:
  SumGradNode(Communicator& axis, const char* name, const char* site)
      : Node(1), axis_(axis), name_(name), site_(site) {}

  const char* name() const override { return name_; }

  void StartBackward(RankContext& context) override {
    const Tensor& dy = Grad();
    CHECK(dy.is_dense()) << "[" << name_ << "] gradient strides " << dy.strides();
    // In place: the gradient is this node's alone. Over the tensor axis: each rank's layers saw their own outputs only.
    work_ = axis_.AllReduce(dy.ref(), dy.ref(), dy.elements(), ReduceOp::kSum, {site_});
  }

  void Backward(RankContext& context) override {
    TimedWait(context, work_, site_);
    Deliver(context, 0, Grad());
  }

 private:
  Communicator& axis_;
  const char* const name_;
  const char* const site_;
  Work work_;
};

// The same of a condition, which every block reads: dy is gathered, and summed over the axis, in fp32.
class SumConditionGradNode : public SumGradNode {
 public:
  using SumGradNode::SumGradNode;
  DType GradType(int output) const override { return DType::kF32; }
};

// y = the tokens of all ranks; dx = own tokens of the sum of dy over the axis.
class EnterOwnTokensNode : public Node {
 public:
  explicit EnterOwnTokensNode(Communicator& axis) : Node(1), axis_(axis) {}

  const char* name() const override { return "sp_enter"; }

  void StartBackward(RankContext& context) override { sum_.emplace(context, axis_, Grad(), "sp enter grad"); }

  void Backward(RankContext& context) override { Deliver(context, 0, sum_->Wait(context)); }

 private:
  Communicator& axis_;
  std::optional<TokenReduceScatter> sum_;
};

template <class SumNode>
Var SumGrad(Tape& tape, const Var& x, Communicator& axis, const char* name, const char* site) {
  if (!tape.Records({&x})) return x;
  return tape.Record(std::make_unique<SumNode>(axis, name, site), {x}, {x.value()}, {})[0];
}

}  // namespace

Var TensorParallel::Enter(Tape& tape, const Var& x_NTD) const {
  if (!cuts_tokens()) return SumGrad<SumGradNode>(tape, x_NTD, axis_, "tp_enter", "tp enter grad");
  // Attention and the cut layers see every token.
  Tensor whole = TokenGather(tape.context(), axis_, x_NTD.value(), cut_tokens_, "sp enter").Wait(tape.context());
  if (!tape.Records({&x_NTD})) return Var(std::move(whole));
  return tape.Record(std::make_unique<EnterOwnTokensNode>(axis_), {x_NTD}, {std::move(whole)}, {})[0];
}

Var TensorParallel::EnterCondition(Tape& tape, const Var& c) const {
  return SumGrad<SumConditionGradNode>(tape, c, axis_, "tp_condition", "tp condition grad");
}

Var TensorParallel::EnterTokens(Tape& tape, const Var& c_ND) const {
  return cuts_tokens() ? SumGrad<SumConditionGradNode>(tape, c_ND, axis_, "sp_tokens", "sp tokens grad") : c_ND;
}

}  // namespace shardit
