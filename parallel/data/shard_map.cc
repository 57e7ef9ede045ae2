#include "parallel/data/shard_map.h"

#include <algorithm>

#include "core/ops/adamw.h"

namespace shardit {

ShardMap::ShardMap(const FlatLayout& layout, int ranks, int rank) : layout_(layout) {
  CHECK(0 <= rank && rank < ranks) << "[shard map] rank " << rank << " of " << ranks;
  for (size_t b = 0; b < layout.buckets().size(); ++b) {
    const FlatLayout::Bucket& bucket = layout.buckets()[b];
    const std::vector<int64_t> offsets = bucket.ShardOffsets(ranks);
    const int64_t begin = bucket.offset + offsets[static_cast<size_t>(rank)];
    const int64_t end = bucket.offset + offsets[static_cast<size_t>(rank) + 1];
    for (size_t i = bucket.first_entry; i < bucket.end_entry; ++i) {
      const FlatLayout::Entry& entry = layout.entries()[i];
      const int64_t first = std::max(begin, entry.offset), last = std::min(end, entry.end());
      if (first >= last) continue;
      pieces_.push_back({&entry, b, first - entry.offset, last - entry.offset, size_ + first - begin});
    }
    runs_.push_back({b, begin, size_, end - begin});
    size_ += end - begin;
  }
}

void AddSquares(const ShardMap& owned, const Tensor& grads, Placement placement, bool count_uncut, CpuContext& context,
                ExactSum& sum) {
  static_assert(FlatLayout::kAlignment % cpu::kSquaresBlock == 0);
  CHECK_EQ(grads.elements(), placement == Placement::kFlat ? owned.layout().size() : owned.size());
  for (const ShardMap::Piece& piece : owned.pieces()) {
    if (piece.entry->parameter->shard.dim < 0 && !count_uncut) continue;
    const int64_t at = placement == Placement::kFlat ? piece.flat_begin() : piece.shard_begin;
    cpu::SumOfSquares(grads.data() + at, piece.count(), context, sum);
  }
}

}  // namespace shardit
