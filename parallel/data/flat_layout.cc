#include "parallel/data/flat_layout.h"

#include <algorithm>

namespace shardit {

std::vector<int64_t> FlatLayout::Bucket::ShardOffsets(int ranks) const {
  std::vector<int64_t> offsets(static_cast<size_t>(ranks) + 1, 0);
  for (int r = 0; r < ranks; ++r) {
    offsets[static_cast<size_t>(r) + 1] = PartRange(count / kAlignment, ranks, r).end * kAlignment;
  }
  return offsets;
}

FlatLayout::FlatLayout(std::span<Parameter* const> parameters, const FlatLayoutOptions& options) {
  std::vector<Parameter*> reversed(parameters.rbegin(), parameters.rend());
  for (size_t first = 0; first < reversed.size();) {
    const size_t end = EndOfBucket(reversed, first, options);
    AddBucket(std::span(reversed).subspan(first, end - first), options.sequence_parallel);
    first = end;
  }
}

size_t FlatLayout::EndOfBucket(std::span<Parameter* const> reversed, size_t first, const FlatLayoutOptions& options) {
  size_t end = first;
  int64_t count = 0;
  while (end < reversed.size()) {
    const bool open = options.bucket_per_unit ? reversed[end]->unit == reversed[first]->unit
                                              : count * SizeOf(DType::kF32) < options.bucket_bytes;
    if (end > first && !open) break;
    count += RoundUp(reversed[end]->value.elements(), kAlignment);
    ++end;
  }
  return end;
}

void FlatLayout::AddBucket(std::span<Parameter*> members, bool sequence_parallel) {
  auto partial = members.end();
  if (sequence_parallel) {
    partial = std::stable_partition(members.begin(), members.end(),
                                    [](const Parameter* parameter) { return !parameter->shard.per_token; });
  }
  Bucket bucket{.first_entry = entries_.size(), .offset = size_};
  bucket.per_token.begin = -1;
  for (auto it = members.begin(); it != members.end(); ++it) {
    if (it == partial) bucket.per_token.begin = size_;
    Parameter& parameter = **it;
    entries_.push_back({&parameter, parameter.value.shape(), size_, parameter.value.elements()});
    size_ += RoundUp(parameter.value.elements(), kAlignment);
  }
  bucket.end_entry = entries_.size();
  bucket.count = size_ - bucket.offset;
  bucket.per_token.end = size_;
  if (bucket.per_token.begin < 0) bucket.per_token.begin = size_;
  buckets_.push_back(bucket);
}

Tensor FlatLayout::View(const Tensor& flat, int64_t begin, const Entry& entry) {
  return flat.Narrow(0, entry.offset - begin, entry.count).Reshape(entry.shape);
}

}  // namespace shardit
