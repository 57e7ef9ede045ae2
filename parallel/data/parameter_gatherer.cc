#include "parallel/data/parameter_gatherer.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "core/autograd/node.h"
#include "parallel/comm/timed_wait.h"

namespace shardit {
namespace {

// Ascending, by unit; units without parameters here have none.
std::vector<std::vector<size_t>> BucketsByUnit(const FlatLayout& layout) {
  std::vector<std::vector<size_t>> result;
  for (size_t b = 0; b < layout.buckets().size(); ++b) {
    const FlatLayout::Bucket& bucket = layout.buckets()[b];
    for (size_t i = bucket.first_entry; i < bucket.end_entry; ++i) {
      const size_t unit = static_cast<size_t>(layout.entries()[i].parameter->unit);
      if (result.size() <= unit) result.resize(unit + 1);
      if (result[unit].empty() || result[unit].back() != b) result[unit].push_back(b);
    }
  }
  return result;
}

void WaitForWeights(RankContext& context, Work& work, int64_t bytes) {
  if (!work.Done()) TimedWait(context, work, "weights");
  if (work.timed()) {
    context.timeline().Add({.kind = SpanKind::kCommunication,
                            .name = "weights",
                            .bytes = bytes,
                            .begin = work.start(),
                            .end = work.end()});
  }
  work = Work();
}

}  // namespace

WholeGatherer::WholeGatherer(RankContext& context, Communicator& data, const FlatLayout& layout, Tensor weights)
    : context_(context),
      data_(data),
      layout_(layout),
      weights_(std::move(weights)),
      buckets_of_(BucketsByUnit(layout)),
      works_(layout.buckets().size()) {
  CHECK_EQ(weights_.elements(), layout.size());
}

WholeGatherer::~WholeGatherer() { WholeGatherer::FinishAll(); }

void WholeGatherer::StartGather() {
  FinishAll();
  if (data_.size() == 1) return;
  for (size_t b = layout_.buckets().size(); b-- > 0;) {
    const FlatLayout::Bucket& bucket = layout_.buckets()[b];
    const std::vector<int64_t> offsets = bucket.ShardOffsets(data_.size());
    const Elements weights = weights_.ref().At(bucket.offset);
    // Data axis: every rank has updated its own part of the bucket.
    works_[b] =
        data_.AllGather(weights.At(offsets[static_cast<size_t>(data_.rank())]), weights, offsets, {.tag = "weights"});
  }
}

void WholeGatherer::Enter(Tape& tape, int unit) {
  if (static_cast<size_t>(unit) >= buckets_of_.size()) return;
  for (const size_t b : buckets_of_[static_cast<size_t>(unit)]) WaitFor(b);
}

void WholeGatherer::FinishAll() {
  for (size_t b = 0; b < works_.size(); ++b) WaitFor(b);
}

void WholeGatherer::WaitFor(size_t b) {
  WaitForWeights(context_, works_[b], layout_.buckets()[b].count * SizeOf(weights_.dtype()));
}

// Identity on what a unit hands on. Every node of later units was created later, so when backward comes here those
// units are done, but for deferred weight gradients, which read no weights.
class ReenterNode : public Node {
 public:
  ReenterNode(UnitGatherer& gatherer, int unit) : Node(1), gatherer_(gatherer), unit_(unit) {}
  const char* name() const override { return "reenter unit"; }
  void Backward(RankContext& context) override {
    gatherer_.EnterFrom(unit_, UnitGatherer::Direction::kBackward);
    Deliver(context, 0, Grad());
  }

