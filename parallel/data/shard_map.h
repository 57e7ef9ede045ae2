// ShardMap: which elements of a FlatLayout one rank of the data axis owns, and where they lie in the rank's own dense
// range (its shard). The one fact that optimizer, EMA, checkpoint, initial values and gradient norm read. Pure data.
//
// ZeRO (Rajbhandari et al., arXiv 1910.02054, section 5) cuts each bucket over the axis, so the shard is one run per
// bucket, in bucket order. With one rank the map is the identity: everything is owned, and shard and flat offsets are
// equal. Stage 0 keeps its state by such a map, and divides the norm's work by a map over the axis.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/cpu_context.h"
#include "core/base/exact_sum.h"
#include "parallel/data/flat_layout.h"

namespace shardit {

class ShardMap {
 public:
  // What the rank owns of one bucket: elements [flat_begin, flat_begin + count) of the flat range, which are
  // [shard_begin, shard_begin + count) of the shard. Padding between parameters is inside (it is zero everywhere).
  struct Run {
    size_t bucket = 0;
    int64_t flat_begin = 0;
    int64_t shard_begin = 0;
    int64_t count = 0;  // may be 0
  };
  // What the rank owns of one parameter: elements [begin, end) of the parameter's local dense tensor, never empty.
  struct Piece {
    const FlatLayout::Entry* entry = nullptr;  // of the layout
    size_t bucket = 0;
    int64_t begin = 0;
    int64_t end = 0;
    int64_t shard_begin = 0;  // where element `begin` lies in the shard
    int64_t flat_begin() const { return entry->offset + begin; }
    int64_t count() const { return end - begin; }
  };

  // Rank `rank` of a data axis of `ranks`. The layout outlives the map.
  ShardMap(const FlatLayout& layout, int ranks, int rank);

  const FlatLayout& layout() const { return layout_; }
  // Elements of the shard, padding included.
  int64_t size() const { return size_; }
  const std::vector<Run>& runs() const { return runs_; }        // one a bucket, in bucket order
  const std::vector<Piece>& pieces() const { return pieces_; }  // in shard order

 private:
  const FlatLayout& layout_;
  std::vector<Run> runs_;
  std::vector<Piece> pieces_;
  int64_t size_ = 0;
};

// Where the values of a layout lie: in a flat range [layout.size()], or in the rank's shard [map.size()].
enum class Placement { kFlat, kShard };

// Adds the squares of the owned gradients to `sum`. Parameters that every rank of the tensor axis holds whole must be
// counted by one of them: `count_uncut` is true on tensor rank 0. Added over data, tensor and pipeline axes (the limbs,
// as integers), it is the square of the global gradient norm, bit-equal for every data and pipeline layout.
void AddSquares(const ShardMap& owned, const Tensor& grads, Placement placement, bool count_uncut, CpuContext& context,
                ExactSum& sum);

}  // namespace shardit
