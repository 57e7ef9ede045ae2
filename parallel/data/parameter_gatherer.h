// Parameters sharded over the data axis, gathered for use (ZeRO, Rajbhandari et al., arXiv 1910.02054, section 5). The
// optimizer updates the rank's shard only; these bring the other ranks' parts, ahead of first use.
//
//   WholeGatherer   stages 1 and 2: weights are kept whole; gathered once after each update, behind the start of the
//                   next forward.
//   UnitGatherer    stage 3: only the shard is kept; a unit's weights are gathered when forward enters it and again
//                   when backward does, the next unit's in the direction of travel meanwhile. Also serves any other
//                   sharded weights (the EMA of stages 1 to 3) on a model of their own.
//
// Collectives are issued by Enter, Leave, StartGather and backward only, never by what has arrived, so all ranks of the
// axis that run the same model parts in the same order issue the same. A communicator of its own keeps weights that are
// waited for from queueing behind gradients; several gatherers may share one.
//
// What is gathered is what forward reads: fp32 weights, or bf16 ones that the optimizer rounds from its fp32 shard. The
// type is that of the tensor given to the constructor; p is its size.
//
// Bytes on the data axis: WholeGatherer (n-1)/n N p per update; UnitGatherer (n-1)/n N p for each forward and each
// backward, where buckets are units.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/base/math.h"
#include "core/nn/parameter_units.h"
#include "core/tensor/rank_context.h"
#include "parallel/comm/communicator.h"
#include "parallel/data/flat_layout.h"
#include "parallel/data/shard_map.h"

namespace shardit {

class ParameterGatherer : public ParameterUnits {
 public:
  // The shard holds new weights, on every rank of the axis: what was gathered before is stale.
  virtual void StartGather() = 0;
  // After each backward of a tape: gives up what backward still holds.
  virtual void EndBackward() = 0;
  // Everything under way has arrived: to be called before the weights change or are read as a whole. In stage 3 all
  // gathered units are given up.
  virtual void FinishAll() = 0;
};

class WholeGatherer : public ParameterGatherer {
 public:
  // `weights` [layout.size()]: every rank has its own ShardMap runs up to date, in place; the parameters' values are
  // views of it. References outlive the gatherer.
  WholeGatherer(RankContext& context, Communicator& data, const FlatLayout& layout, Tensor weights);
  ~WholeGatherer() override;

  // Issues all buckets, those of forward's first units first.
  void StartGather() override;
  // Waits for the unit's buckets, where they are still under way.
  void Enter(Tape& tape, int unit) override;
  Var Leave(Tape& tape, int unit, const Var& x) override { return x; }
  void EndBackward() override {}
  void FinishAll() override;

 private:
  void WaitFor(size_t bucket);

  RankContext& context_;
  Communicator& data_;
  const FlatLayout& layout_;
  const Tensor weights_;
  const std::vector<std::vector<size_t>> buckets_of_;  // by unit
  std::vector<Work> works_;                            // by bucket
};

class UnitGatherer : public ParameterGatherer {
 public:
  // `shard` [ShardMap(layout, n, r).size()] holds the weights; the layout's parameters are meta outside of their unit.
  // `parts` are the unit ranges of the rank's model parts (virtual stages), disjoint; nothing is gathered ahead beyond
  // the end of a part. References outlive the gatherer.
  UnitGatherer(RankContext& context, Communicator& data, const FlatLayout& layout, Tensor shard,
               std::span<const Range> parts);
  ~UnitGatherer() override;

  void StartGather() override;
  // At most two units are in memory at once (CHECK): this one and the next.
  void Enter(Tape& tape, int unit) override;
  // Gives the unit up; on a recording tape backward gathers it again when it comes to this place, and gives it up when
  // it enters the previous one, at EndBackward or at the next Enter. Weight gradients must not read weights then.
  Var Leave(Tape& tape, int unit, const Var& x) override;
  void EndBackward() override;
  void FinishAll() override;

  // High-water mark of gathered weights, in bytes, without the allocator's rounding.
  int64_t peak_bytes() const { return peak_bytes_; }

 private:
  friend class ReenterNode;
  enum class Direction : int { kForward = 1, kBackward = -1 };
  // A bucket of weights in memory.
  struct Gathered {
    Tensor data;  // [bucket.count]; undefined when the bucket is not in memory
    Work work;
    int users = 0;  // units in memory that have parameters in it
  };

  void EnterFrom(int unit, Direction direction);
  std::span<const size_t> BucketsOf(int unit) const;
  void Start(int unit);
  void WaitFor(size_t bucket);
  void Release(int unit);
  void ReleaseAllBut(std::optional<int> unit);
  // The next unit of the same part, if any.
  std::optional<int> Next(int unit, Direction direction) const;

  RankContext& context_;
  Communicator& data_;
  const FlatLayout& layout_;
  const ShardMap map_;
  const Tensor shard_;
  const std::vector<Range> parts_;
  const std::vector<std::vector<size_t>> buckets_of_;  // by unit
  std::vector<Gathered> gathered_;                     // by bucket
  std::vector<int> alive_;                             // units in memory or on their way there
  int64_t bytes_ = 0, peak_bytes_ = 0;
};

}  // namespace shardit
