#include "parallel/comm/collective_log.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace shardit {
namespace {

double MsBefore(CollectiveRecord::Time now, CollectiveRecord::Time then) {
  return std::chrono::duration<double, std::milli>(now - then).count();
}

}  // namespace

std::string Format(const CollectiveRecord& record, CollectiveRecord::Time now) {
  std::string line = absl::StrFormat("#%d %s[%d] %s", record.number, record.comm, record.sequence, Name(record.kind));
  if (record.peer >= 0) absl::StrAppend(&line, " peer ", record.peer);
  absl::StrAppend(&line, " ", record.bytes, " bytes");
  if (record.site[0] != '\0') absl::StrAppend(&line, " at ", record.site);
  if (record.control) absl::StrAppend(&line, " (control)");
  absl::StrAppendFormat(&line, " issued %.3f ms ago", MsBefore(now, record.issued));
  if (record.started()) absl::StrAppendFormat(&line, ", started %.3f", MsBefore(now, record.start));
  absl::StrAppend(&line, record.done() ? absl::StrFormat(", done %.3f", MsBefore(now, record.end)) : ", not done");
  return line;
}

CollectiveLog::CollectiveLog() : ring_(kSize) {}

int64_t CollectiveLog::Issue(CollectiveRecord record) {
  std::lock_guard<std::mutex> lock(mutex_);
  record.number = issued_++;
  record.issued = std::chrono::steady_clock::now();
  ring_[record.number % kSize] = std::move(record);
  return issued_ - 1;
}

void CollectiveLog::Start(int64_t number, CollectiveRecord::Time time) {
  std::lock_guard<std::mutex> lock(mutex_);
  CollectiveRecord& record = ring_[number % kSize];
  if (record.number == number) record.start = time;
}

void CollectiveLog::End(int64_t number, CollectiveRecord::Time time) {
  std::lock_guard<std::mutex> lock(mutex_);
  CollectiveRecord& record = ring_[number % kSize];
  if (record.number == number) record.end = time;
}

std::vector<CollectiveRecord> CollectiveLog::Last(int64_t count) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<CollectiveRecord> records;
  for (int64_t i = std::max<int64_t>(0, issued_ - std::min(count, kSize)); i < issued_; ++i) {
    records.push_back(ring_[i % kSize]);
  }
  return records;
}

}  // namespace shardit
