#include "data/loader.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "core/tensor/rng.h"

namespace shardit {
namespace {

absl::Status CheckOptions(const LoaderOptions& options) {
  const auto refuse = [](const std::string& text) {
    return absl::InvalidArgumentError(absl::StrCat("loader: ", text));
  };
  if (options.dp_size < 1 || options.dp_rank < 0 || options.dp_rank >= options.dp_size) {
    return refuse(absl::StrCat("expected a rank in [0, ", options.dp_size, "), got ", options.dp_rank));
  }
  if (options.global_batch < 1 || options.global_batch % options.dp_size != 0) {
    return refuse(absl::StrCat("expected a global batch that ", options.dp_size, " data-parallel ranks divide, got ",
                               options.global_batch, "; change train.global_batch or parallel.dp"));
  }
  if (options.run < 0 || (options.run > 0 && options.global_batch / options.dp_size % options.run != 0)) {
    return refuse(absl::StrCat("expected runs that divide a rank's ", options.global_batch / options.dp_size,
                               " samples, got runs of ", options.run));
  }
  if (options.prefetch < 1 || options.prefetch > 1024) {
    return refuse(absl::StrCat("expected a prefetch depth in [1, 1024], got ", options.prefetch));
  }
  if (options.start_step < 0 || !CheckedMul(options.start_step + 1, options.global_batch).has_value()) {
    return refuse(absl::StrCat("start step ", options.start_step, " is out of range"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Loader>> Loader::Create(std::shared_ptr<const Dataset> dataset,
                                                       const LoaderOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(SampleReader reader, SampleReader::Make(*dataset));
  std::unique_ptr<Loader> loader(new Loader(std::move(dataset), options, std::move(reader)));
  RETURN_IF_ERROR(loader->AllocateRing());
  loader->thread_ = std::thread([raw = loader.get()] { raw->ReadAhead(); });
  return loader;
}

Loader::Loader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options, SampleReader reader)
    : dataset_(std::move(dataset)),
      options_(options),
      reader_(std::move(reader)),
      stream_(options.seed, dataset_->size()),
      filled_(options.start_step),
      taken_(options.start_step) {}

Loader::~Loader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  slot_free_.notify_all();
  if (thread_.joinable()) thread_.join();
}

absl::Status Loader::AllocateRing() {
  const int64_t count = local_batch();
  const auto values = CheckedMul(count, dataset_->shape().elements() * static_cast<int64_t>(sizeof(float)));
  if (!values.has_value()) return absl::InvalidArgumentError("loader: the batch has more bytes than can be counted");
  ring_.resize(static_cast<size_t>(options_.prefetch) + 1);
  for (Slot& slot : ring_) {
    ASSIGN_OR_RETURN(slot.x, AlignedBuffer<float>::Make(count * dataset_->shape().elements(), "a batch of latents"));
    ASSIGN_OR_RETURN(slot.y, AlignedBuffer<int32_t>::Make(count, "a batch of labels"));
    ASSIGN_OR_RETURN(slot.sample_ids, AlignedBuffer<int64_t>::Make(count, "a batch of sample ids"));
    ASSIGN_OR_RETURN(slot.positions, AlignedBuffer<int64_t>::Make(count, "a batch of positions"));
    const auto span = [](const auto& buffer) { return std::span(buffer.data(), static_cast<size_t>(buffer.size())); };
    slot.batch.x = span(std::as_const(slot.x));
    slot.batch.y = span(std::as_const(slot.y));
    slot.batch.sample_ids = span(std::as_const(slot.sample_ids));
    slot.batch.positions = span(std::as_const(slot.positions));
  }
  return absl::OkStatus();
}

void Loader::ReadAhead() {
  std::unique_lock lock(mutex_);
  while (true) {
    // A slot is free once its last step was handed back: the consumer still holds step taken_ - 1.
    slot_free_.wait(lock, [&] { return stop_ || filled_ - taken_ < options_.prefetch; });
    if (stop_) return;
    const int64_t step = filled_;
    Slot& slot = ring_[static_cast<size_t>(step) % ring_.size()];
    lock.unlock();
    slot.status = Fill(step, slot);
    const bool failed = !slot.status.ok();
    lock.lock();
    ++filled_;
    slot_ready_.notify_one();
    if (failed) return;
  }
}

absl::Status Loader::Fill(int64_t step, Slot& slot) {
  const int64_t count = local_batch();
  const int64_t elements = dataset_->shape().elements();
  const int64_t run = options_.run == 0 ? count : options_.run;
  slot.batch.step = step;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t run_index = (i / run) * options_.dp_size + options_.dp_rank;
    const auto position = static_cast<uint64_t>(step * options_.global_batch + run_index * run + i % run);
    const int64_t sample = stream_.SampleAt(position);
    const bool mirror = options_.flip && (RngKey{options_.seed, RngPurpose::kFlip, position}.Word(0) >> 31) != 0;
    RETURN_IF_ERROR(reader_.Read(sample, {options_.seed, position, mirror}, slot.x.data() + i * elements));
    slot.y.data()[i] = dataset_->label(sample);
    slot.sample_ids.data()[i] = sample;
    slot.positions.data()[i] = static_cast<int64_t>(position);
    if (stop_.load(std::memory_order_relaxed)) return absl::CancelledError("loader: stopped");
  }
  return absl::OkStatus();
}

absl::StatusOr<const Batch*> Loader::Next() {
  const auto start = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  slot_ready_.wait(lock, [&] { return filled_ > taken_; });
  Slot& slot = ring_[static_cast<size_t>(taken_) % ring_.size()];
  if (!slot.status.ok()) return slot.status;
  ++taken_;
  slot_free_.notify_one();
  slot.batch.wait_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return &slot.batch;
}

}  // namespace shardit
