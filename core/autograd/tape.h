// Tape: the record of one forward pass (one micro-batch), from which gradients flow back.
//
//   Tape tape(context);                                  // or Tape(context, Tape::Mode::kInference): records nothing
//   Var y = model.Forward(tape, x, t, labels);
//   tape.Backward({{y, dy}}, {.observer = &reducer});    // seeded from outside; leaves' gradients accumulate
//
// The backward walk counts the consumers of every node that the seeds reach and then runs ready nodes by descending
// creation number, so the order of additions, and with it every bit of the result, depends on the forward order alone.
// A node's weight part runs after the next node has started its communication, so that the one hides behind the other.
// A leaf is final for this tape the moment its last consumer ran. Several tapes can be in flight at once (pipeline
// schedules); one tape is used by one thread. There is no double backward.
#pragma once

#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/autograd/node.h"

namespace shardit {

struct BackwardOptions {
  LeafObserver* observer = nullptr;  // not owned; may be null
  // Leaves the weight-gradient parts for RunDeferredWeights(); leaves that wait for one are not final before it.
  bool defer_weights = false;
};

class Tape {
 public:
  enum class Mode { kRecord, kInference };
  struct Seed {
    Var output;
    Tensor grad;  // dense, shape of the output; given up to the tape
  };

  explicit Tape(RankContext& context, Mode mode = Mode::kRecord) : context_(context), mode_(mode) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  RankContext& context() { return context_; }
  Allocator& allocator() { return context_.allocator(); }
  bool recording() const { return mode_ == Mode::kRecord; }

  // True when an operation on these inputs must leave a node: the tape records and one of them wants a gradient.
  bool Records(std::initializer_list<const Var*> inputs) const;

  // Adds a node whose inputs are `inputs` and whose outputs are `outputs`; returns one Var per output. `saved` declares
  // the tensors that the node keeps for backward (for SavedBytes; leaves' values are not counted).
  std::vector<Var> Record(std::unique_ptr<Node> node, std::vector<Var> inputs, std::vector<Tensor> outputs,
                          std::vector<Tensor> saved);

  // Runs the backward of every node that the seeds reach. A node's saved tensors are released as soon as it has run, so
  // that memory falls as backward advances.
  void Backward(std::vector<Seed> seeds, const BackwardOptions& options = {});
  // Runs the weight parts that defer_weights left, oldest backward first. Returns how many there were.
  int RunDeferredWeights();

  // Bytes kept for backward by node name, each storage counted once; what a recompute or a fusion saves shows here.
  std::map<std::string, int64_t, std::less<>> SavedBytesByNode() const;
  int64_t SavedBytes() const;
  size_t size() const { return nodes_.size(); }

  // On demand, every node's input gradients are checked; the first non-finite one names the node in the returned
  // string of NonFiniteNode(). Slow: for debugging.
  void set_check_finite(bool check) { check_finite_ = check; }
  const std::string& NonFiniteNode() const { return non_finite_node_; }

 private:
  void CountConsumers(const std::vector<Seed>& seeds);
  void RunReadyNodes();
  void RunWeights(Node& node);
  void Finish(Node& node);
  void ReleaseLeaves(const Node& node);
  void CheckFinite(const Node& node);
  bool IsFinite(const Tensor& grad);

  RankContext& context_;
  const Mode mode_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::unordered_set<const void*> saved_storages_;
  std::unordered_map<Leaf*, int> pending_leaf_uses_;
  std::vector<std::unique_ptr<Node>> deferred_;
  std::vector<Node*> ready_;  // a heap, newest node first
  BackwardOptions options_;
  bool check_finite_ = false;
  std::string non_finite_node_;
};

}  // namespace shardit
