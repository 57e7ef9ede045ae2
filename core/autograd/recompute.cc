#include "core/autograd/recompute.h"

#include <memory>
#include <utility>

namespace shardit {
namespace {

class RecomputeNode : public Node {
 public:
  RecomputeNode(std::vector<Tensor> inputs, Segment segment)
      : Node(1), input_values_(std::move(inputs)), segment_(std::move(segment)), inputs_(input_values_.size()) {}

  const char* name() const override { return "recompute"; }
  bool has_deferrable_weights() const override { return true; }

  void Backward(RankContext& context) override {
    inner_ = std::make_unique<Tape>(context);
    std::vector<Var> vars;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      inputs_[i].name = "recompute input";
      inputs_[i].value = input_values_[i];
      inputs_[i].requires_grad = Needs(static_cast<int>(i));
      if (inputs_[i].requires_grad) inputs_[i].grad_dtype = InputGradType(static_cast<int>(i));
      vars.emplace_back(inputs_[i]);
    }
    const Var output = segment_(*inner_, vars);
    inner_->Backward({{output, Grad()}}, {.defer_weights = weights_deferred()});
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i].grad_written) Deliver(context, static_cast<int>(i), std::move(inputs_[i].grad));
    }
  }

  void BackwardWeights(RankContext& context) override { inner_->RunDeferredWeights(); }

 private:
  std::vector<Tensor> input_values_;
  Segment segment_;
  std::vector<Leaf> inputs_;
  std::unique_ptr<Tape> inner_;
};

}  // namespace

Var Recompute(Tape& tape, std::vector<Var> inputs, std::span<Leaf* const> leaves, Segment segment) {
  Tape inference(tape.context(), Tape::Mode::kInference);
  const Var result = segment(inference, inputs);
  if (!tape.recording()) return result;
  std::vector<Tensor> values;
  for (const Var& input : inputs) values.push_back(input.value());
  auto node = std::make_unique<RecomputeNode>(values, std::move(segment));
  for (Leaf* leaf : leaves) inputs.emplace_back(*leaf);
  return tape.Record(std::move(node), std::move(inputs), {result.value()}, std::move(values))[0];
}

}  // namespace shardit
