// A ring of the last collectives of one rank, over all its communicators: what a hang report or a trace reads. The odd
// rank in a hang is the one whose newest sequence number on some communicator is behind the others'.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "parallel/comm/traffic.h"

namespace shardit {

struct CollectiveRecord {
  using Time = std::chrono::steady_clock::time_point;

  int64_t number = 0;    // order of issue on this rank, over all communicators
  int64_t sequence = 0;  // order of issue on its communicator: equal on all its ranks for the same collective
  CollectiveKind kind = CollectiveKind::kBarrier;
  std::string comm;       // the communicator's name, such as "dp"
  const char* site = "";  // the caller's tag, a string literal
  bool control = false;
  int peer = -1;      // root or peer, -1 where the kind has none
  int64_t bytes = 0;  // payload
  Time issued{};      // the caller asked
  Time start{};       // the backend began; zero until then
  Time end{};         // done on this rank; zero until then

  bool started() const { return start != Time{}; }
  bool done() const { return end != Time{}; }
};

// One line for a report: number, communicator, sequence, kind, bytes, site, state and times in ms before `now`.
std::string Format(const CollectiveRecord& record, CollectiveRecord::Time now);

// Thread-safe: callers issue, the communication thread starts and ends, a watchdog reads.
class CollectiveLog {
 public:
  static constexpr int64_t kSize = 1024;

  CollectiveLog();

  // Stores the record with a fresh number and the time of issue, in place of the oldest. Returns the number.
  int64_t Issue(CollectiveRecord record);
  // Stamps a record; no effect once it has been overwritten.
  void Start(int64_t number, CollectiveRecord::Time time);
  void End(int64_t number, CollectiveRecord::Time time);

  // The newest records, oldest first, at most `count`.
  std::vector<CollectiveRecord> Last(int64_t count = kSize) const;

 private:
  mutable std::mutex mutex_;
  std::vector<CollectiveRecord> ring_;
  int64_t issued_ = 0;
};

}  // namespace shardit
