#include "parallel/comm/operation.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "core/base/check.h"

namespace shardit {
namespace {

// Bytes of one segment of a slice: n of them, the inputs of one local reduction, stay in a second-level cache, but a
// message stays large enough to amortise its start-up.
constexpr int64_t kSegmentBytesOfAllRanks = 1 << 20;
constexpr int64_t kMinSegmentBytes = 64 << 10;

const uint8_t* At(const void* base, int64_t offset) { return static_cast<const uint8_t*>(base) + offset; }
uint8_t* At(void* base, int64_t offset) { return static_cast<uint8_t*>(base) + offset; }

// The facts every operation shares.
class OperationBase : public Operation {
 public:
  OperationBase(CollectiveSpec spec, int rank, int size) : spec_(std::move(spec)), rank_(rank), size_(size) {}

 protected:
  Range SliceOf(int r) const { return {spec_.offsets[r], spec_.offsets[r + 1]}; }
  // The other ranks, nearest successor first, so that no rank is everybody's first target.
  int Successor(int distance) const { return (rank_ + distance) % size_; }
  int Predecessor(int distance) const { return (rank_ - distance + size_) % size_; }

  const CollectiveSpec spec_;
  const int rank_;
  const int size_;
};

// Reduce-scatter, and with `gather` all-reduce, in segments of every slice.
class SlicedReduce : public OperationBase {
 public:
  SlicedReduce(CollectiveSpec spec, int rank, int size, ScratchPool* scratch, bool gather)
      : OperationBase(std::move(spec), rank, size), gather_(gather) {
    segment_bytes_ = std::max(kMinSegmentBytes, kSegmentBytesOfAllRanks / size / 64 * 64);
    // Slice 0 is the longest.
    segments_ = CeilDiv(SliceOf(0).size(), segment_bytes_);
    segment_bytes_ = std::min(segment_bytes_, SliceOf(0).size());
    scratch_ = scratch->Acquire(2 * (size - 1) * segment_bytes_);
  }

  bool Advance(Port& port) override {
    const int64_t step = step_++;
    if (step < segments_) PostSlices(port, step);
    if (step >= 1 && step <= segments_) {
      ReduceSegment(step - 1);
      if (gather_) PostResult(port, step - 1);
    }
    return gather_ ? step <= segments_ : step < segments_;
  }

 private:
  // Segment `k` of slice r as offsets into the payload; empty past the slice's end.
  Range Segment(int r, int64_t k) const {
    const Range slice = SliceOf(r);
    const int64_t begin = std::min(slice.end, slice.begin + k * segment_bytes_);
    return {begin, std::min(slice.end, begin + segment_bytes_)};
  }
  // Two halves alternate, so that segment k + 1 arrives while segment k is reduced.
  uint8_t* Received(int from, int64_t k) const {
    const int index = from < rank_ ? from : from - 1;
    return scratch_.data() + ((k % 2) * (size_ - 1) + index) * segment_bytes_;
  }

  void PostSlices(Port& port, int64_t k) {
    const int64_t own_bytes = Segment(rank_, k).size();
    for (int d = 1; d < size_; ++d) port.Recv(Predecessor(d), Received(Predecessor(d), k), own_bytes);
    for (int d = 1; d < size_; ++d) {
      const Range segment = Segment(Successor(d), k);
      port.Send(Successor(d), At(spec_.in, segment.begin), segment.size());
    }
  }

  void ReduceSegment(int64_t k) {
    const Range own = Segment(rank_, k);
    inputs_.resize(size_);
    for (int r = 0; r < size_; ++r) inputs_[r] = r == rank_ ? At(spec_.in, own.begin) : Received(r, k);
    const int64_t out_offset = gather_ ? own.begin : own.begin - SliceOf(rank_).begin;
    TreeReduce(spec_.dtype, spec_.op, inputs_, At(spec_.out, out_offset), own.size() / SizeOf(spec_.dtype));
  }

  void PostResult(Port& port, int64_t k) {
    const Range own = Segment(rank_, k);
    for (int d = 1; d < size_; ++d) {
      const Range segment = Segment(Predecessor(d), k);
      port.Recv(Predecessor(d), At(spec_.out, segment.begin), segment.size());
    }
    for (int d = 1; d < size_; ++d) port.Send(Successor(d), At(spec_.out, own.begin), own.size());
  }

