#include "parallel/data/grad_reducer.h"

#include <utility>

namespace shardit {

GradReducer::GradReducer(Communicator& axis, const FlatLayout& layout, Tensor grads, int64_t bucket_bytes)
    : axis_(axis), layout_(layout), grads_(std::move(grads)) {
  CHECK_EQ(grads_.elements(), layout.size());
  grads_.Zero();  // the padding between parameters is summed with the rest and must stay finite
  for (const FlatLayout::Bucket& range : layout.Buckets(bucket_bytes)) {
    for (size_t i = range.first_entry; i < range.end_entry; ++i) {
      const FlatLayout::Entry& entry = layout.entries()[i];
      entry.parameter->grad = layout.View(grads_, entry);
      bucket_of_[entry.parameter] = buckets_.size();
    }
    buckets_.push_back({.range = range});
  }
}

void GradReducer::BeginStep(int micro_batches) {
  for (const FlatLayout::Entry& entry : layout_.entries()) {
    entry.parameter->grad_written = false;
    remaining_[entry.parameter] = micro_batches;
  }
  for (BucketState& bucket : buckets_) {
    bucket.pending = static_cast<int64_t>(bucket.range.end_entry - bucket.range.first_entry);
  }
  next_bucket_ = 0;
}

void GradReducer::OnLeafFinal(Leaf& leaf) {
  const auto bucket = bucket_of_.find(&leaf);
  if (bucket == bucket_of_.end() || --remaining_[&leaf] > 0) return;
  --buckets_[bucket->second].pending;
  IssueReadyBuckets();
}

void GradReducer::IssueReadyBuckets() {
  for (; next_bucket_ < buckets_.size() && buckets_[next_bucket_].pending == 0; ++next_bucket_) {
    BucketState& bucket = buckets_[next_bucket_];
    bucket.trace.issued = std::chrono::steady_clock::now();
    bucket.trace.bytes = bucket.range.count * SizeOf(DType::kF32);
    if (axis_.size() == 1) continue;
    float* data = grads_.data() + bucket.range.offset;
    bucket.work = axis_.AllReduce(data, data, bucket.range.count, ReduceOp::kSum, {.tag = "gradients"});
  }
}

ReduceReport GradReducer::Finish() {
  const auto backward_end = std::chrono::steady_clock::now();
  const size_t issued_in_backward = next_bucket_;
  for (const FlatLayout::Entry& entry : layout_.entries()) {
    if (!entry.parameter->grad_written) entry.parameter->grad.Zero();
  }
  for (BucketState& bucket : buckets_) bucket.pending = 0;
  IssueReadyBuckets();

  ReduceReport report;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    BucketState& bucket = buckets_[i];
    bucket.work.Wait();
    if (axis_.size() == 1) continue;
    bucket.trace.started = bucket.work.start();
    bucket.trace.ended = bucket.work.end();
    report.bytes += bucket.trace.bytes;
    if (i < issued_in_backward && bucket.trace.started < backward_end) report.overlapped_bytes += bucket.trace.bytes;
    report.buckets.push_back(bucket.trace);
    bucket.work = Work();
  }
  report.exposed_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - backward_end).count();
  return report;
}

}  // namespace shardit
