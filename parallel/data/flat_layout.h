// FlatLayout: where each parameter of a rank lies in flat fp32 ranges (weights, gradients, moments, EMA share one
// layout), and how the range is cut: first into buckets, which are reduced and gathered as one, then each bucket over
// the data axis (ShardMap). Pure data.
//
// Parameters lie in reverse order of registration, which is about the order in which backward finishes their
// gradients, so that buckets fill up early and travel while backward still runs.
//
// Everything is cut at multiples of kAlignment elements counted from the start of a parameter. Sums of squares are
// formed over the same blocks (core/ops/adamw.h), so no cut changes the bits of the gradient norm.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/math.h"
#include "core/nn/parameter.h"

namespace shardit {

struct FlatLayoutOptions {
  int64_t bucket_bytes = 25 << 20;  // of fp32 gradient; see FlatLayout::buckets()
  // One bucket for each unit of the model (ZeRO stage 3), whatever its size.
  bool bucket_per_unit = false;
  // Tokens are cut over the tensor axis: gradients of per-token parameters are partial sums over it.
  bool sequence_parallel = false;
};

class FlatLayout {
 public:
  static constexpr int64_t kAlignment = 256;  // elements: 1 KiB of fp32

  struct Entry {
    Parameter* parameter = nullptr;  // not owned
    Shape shape;                     // on this rank: what the parameter's value had when the layout was made
    int64_t offset = 0;              // elements, a multiple of kAlignment
    int64_t count = 0;               // elements
    int64_t end() const { return offset + count; }
  };

  struct Bucket {
    size_t first_entry = 0;
    size_t end_entry = 0;
    int64_t offset = 0;  // elements, a multiple of kAlignment; padding between and after parameters is inside
    int64_t count = 0;
    // The part whose gradient is summed over the tensor axis before the data axis; it is the bucket's tail. Empty
    // without sequence parallelism.
    Range per_token;  // elements of the flat range

    int64_t end() const { return offset + count; }
    int64_t bytes() const { return count * SizeOf(DType::kF32); }
    // Rank r of `ranks` owns [result[r], result[r + 1]) elements from the bucket's start: whole blocks of kAlignment,
    // as evenly as they go, earlier ranks one block more. ranks + 1 offsets.
    std::vector<int64_t> ShardOffsets(int ranks) const;
  };

  // `parameters` are those that live on this rank, in order of registration, values (or meta) already narrowed to the
  // rank's part. They outlive the layout.
  explicit FlatLayout(std::span<Parameter* const> parameters, const FlatLayoutOptions& options = {});

  // In order of offset.
  const std::vector<Entry>& entries() const { return entries_; }
  // In order of offset, without gaps: runs of parameters of at least bucket_bytes (the last may be smaller), or one a
  // unit.
  const std::vector<Bucket>& buckets() const { return buckets_; }
  // Elements of the whole range, padding included.
  int64_t size() const { return size_; }

  // The view of `flat` [size()] that is this entry's parameter, in its shape.
  Tensor View(const Tensor& flat, const Entry& entry) const { return View(flat, 0, entry); }
  // The same where `flat` begins at element `begin` of the range: the buffer of a bucket.
  static Tensor View(const Tensor& flat, int64_t begin, const Entry& entry);

 private:
  // `reversed`: all parameters in the layout's order. The bucket that starts at `first` ends before the result.
  static size_t EndOfBucket(std::span<Parameter* const> reversed, size_t first, const FlatLayoutOptions& options);
  // Reorders `members` where per-token parameters must come last.
  void AddBucket(std::span<Parameter*> members, bool sequence_parallel);

  std::vector<Entry> entries_;
  std::vector<Bucket> buckets_;
  int64_t size_ = 0;
};

}  // namespace shardit
