#include "trainer/trace/step_figures.h"

#include <algorithm>
#include <map>
#include <utility>

namespace shardit {
namespace {

using Interval = std::pair<int64_t, int64_t>;

bool IsPass(SpanKind kind) {
  return kind == SpanKind::kForward || kind == SpanKind::kBackward || kind == SpanKind::kWeights;
}

// Disjoint and ascending, with the same union.
std::vector<Interval> Union(std::vector<Interval> intervals) {
  std::sort(intervals.begin(), intervals.end());
  std::vector<Interval> merged;
  for (const Interval& interval : intervals) {
    if (!merged.empty() && interval.first <= merged.back().second) {
      merged.back().second = std::max(merged.back().second, interval.second);
    } else {
      merged.push_back(interval);
    }
  }
  return merged;
}

int64_t Length(const std::vector<Interval>& disjoint) {
  int64_t length = 0;
  for (const Interval& interval : disjoint) length += interval.second - interval.first;
  return length;
}

int64_t CommonLength(const std::vector<Interval>& a, const std::vector<Interval>& b) {
  int64_t length = 0;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    length += std::max<int64_t>(0, std::min(a[i].second, b[j].second) - std::max(a[i].first, b[j].first));
    a[i].second < b[j].second ? ++i : ++j;
  }
  return length;
}

// One step of one rank.
struct Activity {
  std::vector<Interval> passes, waits, communication;

  void Add(const TraceSpan& span) {
    if (IsPass(span.kind)) passes.push_back({span.begin, span.end});
    if (span.kind == SpanKind::kWait) waits.push_back({span.begin, span.end});
    if (span.kind == SpanKind::kCommunication) communication.push_back({span.begin, span.end});
  }
};

StepFigures FiguresOfStep(int64_t step, const std::vector<Activity>& ranks) {
  StepFigures figures{.step = step};
  int64_t first = INT64_MAX, last = INT64_MIN, busy = 0, under_way = 0, blocked = 0;
  for (const Activity& activity : ranks) {
    for (const Interval& pass : activity.passes) {
      first = std::min(first, pass.first);
      last = std::max(last, pass.second);
    }
    const std::vector<Interval> waits = Union(activity.waits), communication = Union(activity.communication);
    busy += Length(Union(activity.passes));
    under_way += Length(communication);
    blocked += CommonLength(communication, waits);
    figures.exposed_ms.push_back(1e-6 * static_cast<double>(Length(waits)));
  }
  const double whole = static_cast<double>(last - first) * static_cast<double>(ranks.size());
  figures.ms = 1e-6 * static_cast<double>(last - first);
  if (whole > 0) figures.idle_share = 1 - static_cast<double>(busy) / whole;
  if (busy > 0) figures.bubble = whole / static_cast<double>(busy) - 1;
  if (under_way > 0) figures.overlap_share = 1 - static_cast<double>(blocked) / static_cast<double>(under_way);
  return figures;
}

}  // namespace

std::vector<StepFigures> FiguresOf(const std::vector<RankTrace>& ranks) {
  std::map<int64_t, std::vector<Activity>> steps;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    for (const TraceSpan& span : ranks[rank].spans) {
      std::vector<Activity>& activities = steps[span.step];
      activities.resize(ranks.size());
      activities[rank].Add(span);
    }
  }
  std::vector<StepFigures> figures;
  for (const auto& [step, activities] : steps) {
    const bool has_pass =
        std::any_of(activities.begin(), activities.end(), [](const Activity& rank) { return !rank.passes.empty(); });
    if (has_pass) figures.push_back(FiguresOfStep(step, activities));
  }
  return figures;
}

}  // namespace shardit
