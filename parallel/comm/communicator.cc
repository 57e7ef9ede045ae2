#include "parallel/comm/communicator.h"

#include <utility>

#include "core/base/check.h"

namespace shardit {
namespace {

bool IsPointToPoint(CollectiveKind kind) { return kind == CollectiveKind::kSend || kind == CollectiveKind::kRecv; }

std::vector<std::string> CutStrings(const std::string& bytes, const std::vector<int64_t>& offsets) {
  std::vector<std::string> parts;
  for (size_t r = 0; r + 1 < offsets.size(); ++r) {
    parts.push_back(bytes.substr(offsets[r], offsets[r + 1] - offsets[r]));
  }
  return parts;
}

}  // namespace

Communicator::Communicator(int rank, int size, std::string name, CollectiveLog* log)
    : rank_(rank), size_(size), name_(std::move(name)), log_(log) {
  CHECK(0 <= rank && rank < size) << "[comm " << name_ << "] rank " << rank << " of " << size;
}

std::vector<int64_t> Communicator::SliceOffsets(int64_t count, int64_t element_bytes) const {
  std::vector<int64_t> offsets(size_ + 1, 0);
  for (int r = 0; r < size_; ++r) offsets[r + 1] = PartRange(count, size_, r).end * element_bytes;
  return offsets;
}

std::vector<int64_t> Communicator::Bytes(const std::vector<int64_t>& offsets, int64_t element_bytes) const {
  CHECK_EQ(offsets.size(), static_cast<size_t>(size_) + 1);
  CHECK_EQ(offsets.front(), 0);
  std::vector<int64_t> bytes;
  for (const int64_t offset : offsets) bytes.push_back(offset * element_bytes);
  return bytes;
}

Work Communicator::Reduce(CollectiveKind kind, const void* in, void* out, std::vector<int64_t> offsets, DType dtype,
                          ReduceOp op, CallSite site) {
  CollectiveSpec spec;
  spec.kind = kind;
  spec.in = in;
  spec.out = out;
  spec.offsets = std::move(offsets);
  spec.dtype = dtype;
  spec.op = op;
  return Issue(std::move(spec), site);
}

Work Communicator::Move(CollectiveKind kind, const void* in, void* out, std::vector<int64_t> offsets, CallSite site,
                        int peer, int tag) {
  CollectiveSpec spec;
  spec.kind = kind;
  spec.in = in;
  spec.out = out;
  spec.offsets = std::move(offsets);
  spec.peer = peer;
  spec.tag = tag;
  return Issue(std::move(spec), site);
}

Work Communicator::AllReduce(ConstElements in, Elements out, int64_t count, ReduceOp op, CallSite site) {
  CheckTypes(CollectiveKind::kAllReduce, in, out);
  return Reduce(CollectiveKind::kAllReduce, in.raw(), out.raw(), SliceOffsets(count, SizeOf(in.dtype())), in.dtype(),
                op, site);
}

Work Communicator::ReduceScatter(ConstElements in, Elements out, const std::vector<int64_t>& offsets, CallSite site) {
  CheckTypes(CollectiveKind::kReduceScatter, in, out);
  return Reduce(CollectiveKind::kReduceScatter, in.raw(), out.raw(), Bytes(offsets, SizeOf(in.dtype())), in.dtype(),
                ReduceOp::kSum, site);
}

Work Communicator::AllGather(ConstElements in, Elements out, const std::vector<int64_t>& offsets, CallSite site) {
  CheckTypes(CollectiveKind::kAllGather, in, out);
  return Move(CollectiveKind::kAllGather, in.raw(), out.raw(), Bytes(offsets, SizeOf(in.dtype())), site);
}

void Communicator::CheckTypes(CollectiveKind kind, ConstElements in, Elements out) const {
  CHECK(in.dtype() == out.dtype()) << "[" << Name(kind) << " on " << name_ << "] in " << Name(in.dtype()) << ", out "
                                   << Name(out.dtype());
}

Work Communicator::Issue(CollectiveSpec spec, CallSite site) {
  CHECK_GE(spec.bytes(), 0) << "[" << Name(spec.kind) << " on " << name_ << "] negative count";
  spec.site = site;
  if (IsPointToPoint(spec.kind)) {
    CHECK(0 <= spec.peer && spec.peer < size_ && spec.peer != rank_)
        << "[" << Name(spec.kind) << " on " << name_ << "] peer " << spec.peer << ", rank " << rank_ << " of " << size_;
    CHECK(0 <= spec.tag && spec.tag < kMaxTag) << "[" << Name(spec.kind) << " on " << name_ << "] tag " << spec.tag;
  } else {
    CHECK(spec.peer < size_) << "[" << Name(spec.kind) << " on " << name_ << "] root " << spec.peer << " of " << size_;
    spec.sequence = collectives_++;
  }

  const Traffic traffic{1, spec.bytes(), RingBytes(spec.kind, spec.offsets, rank_, size_, spec.peer)};
  {
    std::lock_guard<std::mutex> lock(counters_mutex_);
    (site.control ? counters_.control : counters_.data)[static_cast<int>(spec.kind)] += traffic;
  }
  CollectiveRecord record;
  record.sequence = spec.sequence;
  record.kind = spec.kind;
  record.comm = name_;
  record.site = site.tag;
  record.control = site.control;
  record.peer = spec.peer;
  record.bytes = spec.bytes();
  auto work = std::make_shared<WorkState>(log_, log_->Issue(std::move(record)));
  Start(std::move(spec), work);
  return Work(std::move(work));
}

std::vector<int64_t> Communicator::ExchangeLengths(int64_t mine) {
  CHECK(device().is_cpu()) << "[comm " << name_ << "] strings are exchanged between hosts";
  std::vector<int64_t> lengths(size_);
  AllGather(&mine, lengths.data(), size_, {"lengths", /*control=*/true}).Wait();
  std::vector<int64_t> offsets(size_ + 1, 0);
  for (int r = 0; r < size_; ++r) offsets[r + 1] = offsets[r] + lengths[r];
  return offsets;
}

std::vector<std::string> Communicator::GatherBytes(std::string_view mine, int root, CallSite site) {
  const std::vector<int64_t> offsets = ExchangeLengths(static_cast<int64_t>(mine.size()));
  std::string all(rank_ == root ? offsets.back() : 0, '\0');
  Move(CollectiveKind::kGather, mine.data(), all.data(), offsets, site, root).Wait();
  return rank_ == root ? CutStrings(all, offsets) : std::vector<std::string>();
}

std::vector<std::string> Communicator::AllGatherBytes(std::string_view mine, CallSite site) {
  const std::vector<int64_t> offsets = ExchangeLengths(static_cast<int64_t>(mine.size()));
  std::string all(offsets.back(), '\0');
  Move(CollectiveKind::kAllGather, mine.data(), all.data(), offsets, site).Wait();
  return CutStrings(all, offsets);
}

void Communicator::AddTraffic(const TrafficCounters& traffic) {
  std::lock_guard<std::mutex> lock(counters_mutex_);
  counters_ += traffic;
}

TrafficCounters Communicator::counters() const {
  std::lock_guard<std::mutex> lock(counters_mutex_);
  return counters_;
}

}  // namespace shardit
