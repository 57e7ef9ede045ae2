// GradReducer: sums gradients over the data axis while backward still runs. It watches leaves become final, and starts
// the all-reduce of a bucket as soon as every gradient in it is final for the step and all earlier buckets have
// started: buckets go out in one fixed order on every rank, whatever the order in which they fill.
//
// "Final for the step" means that the last micro-batch's contribution has been added; the counts here are per step, not
// per tape. With one rank nothing is sent and the gradients stay as they are.
#pragma once

#include <chrono>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "core/autograd/leaf.h"
#include "parallel/comm/communicator.h"
#include "parallel/data/flat_layout.h"

namespace shardit {

// One bucket's reduction, for traces. Times are of the steady clock.
struct BucketTrace {
  using Time = std::chrono::steady_clock::time_point;
  int64_t bytes = 0;
  Time issued, started, ended;
};

struct ReduceReport {
  int64_t bytes = 0;             // gradient bytes reduced in the step
  int64_t overlapped_bytes = 0;  // of buckets that were under way before backward ended
  double exposed_ms = 0.0;       // time that Finish() waited
  std::vector<BucketTrace> buckets;
};

class GradReducer : public LeafObserver {
 public:
  // `grads` is the flat gradient range of `layout`; every parameter's gradient becomes a view of it. `axis` is the data
  // axis. Both, and the parameters, outlive the reducer.
  GradReducer(Communicator& axis, const FlatLayout& layout, Tensor grads, int64_t bucket_bytes);

  // Before the first micro-batch of a step: the first contribution to each gradient will overwrite.
  void BeginStep(int micro_batches);
  void OnLeafFinal(Leaf& leaf) override;
  // After the last backward: gradients that nothing contributed to become zero, the rest is sent, and everything has
  // arrived on return: the flat range then holds the sum over the axis.
  ReduceReport Finish();

 private:
  struct BucketState {
    FlatLayout::Bucket range;
    int64_t pending = 0;  // parameters whose gradient is not final yet
    Work work;
    BucketTrace trace;
  };

  void IssueReadyBuckets();

  Communicator& axis_;
  const FlatLayout& layout_;
  const Tensor grads_;
  std::vector<BucketState> buckets_;
  std::unordered_map<const Leaf*, size_t> bucket_of_;
  std::unordered_map<const Leaf*, int> remaining_;  // micro-batches still to contribute
  size_t next_bucket_ = 0;                          // first not issued
};

}  // namespace shardit
