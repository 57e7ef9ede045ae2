#include "trainer/checkpoint/async_checkpointer.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "core/base/check.h"
#include "core/base/status_macros.h"

namespace shardit {
namespace {

using Clock = std::chrono::steady_clock;

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

int64_t ElementsOf(std::span<const SliceRef> slices) {
  int64_t elements = 0;
  for (const SliceRef& slice : slices) elements += Volume(slice.box);
  return elements;
}

}  // namespace

AsyncCheckpointer::AsyncCheckpointer(CheckpointWriter writer, bool async) : writer_(std::move(writer)), async_(async) {}

AsyncCheckpointer::~AsyncCheckpointer() {
  if (thread_.joinable()) thread_.join();
}

void AsyncCheckpointer::Save(const RunState& state, std::span<const SliceRef> slices, Clock::time_point stalled_since) {
  CHECK(!started_) << "[AsyncCheckpointer] nobody asked how the save before ended";
  started_ = true;
  if (async_) {
    Snapshot(slices);
  } else {
    Write(state, slices);
  }
  stall_ms_ = MillisecondsSince(stalled_since);
  if (!async_) return;
  ended_ = false;
  thread_ = std::thread([this, state, identity = ThreadIdentity()] {
    SetThreadIdentity(identity);
    Write(state, owned_);
    ended_ = true;
  });
}

absl::Status AsyncCheckpointer::Poll() { return ended_ ? Wait() : absl::OkStatus(); }

absl::Status AsyncCheckpointer::Wait() {
  if (!started_) return absl::OkStatus();
  started_ = false;
  if (thread_.joinable()) thread_.join();
  if (!result_.ok()) return result_.status();
  report_ = CheckpointTiming{*result_, stall_ms_, write_ms_, buffer_elements_ * static_cast<int64_t>(sizeof(float))};
  return absl::OkStatus();
}

std::optional<CheckpointTiming> AsyncCheckpointer::TakeReport() { return std::exchange(report_, std::nullopt); }

void AsyncCheckpointer::HoldElements(std::span<const SliceRef> slices) {
  const int64_t elements = ElementsOf(slices);
  if (elements <= buffer_elements_) return;
  buffer_ = HostBuffer();  // before the new one exists: one copy is the bound
  // What is fetched comes from a device, which writes to pinned memory at full speed.
  const bool pinned = std::any_of(slices.begin(), slices.end(), [](const SliceRef& s) { return s.data == nullptr; });
  buffer_ = HostBuffer(elements * static_cast<int64_t>(sizeof(float)), pinned);
  buffer_elements_ = elements;
}

void AsyncCheckpointer::Reserve(std::span<const SliceRef> slices) {
  if (!async_) return;
  CHECK(!thread_.joinable()) << "[AsyncCheckpointer] Reserve comes before the first save";
  HoldElements(slices);
  std::fill_n(buffer_.as<float>(), ElementsOf(slices), 0.0f);
}

void AsyncCheckpointer::Snapshot(std::span<const SliceRef> slices) {
  HoldElements(slices);
  owned_.assign(slices.begin(), slices.end());
  float* to = buffer_.as<float>();
  for (SliceRef& slice : owned_) {
    const int64_t count = Volume(slice.box);
    if (slice.data != nullptr) {
      std::memcpy(to, slice.data, static_cast<size_t>(count) * sizeof(float));
    } else {
      for (int64_t begin = 0; begin < count; begin += SliceRef::kReadElements) {
        const absl::Status read = slice.read(begin, std::min(SliceRef::kReadElements, count - begin), to + begin);
        CHECK(read.ok()) << "[AsyncCheckpointer] " << slice.name << ": " << read.message();
      }
    }
    slice.data = to;
    to += count;
  }
}

void AsyncCheckpointer::Write(const RunState& state, std::span<const SliceRef> slices) {
  const Clock::time_point start = Clock::now();
  result_ = writer_.Save(state, slices);
  write_ms_ = MillisecondsSince(start);
}

}  // namespace shardit
