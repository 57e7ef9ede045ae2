#include "trainer/train/step_trace.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shardit {
namespace {

enum Row { kCompute = 0, kGradients = 1 };

double Microseconds(StepReport::Time time) {
  return std::chrono::duration<double, std::micro>(time.time_since_epoch()).count();
}

std::string Span(int rank, Row row, const std::string& name, StepReport::Time begin, StepReport::Time end, int64_t step,
                 int64_t bytes) {
  // Fixed point: six significant digits, as StrCat gives, are too few for a clock.
  char times[80];
  std::snprintf(times, sizeof(times), "\"ts\":%.3f,\"dur\":%.3f", Microseconds(begin),
                Microseconds(end) - Microseconds(begin));
  return absl::StrCat("{\"ph\":\"X\",\"pid\":", rank, ",\"tid\":", static_cast<int>(row), ",\"name\":\"", name, "\",",
                      times, ",\"args\":{\"step\":", step, ",\"bytes\":", bytes, "}}");
}

std::string RowName(int rank, Row row, const char* name) {
  return absl::StrCat("{\"ph\":\"M\",\"pid\":", rank, ",\"tid\":", static_cast<int>(row),
                      ",\"name\":\"thread_name\",\"args\":{\"name\":\"", name, "\"}}");
}

}  // namespace

void StepTrace::Add(int64_t step, const StepReport& report) {
  if (steps_.size() == kSteps) steps_.pop_front();
  steps_.push_back({step, report});
}

absl::Status StepTrace::Write(FileSystem& fs, const std::string& path) const {
  std::vector<std::string> events{RowName(rank_, kCompute, "compute"), RowName(rank_, kGradients, "dp all-reduce")};
  for (const auto& [step, report] : steps_) {
    events.push_back(Span(rank_, kCompute, "forward", report.begin, report.forward_end, step, 0));
    events.push_back(Span(rank_, kCompute, "backward", report.forward_end, report.backward_end, step, 0));
    events.push_back(Span(rank_, kCompute, "reduce wait and update", report.backward_end, report.end, step, 0));
    for (const BucketTrace& bucket : report.reduce.buckets) {
      events.push_back(Span(rank_, kGradients, "bucket", bucket.started, bucket.ended, step, bucket.bytes));
    }
  }
  return AtomicWriteFile(fs, path, absl::StrCat("{\"traceEvents\":[\n", absl::StrJoin(events, ",\n"), "\n]}\n"));
}

}  // namespace shardit