  const bool gather_;
  int64_t segment_bytes_ = 0;
  int64_t segments_ = 0;
  int64_t step_ = 0;
  ScratchPool::Handle scratch_;
  std::vector<const void*> inputs_;
};

// All-reduce of a short vector in one exchange.
class DirectAllReduce : public OperationBase {
 public:
  DirectAllReduce(CollectiveSpec spec, int rank, int size, ScratchPool* scratch)
      : OperationBase(std::move(spec), rank, size), scratch_(scratch->Acquire(size * spec_.bytes())) {}

  bool Advance(Port& port) override {
    const int64_t bytes = spec_.bytes();
    if (!posted_) {
      posted_ = true;
      for (int d = 1; d < size_; ++d) port.Recv(Predecessor(d), At(scratch_.data(), Predecessor(d) * bytes), bytes);
      for (int d = 1; d < size_; ++d) port.Send(Successor(d), spec_.in, bytes);
      return true;
    }
    std::vector<const void*> inputs(size_);
    for (int r = 0; r < size_; ++r) inputs[r] = r == rank_ ? spec_.in : At(scratch_.data(), r * bytes);
    TreeReduce(spec_.dtype, spec_.op, inputs, spec_.out, bytes / SizeOf(spec_.dtype));
    return false;
  }

 private:
  ScratchPool::Handle scratch_;
  bool posted_ = false;
};

// All-reduce of a short vector in log2(size) exchanges; size is a power of two. After round k each rank holds the sum
// over its aligned group of 2^(k+1) ranks, added as (lower half) + (upper half): the tree of TreeReduce.
class RecursiveDoubling : public OperationBase {
 public:
  RecursiveDoubling(CollectiveSpec spec, int rank, int size, ScratchPool* scratch)
      : OperationBase(std::move(spec), rank, size), scratch_(scratch->Acquire(spec_.bytes())) {
    if (spec_.in != spec_.out) std::memcpy(spec_.out, spec_.in, spec_.bytes());
  }

  bool Advance(Port& port) override {
    if (mask_ > 0) {
      const bool upper = (rank_ & mask_) != 0;
      const void* const inputs[2] = {upper ? scratch_.data() : spec_.out, upper ? spec_.out : scratch_.data()};
      TreeReduce(spec_.dtype, spec_.op, inputs, spec_.out, spec_.bytes() / SizeOf(spec_.dtype));
    }
    mask_ = mask_ == 0 ? 1 : 2 * mask_;
    if (mask_ >= size_) return false;
    port.Recv(rank_ ^ mask_, scratch_.data(), spec_.bytes());
    port.Send(rank_ ^ mask_, spec_.out, spec_.bytes());
    return true;
  }

 private:
  ScratchPool::Handle scratch_;
  int mask_ = 0;
};

class AllGatherSlices : public OperationBase {
 public:
  using OperationBase::OperationBase;

  bool Advance(Port& port) override {
    if (std::exchange(posted_, true)) return false;
    const Range own = SliceOf(rank_);
    for (int d = 1; d < size_; ++d) {
      const Range slice = SliceOf(Predecessor(d));
      port.Recv(Predecessor(d), At(spec_.out, slice.begin), slice.size());
    }
    for (int d = 1; d < size_; ++d) port.Send(Successor(d), spec_.in, own.size());
    if (spec_.in != At(spec_.out, own.begin) && own.size() > 0) {
      std::memcpy(At(spec_.out, own.begin), spec_.in, own.size());
    }
    return true;
  }

 private:
  bool posted_ = false;
};

class GatherSlices : public OperationBase {
 public:
  using OperationBase::OperationBase;

  bool Advance(Port& port) override {
    if (std::exchange(posted_, true)) return false;
    const Range own = SliceOf(rank_);
    if (rank_ != spec_.peer) {
      port.Send(spec_.peer, spec_.in, own.size());
      return true;
    }
    for (int d = 1; d < size_; ++d) {
      const Range slice = SliceOf(Predecessor(d));
      port.Recv(Predecessor(d), At(spec_.out, slice.begin), slice.size());
    }
    if (own.size() > 0) std::memcpy(At(spec_.out, own.begin), spec_.in, own.size());
    return true;
  }

