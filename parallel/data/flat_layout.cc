#include "parallel/data/flat_layout.h"

#include "core/base/math.h"

namespace shardit {

FlatLayout::FlatLayout(const ParameterList& parameters) {
  for (size_t i = parameters.size(); i > 0; --i) {
    Parameter* parameter = parameters.all()[i - 1].get();
    const int64_t count = parameter->shape.elements();
    entries_.push_back({parameter, size_, count});
    size_ += RoundUp(count, kAlignment);
  }
}

std::vector<FlatLayout::Bucket> FlatLayout::Buckets(int64_t bucket_bytes) const {
  std::vector<Bucket> buckets;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const bool open = !buckets.empty() && buckets.back().count * SizeOf(DType::kF32) < bucket_bytes;
    if (!open) buckets.push_back({i, i, entries_[i].offset, 0});
    Bucket& bucket = buckets.back();
    bucket.end_entry = i + 1;
    bucket.count = (i + 1 < entries_.size() ? entries_[i + 1].offset : size_) - bucket.offset;
  }
  return buckets;
}

Tensor FlatLayout::View(const Tensor& flat, const Entry& entry) const {
  return flat.Narrow(0, entry.offset, entry.count).Reshape(entry.parameter->shape);
}

}  // namespace shardit
