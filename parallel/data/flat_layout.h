// FlatLayout: where each parameter lies in the flat fp32 ranges of a data-parallel run (weights, gradients, moments,
// EMA all share one layout). Parameters lie in reverse order of registration, which is about the order in which
// backward finishes their gradients, so that a bucket of consecutive elements fills up early and can be reduced while
// backward still runs. Pure data.
#pragma once

#include <cstdint>
#include <vector>

#include "core/nn/parameter.h"

namespace shardit {

class FlatLayout {
 public:
  struct Entry {
    Parameter* parameter = nullptr;  // not owned
    int64_t offset = 0;              // elements, a multiple of kAlignment
    int64_t count = 0;               // elements
  };
  struct Bucket {
    size_t first_entry = 0;
    size_t end_entry = 0;
    int64_t offset = 0;  // elements; padding between parameters is inside
    int64_t count = 0;
  };
  static constexpr int64_t kAlignment = 16;  // elements: 64 bytes of fp32

  explicit FlatLayout(const ParameterList& parameters);

  const std::vector<Entry>& entries() const { return entries_; }
  // Elements of the whole range, padding included.
  int64_t size() const { return size_; }

  // Consecutive parameters in runs of at least `bucket_bytes` of fp32 gradient; the last may be smaller.
  std::vector<Bucket> Buckets(int64_t bucket_bytes) const;

  // The view of `flat` that is this entry's parameter, in the parameter's shape.
  Tensor View(const Tensor& flat, const Entry& entry) const;

 private:
  std::vector<Entry> entries_;
  int64_t size_ = 0;
};

}  // namespace shardit
