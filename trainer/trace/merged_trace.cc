#include "trainer/trace/merged_trace.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/check.h"
#include "parallel/comm/agree_status.h"
#include "trainer/trace/clock_offset.h"

namespace shardit {
namespace {

constexpr CallSite kSite{.tag = "trace", .control = true};

int64_t Nanoseconds(Span::Time time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

// What a span is between ranks, followed by the bytes of its name. All ranks run one binary.
struct WireSpan {
  SpanKind kind;
  int32_t micro_batch, part;
  int32_t name_bytes;
  int64_t step, bytes, begin, end;
};

std::string Pack(const Timeline& timeline, const std::string& label) {
  std::string packed;
  const auto append = [&](std::string_view name, WireSpan wire) {
    wire.name_bytes = static_cast<int32_t>(name.size());
    packed.append(reinterpret_cast<const char*>(&wire), sizeof(wire));
    packed.append(name);
  };
  append(label, {});
  for (const Span& span : timeline.spans()) {
    append(span.name, {.kind = span.kind,
                       .micro_batch = span.micro_batch,
                       .part = span.part,
                       .step = span.step,
                       .bytes = span.bytes,
                       .begin = Nanoseconds(span.begin),
                       .end = Nanoseconds(span.end)});
  }
  return packed;
}

RankTrace Unpack(std::string_view packed, int64_t clock_offset) {
  RankTrace trace;
  for (bool is_label = true; !packed.empty(); is_label = false) {
    WireSpan wire;
    CHECK_GE(packed.size(), sizeof(wire));
    std::memcpy(&wire, packed.data(), sizeof(wire));
    packed.remove_prefix(sizeof(wire));
    CHECK_GE(packed.size(), static_cast<size_t>(wire.name_bytes));
    std::string name(packed.substr(0, wire.name_bytes));
    packed.remove_prefix(wire.name_bytes);
    if (is_label) {
      trace.label = std::move(name);
      continue;
    }
    trace.spans.push_back({.kind = wire.kind,
                           .name = std::move(name),
                           .step = wire.step,
                           .micro_batch = wire.micro_batch,
                           .part = wire.part,
                           .bytes = wire.bytes,
                           .begin = wire.begin + clock_offset,
                           .end = wire.end + clock_offset});
  }
  return trace;
}

// Rows of a process; communication takes as many from kCommunicationRow on as it needs.
enum Row { kComputeRow = 0, kWaitRow = 1, kCommunicationRow = 2 };

Row RowOf(SpanKind kind) {
  switch (kind) {
    case SpanKind::kForward:
    case SpanKind::kBackward:
    case SpanKind::kWeights:
    case SpanKind::kUpdate:
      return kComputeRow;
    case SpanKind::kWait:
    case SpanKind::kDataWait:
    case SpanKind::kSave:
      return kWaitRow;
    case SpanKind::kCommunication:
      return kCommunicationRow;
  }
  return kComputeRow;
}

std::string_view Category(SpanKind kind) {
  switch (kind) {
    case SpanKind::kForward:
      return "forward";
    case SpanKind::kBackward:
      return "backward";
    case SpanKind::kWeights:
      return "weights";
    case SpanKind::kUpdate:
      return "update";
    case SpanKind::kCommunication:
      return "communication";
    case SpanKind::kWait:
      return "wait";
    case SpanKind::kDataWait:
      return "data wait";
    case SpanKind::kSave:
      return "save";
  }
  return "";
}

// Names and labels are identifiers and literals of ours: nothing in them needs escaping.
std::string Named(int rank, int row, std::string_view what, std::string_view name) {
  return absl::StrFormat(R"({"ph":"M","pid":%d,"tid":%d,"name":"%s","args":{"name":"%s"}})", rank, row, what, name);
}

std::string Event(int rank, int row, const TraceSpan& span, int64_t origin) {
  std::string args = absl::StrCat("\"step\":", span.step);
  if (span.micro_batch >= 0) absl::StrAppend(&args, ",\"micro_batch\":", span.micro_batch);
  if (span.part >= 0) absl::StrAppend(&args, ",\"part\":", span.part);
  if (row >= kCommunicationRow) absl::StrAppend(&args, ",\"bytes\":", span.bytes);
  return absl::StrFormat(R"({"ph":"X","pid":%d,"tid":%d,"cat":"%s","name":"%s","ts":%.3f,"dur":%.3f,"args":{%s}})",
                         rank, row, Category(span.kind), span.name, 1e-3 * static_cast<double>(span.begin - origin),
                         1e-3 * static_cast<double>(span.end - span.begin), args);
}

void AppendRank(int rank, const RankTrace& trace, int64_t origin, std::vector<std::string>& events) {
  events.push_back(Named(rank, 0, "process_name", trace.label));
  events.push_back(Named(rank, kComputeRow, "thread_name", "compute"));
  events.push_back(Named(rank, kWaitRow, "thread_name", "waits"));
  std::vector<const TraceSpan*> spans;
  for (const TraceSpan& span : trace.spans) spans.push_back(&span);
  std::stable_sort(spans.begin(), spans.end(), [](auto* a, auto* b) { return a->begin < b->begin; });
  std::vector<int64_t> busy_until;  // by row of communication: viewers want events of a row disjoint
  for (const TraceSpan* span : spans) {
    int row = RowOf(span->kind);
    if (row == kCommunicationRow) {
      const auto free =
          std::find_if(busy_until.begin(), busy_until.end(), [&](int64_t end) { return end <= span->begin; });
      row += static_cast<int>(free - busy_until.begin());
      if (free == busy_until.end()) {
        busy_until.push_back(span->end);
        events.push_back(Named(rank, row, "thread_name", "communication"));
      } else {
        *free = span->end;
      }
    }
    events.push_back(Event(rank, row, *span, origin));
  }
}

std::string FiguresJson(const StepFigures& figures) {
  const auto ms = [](std::string* out, double value) { absl::StrAppendFormat(out, "%.3f", value); };
  return absl::StrFormat(
      R"({"step":%d,"ms":%.3f,"idle_share":%.6f,"bubble":%.6f,"overlap_share":%.6f,"exposed_ms":[%s]})", figures.step,
      figures.ms, figures.idle_share, figures.bubble, figures.overlap_share,
      absl::StrJoin(figures.exposed_ms, ",", ms));
}

}  // namespace

std::vector<RankTrace> GatherTraces(Communicator& control, const Timeline& mine, const std::string& label) {
  const std::vector<int64_t> offsets =
      ClockOffsets(control, SteadyClockId(), [] { return Nanoseconds(std::chrono::steady_clock::now()); });
  const std::vector<std::string> packed = control.GatherBytes(Pack(mine, label), 0, kSite);
  std::vector<RankTrace> ranks;
  for (size_t rank = 0; rank < packed.size(); ++rank) ranks.push_back(Unpack(packed[rank], offsets[rank]));
  return ranks;
}

std::string ChromeTrace(const std::vector<RankTrace>& ranks) {
  int64_t origin = INT64_MAX;
  for (const RankTrace& rank : ranks) {
    for (const TraceSpan& span : rank.spans) origin = std::min(origin, span.begin);
  }
  std::vector<std::string> events, figures;
  for (size_t rank = 0; rank < ranks.size(); ++rank) AppendRank(static_cast<int>(rank), ranks[rank], origin, events);
  for (const StepFigures& step : FiguresOf(ranks)) figures.push_back(FiguresJson(step));
  return absl::StrCat("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n", absl::StrJoin(events, ",\n"),
                      "\n],\"figures\":[\n", absl::StrJoin(figures, ",\n"), "\n]}\n");
}

absl::StatusOr<std::vector<StepFigures>> WriteMergedTrace(Communicator& control, const Timeline& mine, FileSystem& fs,
                                                          const std::string& path) {
  const std::string& identity = ThreadIdentity();
  const std::vector<RankTrace> ranks =
      GatherTraces(control, mine, identity.empty() ? absl::StrCat("rank ", control.rank()) : identity);
  absl::Status written;
  if (control.rank() == 0) written = AtomicWriteFile(fs, path, ChromeTrace(ranks));
  const absl::Status agreed = AgreeStatus(control, written);
  if (!agreed.ok()) return agreed;
  return FiguresOf(ranks);
}

}  // namespace shardit