 private:
  bool posted_ = false;
};

// Ranks are numbered from the root. A rank receives from the one that lacks its lowest set bit, then serves the ranks
// that differ from it in one bit below that.
class BinomialBroadcast : public OperationBase {
 public:
  using OperationBase::OperationBase;

  bool Advance(Port& port) override {
    const int from_root = (rank_ - spec_.peer + size_) % size_;
    const int low_bit =
        from_root == 0 ? static_cast<int>(std::bit_ceil(static_cast<unsigned>(size_))) : from_root & -from_root;
    if (from_root != 0 && !std::exchange(received_, true)) {
      port.Recv((rank_ - low_bit + size_) % size_, spec_.out, spec_.bytes());
      return true;
    }
    if (std::exchange(served_, true)) return false;
    for (int bit = low_bit / 2; bit > 0; bit /= 2) {
      if (from_root + bit < size_) port.Send((rank_ + bit) % size_, spec_.in, spec_.bytes());
    }
    return true;
  }

 private:
  bool received_ = false;
  bool served_ = false;
};

// Round k tells the rank 2^k ahead and hears from the one 2^k behind; after the last, news of every rank has come.
class DisseminationBarrier : public OperationBase {
 public:
  using OperationBase::OperationBase;

  bool Advance(Port& port) override {
    if (distance_ >= size_) return false;
    port.Recv(Predecessor(distance_), &heard_, 1);
    port.Send(Successor(distance_), &told_, 1);
    distance_ *= 2;
    return true;
  }

 private:
  int distance_ = 1;
  uint8_t heard_ = 0;
  uint8_t told_ = 0;
};

class PointToPoint : public OperationBase {
 public:
  using OperationBase::OperationBase;

  bool Advance(Port& port) override {
    if (std::exchange(posted_, true)) return false;
    if (spec_.kind == CollectiveKind::kSend) {
      port.Send(spec_.peer, spec_.in, spec_.bytes());
    } else {
      port.Recv(spec_.peer, spec_.out, spec_.bytes());
    }
    return true;
  }

 private:
  bool posted_ = false;
};

std::unique_ptr<Operation> MakeAllReduce(CollectiveSpec spec, int rank, int size, ScratchPool* scratch) {
  if (spec.bytes() > kSmallBytes) return std::make_unique<SlicedReduce>(std::move(spec), rank, size, scratch, true);
  // Partial sums would travel as bf16, rounded at every step of the tree.
  const bool partial_sums_keep_their_bits = spec.dtype != DType::kBF16;
  if (size > kDirectRanks && std::has_single_bit(static_cast<unsigned>(size)) && partial_sums_keep_their_bits) {
    return std::make_unique<RecursiveDoubling>(std::move(spec), rank, size, scratch);
  }
  return std::make_unique<DirectAllReduce>(std::move(spec), rank, size, scratch);
}

}  // namespace

std::unique_ptr<Operation> MakeOperation(CollectiveSpec spec, int rank, int size, ScratchPool* scratch) {
  CHECK_GE(size, 2);
  switch (spec.kind) {
    case CollectiveKind::kAllReduce:
      return MakeAllReduce(std::move(spec), rank, size, scratch);
    case CollectiveKind::kReduceScatter:
      return std::make_unique<SlicedReduce>(std::move(spec), rank, size, scratch, false);
    case CollectiveKind::kAllGather:
      return std::make_unique<AllGatherSlices>(std::move(spec), rank, size);
    case CollectiveKind::kBroadcast:
      return std::make_unique<BinomialBroadcast>(std::move(spec), rank, size);
    case CollectiveKind::kGather:
      return std::make_unique<GatherSlices>(std::move(spec), rank, size);
    case CollectiveKind::kBarrier:
      return std::make_unique<DisseminationBarrier>(std::move(spec), rank, size);
    case CollectiveKind::kSend:
    case CollectiveKind::kRecv:
      return std::make_unique<PointToPoint>(std::move(spec), rank, size);
  }
  return nullptr;
}

}  // namespace shardit