 private:
  UnitGatherer& gatherer_;
  const int unit_;
};

UnitGatherer::UnitGatherer(RankContext& context, Communicator& data, const FlatLayout& layout, Tensor shard,
                           std::span<const Range> parts)
    : context_(context),
      data_(data),
      layout_(layout),
      map_(layout, data.size(), data.rank()),
      shard_(std::move(shard)),
      parts_(parts.begin(), parts.end()),
      buckets_of_(BucketsByUnit(layout)),
      gathered_(layout.buckets().size()) {
  CHECK_EQ(shard_.elements(), map_.size());
}

UnitGatherer::~UnitGatherer() { ReleaseAllBut(std::nullopt); }

void UnitGatherer::StartGather() { ReleaseAllBut(std::nullopt); }

void UnitGatherer::Enter(Tape& tape, int unit) { EnterFrom(unit, Direction::kForward); }

Var UnitGatherer::Leave(Tape& tape, int unit, const Var& x) {
  Release(unit);
  if (!tape.Records({&x})) return x;
  return tape.Record(std::make_unique<ReenterNode>(*this, unit), {x}, {x.value()}, {})[0];
}

void UnitGatherer::EndBackward() { ReleaseAllBut(std::nullopt); }

void UnitGatherer::FinishAll() { ReleaseAllBut(std::nullopt); }

void UnitGatherer::EnterFrom(int unit, Direction direction) {
  ReleaseAllBut(unit);
  Start(unit);
  if (const std::optional<int> next = Next(unit, direction)) Start(*next);
  for (const size_t b : BucketsOf(unit)) WaitFor(b);
}

std::optional<int> UnitGatherer::Next(int unit, Direction direction) const {
  const auto holds = [](const Range& part, int u) { return part.begin <= u && u < part.end; };
  const auto part = std::find_if(parts_.begin(), parts_.end(), [&](const Range& range) { return holds(range, unit); });
  CHECK(part != parts_.end()) << "[unit gatherer] unit " << unit << " is in no part of this rank";
  const int next = unit + static_cast<int>(direction);
  return holds(*part, next) ? std::optional(next) : std::nullopt;
}

std::span<const size_t> UnitGatherer::BucketsOf(int unit) const {
  if (static_cast<size_t>(unit) >= buckets_of_.size()) return {};
  return buckets_of_[static_cast<size_t>(unit)];
}

void UnitGatherer::Start(int unit) {
  if (std::find(alive_.begin(), alive_.end(), unit) != alive_.end()) return;
  alive_.push_back(unit);
  CHECK_LE(alive_.size(), size_t{2}) << "[unit gatherer] units in memory";
  for (const size_t b : BucketsOf(unit)) {
    Gathered& gathered = gathered_[b];
    if (gathered.users++ > 0) continue;
    const FlatLayout::Bucket& bucket = layout_.buckets()[b];
    gathered.data = Tensor::Empty(context_.allocator(), {bucket.count}, shard_.dtype());
    bytes_ += gathered.data.bytes();
    peak_bytes_ = std::max(peak_bytes_, bytes_);
    for (size_t i = bucket.first_entry; i < bucket.end_entry; ++i) {
      const FlatLayout::Entry& entry = layout_.entries()[i];
      entry.parameter->value = FlatLayout::View(gathered.data, bucket.offset, entry);
    }
    // Data axis: every rank holds a part of the bucket.
    gathered.work = data_.AllGather(shard_.ref().At(map_.runs()[b].shard_begin), gathered.data.ref(),
                                    bucket.ShardOffsets(data_.size()), {.tag = "weights"});
  }
}

void UnitGatherer::WaitFor(size_t b) { WaitForWeights(context_, gathered_[b].work, gathered_[b].data.bytes()); }

void UnitGatherer::Release(int unit) {
  CHECK_EQ(std::erase(alive_, unit), size_t{1}) << "[unit gatherer] unit " << unit << " is not in memory";
  for (const size_t b : BucketsOf(unit)) {
    Gathered& gathered = gathered_[b];
    if (--gathered.users > 0) continue;
    WaitFor(b);  // the buffer must stay until the collective is done with it
    const FlatLayout::Bucket& bucket = layout_.buckets()[b];
    for (size_t i = bucket.first_entry; i < bucket.end_entry; ++i) {
      const FlatLayout::Entry& entry = layout_.entries()[i];
      entry.parameter->value = Tensor::Meta(entry.shape, shard_.dtype());
    }
    bytes_ -= gathered.data.bytes();
    gathered.data = Tensor();
  }
}

void UnitGatherer::ReleaseAllBut(std::optional<int> unit) {
  const std::vector<int> alive = alive_;
  for (const int other : alive) {
    if (other != unit) Release(other);
  }
}

}  // namespace shardit
