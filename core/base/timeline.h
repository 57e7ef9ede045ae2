// Timeline: what one rank did when, as spans: compute phases, waits and collectives, for the merged trace and for the
// figures computed from it (pipeline bubble, exposed communication). Spans are kept when enabled; the time spent in
// waits is summed always.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "core/base/cost_recorder.h"

namespace shardit {

enum class SpanKind : uint8_t {
  kForward,        // of one micro-batch on one model part
  kBackward,       // the part that the previous stage waits for; all of it where weights are not deferred
  kWeights,        // deferred weight gradients
  kUpdate,         // norm, optimizer, EMA
  kCommunication,  // a collective or message under way, on the communication thread
  kWait,           // compute thread blocked on communication
  kDataWait,       // compute thread blocked on the loader
  kSave,           // compute thread blocked on a checkpoint
};

struct Span {
  using Time = std::chrono::steady_clock::time_point;
  SpanKind kind = SpanKind::kForward;
  const char* name = "";     // string literal: "forward", "recv tokens", "gradients"
  int64_t step = -1;         // filled in by Timeline
  int32_t micro_batch = -1;  // -1: none
  int32_t part = -1;         // model part (virtual stage) of the rank; -1: none
  int64_t bytes = 0;         // of communication
  Time begin{}, end{};
};

// One owner thread (the rank's compute thread). Keeps the spans of the newest kSteps steps.
class Timeline {
 public:
  static constexpr int64_t kSteps = 16;

  bool enabled() const { return enabled_; }
  void Enable() { enabled_ = true; }
  // Times are those of a planned step from here on: seconds of `plan`, which outlives the timeline.
  void UseClock(const CostRecorder* plan) { plan_ = plan; }
  Span::Time Now() const {
    if (plan_ == nullptr) return std::chrono::steady_clock::now();
    return Span::Time(
        std::chrono::duration_cast<Span::Time::duration>(std::chrono::duration<double>(plan_->seconds())));
  }
  // Spans added from here on belong to step `step`; spans of steps before step - kSteps + 1 are dropped. Nothing where
  // that step has begun.
  void BeginStep(int64_t step);
  void Add(Span span);
  const std::vector<Span>& spans() const { return spans_; }
  // Milliseconds of this step's kWait spans so far, enabled or not: exposed communication.
  double waited_ms() const { return std::chrono::duration<double, std::milli>(waited_).count(); }

 private:
  friend class TimedSpan;

  bool enabled_ = false;
  Span::Time::duration waited_{};
  const CostRecorder* plan_ = nullptr;
  int64_t step_ = -1;
  std::vector<Span> spans_;
};

// Adds a span from its construction to its destruction.
class TimedSpan {
 public:
  TimedSpan(Timeline& timeline, SpanKind kind, const char* name, int32_t micro_batch = -1, int32_t part = -1)
      : timeline_(timeline), span_{.kind = kind, .name = name, .micro_batch = micro_batch, .part = part} {
    if (is_timed()) span_.begin = timeline_.Now();
  }
  ~TimedSpan() {
    if (!is_timed()) return;
    span_.end = timeline_.Now();
    if (span_.kind == SpanKind::kWait) timeline_.waited_ += span_.end - span_.begin;
    timeline_.Add(span_);
  }
  TimedSpan(const TimedSpan&) = delete;
  TimedSpan& operator=(const TimedSpan&) = delete;

 private:
  bool is_timed() const { return timeline_.enabled() || span_.kind == SpanKind::kWait; }

  Timeline& timeline_;
  Span span_;
};

}  // namespace shardit
