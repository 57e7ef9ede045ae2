#include "parallel/data/grad_reducer.h"

#include <algorithm>
#include <utility>

#include "core/tensor/accumulate.h"
#include "parallel/comm/timed_wait.h"

namespace shardit {

GradReducer::GradReducer(RankContext& context, Communicator& data, Communicator* tensor, const FlatLayout& layout,
                         Tensor grads, const GradReducerOptions& options)
    : context_(context),
      data_(data),
      tensor_(tensor != nullptr && tensor->size() > 1 ? tensor : nullptr),
      layout_(layout),
      shard_(layout, data.size(), data.rank()),
      grads_(std::move(grads)),
      options_(options),
      buckets_(layout.buckets().size()) {
  CHECK(0 <= options.zero_stage && options.zero_stage <= 3) << "[grad reducer] ZeRO stage " << options.zero_stage;
  CHECK_EQ(grads_.elements(), keeps_shard() ? shard_.size() : layout.size());
  grads_.Zero();  // padding is summed with the rest and must stay finite; parameters without gradient stay zero
  for (size_t b = 0; b < buckets_.size(); ++b) {
    const FlatLayout::Bucket& bucket = layout.buckets()[b];
    for (size_t i = bucket.first_entry; i < bucket.end_entry; ++i) {
      const FlatLayout::Entry& entry = layout.entries()[i];
      Parameter& parameter = *entry.parameter;
      if (!parameter.requires_grad) continue;
      leaves_[&parameter] = {.bucket = b, .entry = i};
      ++buckets_[b].trainable;
      parameter.grad = uses_rounds() ? Tensor() : layout.View(grads_, entry);
      parameter.grad_written = false;
      parameter.grad_source = uses_rounds() ? this : nullptr;
    }
  }
}

GradReducer::~GradReducer() {
  if (over_tensor_) over_tensor_->work.Wait();
  for (const Flight& flight : over_data_) flight.work.Wait();
  for (const FlatLayout::Entry& entry : layout_.entries()) {
    if (entry.parameter->grad_source == this) entry.parameter->grad_source = nullptr;
  }
}

int64_t GradReducer::VirtualShard(int zero_stage, int ranks, int rank, int64_t micro_batches, int64_t micro_batch) {
  return zero_stage >= 2 ? micro_batch * ranks + rank : rank * micro_batches + micro_batch;
}

void GradReducer::BeginStep(int micro_batches) {
  CHECK(!over_tensor_ && over_data_.empty()) << "[grad reducer] the last step has not finished";
  micro_batches_ = micro_batches;
  for (auto& [leaf, state] : leaves_) state.finals = 0;
  for (const FlatLayout::Entry& entry : layout_.entries()) entry.parameter->grad_written = false;
  for (BucketState& bucket : buckets_) {
    bucket.rounds_sent = bucket.rounds_reduced = bucket.rounds_summed = 0;
    bucket.behind = bucket.trainable;
    bucket.flat_ready = bucket.trainable == 0;
  }
  next_flat_ = 0;
  report_ = {};
}

GradReducer::LeafState* GradReducer::StateOf(const Leaf& leaf) {
  const auto found = leaves_.find(&leaf);
  return found == leaves_.end() ? nullptr : &found->second;
}

GradReducer::Round& GradReducer::RoundOf(const LeafState& state) {
  BucketState& bucket = buckets_[state.bucket];
  // A leaf may be ahead of its bucket while other gradients of an older micro-batch are deferred. To the plain sum it
  // does not matter which round carries a contribution, and the oldest needs no further buffer.
  const size_t ahead = options_.deterministic ? static_cast<size_t>(state.finals - bucket.rounds_sent) : 0;
  const FlatLayout::Bucket& range = layout_.buckets()[state.bucket];
  while (bucket.open.size() <= ahead) {
    bucket.open.push_back({.data = Tensor::Empty(context_.allocator(), {range.count}),
                           .provided = std::vector<bool>(range.end_entry - range.first_entry)});
  }
  return bucket.open[ahead];
}

void GradReducer::ProvideGrad(Leaf& leaf) {
  const LeafState* state = StateOf(leaf);
  CHECK(state != nullptr) << "[grad reducer] " << leaf.name << " is not in the layout";
  Round& round = RoundOf(*state);
  const FlatLayout::Bucket& range = layout_.buckets()[state->bucket];
  leaf.grad = FlatLayout::View(round.data, range.offset, layout_.entries()[state->entry]);
  leaf.grad_written = false;
  round.provided[state->entry - range.first_entry] = true;
}

void GradReducer::OnLeafFinal(Leaf& leaf) {
  LeafState* state = StateOf(leaf);
  if (state == nullptr) return;
  BucketState& bucket = buckets_[state->bucket];
  ++state->finals;
  CHECK_LE(state->finals, micro_batches_) << "[grad reducer] " << leaf.name << " is final too often";
  if (!uses_rounds()) {
    if (state->finals < micro_batches_ || --bucket.behind > 0) return;
    bucket.flat_ready = true;
    SendFlatInOrder();
    return;
  }
  if (options_.deterministic) {  // the next contribution starts the next round
    leaf.grad = Tensor();
    leaf.grad_written = false;
  }
  if (state->finals == bucket.rounds_sent + 1 && --bucket.behind == 0) SendRound(state->bucket);
}

void GradReducer::SendRound(size_t b) {
  BucketState& bucket = buckets_[b];
  CHECK(!bucket.open.empty()) << "[grad reducer] bucket " << b << " is final, and nobody wrote a gradient of it";
  Round round = std::move(bucket.open.front());
  bucket.open.pop_front();
  ZeroGaps(b, round);
  if (!options_.deterministic) ReleaseGrads(b);
  ++bucket.rounds_sent;
  const FlatLayout::Bucket& range = layout_.buckets()[b];
  for (size_t i = range.first_entry; i < range.end_entry; ++i) {
    const LeafState* state = StateOf(*layout_.entries()[i].parameter);
    if (state != nullptr && state->finals == bucket.rounds_sent) ++bucket.behind;
  }
  SendOverTensor({.bucket = b, .data = std::move(round.data)});
}

void GradReducer::ReleaseGrads(size_t b) {
  const FlatLayout::Bucket& range = layout_.buckets()[b];
  for (size_t i = range.first_entry; i < range.end_entry; ++i) {
    layout_.entries()[i].parameter->grad = Tensor();
    layout_.entries()[i].parameter->grad_written = false;
  }
}

void GradReducer::ZeroGaps(size_t b, const Round& round) const {
  const FlatLayout::Bucket& range = layout_.buckets()[b];
  for (size_t i = range.first_entry; i < range.end_entry; ++i) {
    const FlatLayout::Entry& entry = layout_.entries()[i];
    const int64_t begin = round.provided[i - range.first_entry] ? entry.end() : entry.offset;
    const int64_t end = i + 1 < range.end_entry ? layout_.entries()[i + 1].offset : range.end();
    round.data.Narrow(0, begin - range.offset, end - begin).Zero();
  }
}

void GradReducer::SendFlatInOrder() {
  for (; next_flat_ < buckets_.size() && buckets_[next_flat_].flat_ready; ++next_flat_) {
    if (buckets_[next_flat_].trainable == 0) continue;
    Flight flight{.bucket = next_flat_, .data = FlatBucket(next_flat_)};
    // In deterministic mode the rounds have been over the tensor axis.
    options_.deterministic ? SendOverData(std::move(flight)) : SendOverTensor(std::move(flight));
  }
}

void GradReducer::SendOverTensor(Flight flight) {
  AdvanceTensor();
  const FlatLayout::Bucket& bucket = layout_.buckets()[flight.bucket];
  if (tensor_ == nullptr || bucket.per_token.size() == 0) {
    AfterTensor(std::move(flight));
    return;
  }
  // Tensor axis: gradients of per-token parameters are sums over the rank's own tokens.
  const Elements data = flight.data.ref().At(bucket.per_token.begin - bucket.offset);
  flight.work = tensor_->AllReduce(data, data, bucket.per_token.size(), ReduceOp::kSum, {.tag = "token gradients"});
  over_tensor_ = std::move(flight);
  if (keeps_shard()) LimitOverData(kMaxInFlight - 1);
}

void GradReducer::AdvanceTensor() {
  if (!over_tensor_) return;
  Flight flight = std::move(*over_tensor_);
  over_tensor_.reset();
  WaitFor(flight.work);
  const int64_t bytes = layout_.buckets()[flight.bucket].per_token.size() * SizeOf(DType::kF32);
  if (flight.work.timed()) {
    context_.timeline().Add({.kind = SpanKind::kCommunication,
                             .name = "token gradients",
                             .bytes = bytes,
                             .begin = flight.work.start(),
                             .end = flight.work.end()});
  }
  AfterTensor(std::move(flight));
}

void GradReducer::AfterTensor(Flight flight) {
  if (keeps_shard() || !options_.deterministic) {
    SendOverData(std::move(flight));
    return;
  }
  BucketState& bucket = buckets_[flight.bucket];
  bucket.fold.Add(context_, std::move(flight.data));
  if (++bucket.rounds_summed < micro_batches_) return;
  FlatBucket(flight.bucket).CopyFrom(bucket.fold.Take(context_));
  bucket.flat_ready = true;
  SendFlatInOrder();
}

void GradReducer::SendOverData(Flight flight) {
  const FlatLayout::Bucket& bucket = layout_.buckets()[flight.bucket];
  if (data_.size() == 1 && !keeps_shard()) return;
  flight.trace.issued = std::chrono::steady_clock::now();
  flight.trace.bytes = bucket.bytes();
  if (!finishing_ && data_.size() > 1) report_.overlapped_bytes += flight.trace.bytes;
  const Elements data = flight.data.ref();
  // Data axis: every rank's gradient is that of its own samples.
  if (options_.zero_stage == 0) {
    flight.work = data_.AllReduce(data, data, bucket.count, ReduceOp::kSum, {.tag = "gradients"});
  } else {
    const std::vector<int64_t> offsets = bucket.ShardOffsets(data_.size());
    flight.part = flight.data.Narrow(0, offsets[static_cast<size_t>(data_.rank())], shard_.runs()[flight.bucket].count);
    if (keeps_shard()) {
      BucketState& state = buckets_[flight.bucket];
      // The first round overwrites the shard, where nothing has to be kept apart.
      const bool in_place = state.rounds_reduced++ == 0 && (!options_.deterministic || micro_batches_ == 1);
      flight.part = in_place ? ShardOf(flight.bucket) : Tensor::Empty(context_.allocator(), flight.part.shape());
    }
    flight.work = data_.ReduceScatter(data, flight.part.ref(), offsets, {.tag = "gradients"});
  }
  over_data_.push_back(std::move(flight));
  if (keeps_shard()) LimitOverData(kMaxInFlight);
}

void GradReducer::LimitOverData(size_t flights) {
  while (!over_data_.empty() && (over_data_.size() > flights || over_data_.front().work.Done())) {
    const Flight flight = std::move(over_data_.front());
    over_data_.pop_front();
    WaitFor(flight.work);
    AfterData(flight);
  }
}

void GradReducer::AfterData(const Flight& flight) {
  BucketTrace trace = flight.trace;
  trace.started = flight.work.start();
  trace.ended = flight.work.end();
  if (data_.size() > 1) {
    report_.bytes += trace.bytes;
    report_.buckets.push_back(trace);
    if (flight.work.timed()) {
      context_.timeline().Add({.kind = SpanKind::kCommunication,
                               .name = "gradients",
                               .bytes = trace.bytes,
                               .begin = trace.started,
                               .end = trace.ended});
    }
  }
  if (keeps_shard()) AddPart(flight.bucket, flight.part);
}

void GradReducer::AddPart(size_t b, const Tensor& part) {
  BucketState& bucket = buckets_[b];
  const bool last = ++bucket.rounds_summed == micro_batches_;
  if (!options_.deterministic) {
    if (bucket.rounds_summed > 1) Accumulate(context_, ShardOf(b), part);
  } else if (micro_batches_ > 1) {
    bucket.fold.Add(context_, part);
    if (last) ShardOf(b).CopyFrom(bucket.fold.Take(context_));
  }
}

ReduceReport GradReducer::Finish() {
  for (const auto& [leaf, state] : leaves_) {
    CHECK_EQ(state.finals, micro_batches_) << "[grad reducer] times that " << leaf->name << " was final in the step";
  }
  finishing_ = true;
  AdvanceTensor();
  LimitOverData(0);
  finishing_ = false;
  return std::move(report_);
}

void GradReducer::WaitFor(const Work& work) {
  if (!work.Done()) TimedWait(context_, work, "gradients");
}

Tensor GradReducer::FlatBucket(size_t b) const {
  const FlatLayout::Bucket& bucket = layout_.buckets()[b];
  return grads_.Narrow(0, bucket.offset, bucket.count);
}

Tensor GradReducer::ShardOf(size_t b) const {
  const ShardMap::Run& run = shard_.runs()[b];
  return grads_.Narrow(0, run.shard_begin, run.count);
}

}  // namespace shardit
