// GradReducer: sums gradients over the data axis while backward still runs, and leaves on each rank what its ZeRO stage
// keeps (Rajbhandari et al., arXiv 1910.02054, section 5):
//
//   stage   gradients kept         collective on the data axis, per bucket
//   0       all, flat              all-reduce in place, once a step
//   1       all, flat              reduce-scatter in place, once a step: the rank's runs of the flat range hold the sum
//   2, 3    the rank's shard       reduce-scatter, once a micro-batch; a bucket's gradients exist from its first
//                                  contribution until they have left
//
// It watches leaves become final, and sends a bucket once all its gradients are: stages 0 and 1 in the layout's order,
// stages 2 and 3 in the order in which buckets become complete, which is the tape's and the schedule's and so the same
// on every rank of the axis. Where a bucket has gradients that are partial over the tensor axis (sequence parallelism),
// that range is summed there first; its data-axis collective is then issued when the next bucket is sent, so that the
// compute thread need not wait at once. Every collective is issued at a fixed point of the program, whatever has
// arrived: no order of arrival can make ranks disagree or wait in a circle.
//
// Memory of stages 2 and 3: the buckets being written (one; more only while deferred weight gradients or the order of
// the tape keep several open) and kMaxInFlight being sent, and for each of these the rank's part of one bucket.
//
// Deterministic mode (reproducible sums): the gradients of every micro-batch are formed by themselves and folded by a
// binary counter in the order of virtual shards (VirtualShard below), the order in which the communicator sums ranks
// (parallel/comm/reduce.h). With powers of two, the sum over ranks * micro_batches virtual shards has the same bits
// however they are spread over ranks, and in every stage. It takes log2(micro_batches) + 1 further copies of the
// gradients kept. Per-token gradients are then summed over the tensor axis once a micro-batch, in every stage. Where
// weight gradients are deferred, all contributions of a micro-batch to one leaf must come in the same pass.
//
// On a GPU the gradients lie on the device, fp32 as everywhere, and so do the communicators' buffers. Collectives
// travel on streams beside backward; what waits for them is the compute stream, at the same points of the program.
// Buckets then carry no times of start and end.
//
// Every parameter of the layout that requires a gradient becomes final exactly `micro_batches` times a step (CHECK).
// Owner: one compute thread. Failure: the communicator's.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <unordered_map>
#include <vector>

#include "core/autograd/leaf.h"
#include "core/tensor/rank_context.h"
#include "parallel/comm/communicator.h"
#include "parallel/data/flat_layout.h"
#include "parallel/data/fold_counter.h"
#include "parallel/data/shard_map.h"

namespace shardit {

struct GradReducerOptions {
  int zero_stage = 0;  // 0 .. 3
  bool deterministic = false;
};

// One bucket's reduction over the data axis, for traces. Times are of the steady clock; zero where they are not known
// (Work::timed).
struct BucketTrace {
  using Time = std::chrono::steady_clock::time_point;
  int64_t bytes = 0;
  Time issued, started, ended;
};

struct ReduceReport {
  int64_t bytes = 0;             // gradient bytes reduced in the step
  int64_t overlapped_bytes = 0;  // of reductions issued before Finish()
  std::vector<BucketTrace> buckets;
};

class GradReducer : public LeafObserver, public GradSource {
 public:
  static constexpr size_t kMaxInFlight = 2;  // bucket buffers being sent in stages 2 and 3

  // `grads`: the flat range [layout.size()] in stages 0 and 1, the shard [ShardMap(layout, n, r).size()] in 2 and 3;
  // zeroed here. The layout's parameters get their gradients from here on: views of the flat range, or this object as
  // grad_source. `tensor` may be null: no sequence parallelism. All references, and the parameters, outlive the
  // reducer.
  GradReducer(RankContext& context, Communicator& data, Communicator* tensor, const FlatLayout& layout, Tensor grads,
              const GradReducerOptions& options = {});
  ~GradReducer() override;

  // The virtual shard of the global batch that `rank` of `ranks` runs as its micro-batch `micro_batch`: deterministic
  // mode is reproducible if, and only if, samples are dealt out by it.
  static int64_t VirtualShard(int zero_stage, int ranks, int rank, int64_t micro_batches, int64_t micro_batch);

  // Before the first micro-batch of a step. The sums of the last step are given up.
  void BeginStep(int micro_batches);
  void OnLeafFinal(Leaf& leaf) override;
  void ProvideGrad(Leaf& leaf) override;
  // After the last backward: everything has been sent and has arrived on return. Spans of the step's collectives and
  // waits go to the context's timeline.
  ReduceReport Finish();

 private:
  // Gradients of one bucket from one micro-batch, while they are being written.
  struct Round {
    Tensor data;                 // [bucket.count]
    std::vector<bool> provided;  // by entry of the bucket: somebody writes it
  };
  struct BucketState {
    size_t trainable = 0;        // parameters that want a gradient
    size_t behind = 0;           // of these: not final for the next round, or, without rounds, for the step
    bool flat_ready = false;     // the flat range holds the step's gradients of this rank
    std::deque<Round> open;      // oldest first
    int64_t rounds_sent = 0;     // this step
    int64_t rounds_reduced = 0;  // sent over the data axis, this step
    int64_t rounds_summed = 0;   // folded or added, this step
    FoldCounter fold;            // deterministic
  };
  struct LeafState {
    size_t bucket = 0;
    size_t entry = 0;  // of the layout
    int64_t finals = 0;
  };
  // A bucket on its way over an axis.
  struct Flight {
    size_t bucket = 0;
    Tensor data;  // [bucket.count]: a round's buffer, or the bucket in the flat range
    Tensor part;  // where the reduce-scatter of a round puts this rank's part
    Work work;
    BucketTrace trace;
  };

  bool keeps_shard() const { return options_.zero_stage >= 2; }
  // Gradients are written to rounds' buffers, not straight into the flat range.
  bool uses_rounds() const { return keeps_shard() || options_.deterministic; }
  LeafState* StateOf(const Leaf& leaf);
  // The round that the leaf's next contribution belongs to.
  Round& RoundOf(const LeafState& state);
  void SendRound(size_t bucket);
  void ReleaseGrads(size_t bucket);
  // Zeroes what nobody has written of a round: padding, parameters without a gradient.
  void ZeroGaps(size_t bucket, const Round& round) const;

  void SendFlatInOrder();
  void SendOverTensor(Flight flight);
  void AdvanceTensor();
  void AfterTensor(Flight flight);
  void SendOverData(Flight flight);
  // Waits for reductions over the data axis until at most `flights` are under way.
  void LimitOverData(size_t flights);
  void AfterData(const Flight& flight);
  // Adds this rank's part of a round to the shard.
  void AddPart(size_t bucket, const Tensor& part);
  void WaitFor(const Work& work);
  Tensor FlatBucket(size_t bucket) const;
  Tensor ShardOf(size_t bucket) const;

  RankContext& context_;
  Communicator& data_;
  Communicator* const tensor_;  // null: nothing to sum there
  const FlatLayout& layout_;
  const ShardMap shard_;
  const Tensor grads_;
  const GradReducerOptions options_;

  std::vector<BucketState> buckets_;
  std::unordered_map<const Leaf*, LeafState> leaves_;
  int64_t micro_batches_ = 0;
  size_t next_flat_ = 0;  // first bucket whose flat gradients have not been sent
  std::optional<Flight> over_tensor_;
  std::deque<Flight> over_data_;  // in order of issue
  bool finishing_ = false;
  ReduceReport report_;
};

}  // namespace shardit
