// What one rank writes when the job seems hung, and the judgement over all of them: who is odd. Pure; the files are
// HangWatchdog's.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "parallel/comm/collective_log.h"
#include "trainer/faults/beacon.h"

namespace shardit {

// A rank as its peers know it from the start.
struct RankPlace {
  std::string host;
  int64_t pid = 0;
  std::string coordinates;  // on the mesh: "pp=0 dp=1 tp=0"
};

// What a rank was last seen doing.
struct Beat {
  Phase phase = Phase::kStartUp;
  int64_t step = 0;
};
std::string FormatBeat(const Beat& beat);
std::optional<Beat> ParseBeat(absl::string_view text);

// State of one communicator on one rank.
struct CommState {
  std::string name;
  int64_t newest = -1;  // sequence of the newest collective issued
  std::string waiting;  // the oldest one not done: "all-reduce 'gradients' dp[41]", or a send or receive; empty: none
  bool waits() const { return !waiting.empty(); }
};

struct HangDump {
  Beat beat;
  double idle_seconds = 0.0;  // without progress
  std::vector<CommState> comms;
  std::string operations;   // the last ones, one line
  std::string collectives;  // the last ones, a line each
  // Of the ranks of the same host: their process states as the kernel has them, "1=T 2=S" (T: stopped).
  std::string neighbours;

  bool waits() const;
};
// As text with a line for each field; collectives come last.
std::string FormatDump(const HangDump& dump);
std::optional<HangDump> ParseDump(absl::string_view text);

// The newest state of every communicator in the log.
std::vector<CommState> CommStates(std::span<const CollectiveRecord> records);

// Everything known of a rank: no dump means that it did not answer.
struct RankEvidence {
  RankPlace place;
  std::optional<Beat> beat;
  std::optional<HangDump> dump;
};

struct Verdict {
  std::vector<int> odd;  // empty: all wait for one another in the same collectives, which points at the network
  std::string line;      // one line that names them, their hosts and what they were doing
};

// The odd ranks are those that do not answer; else, of the ranks that are behind on some communicator (or, where none
// is, of all), those that wait for nobody; else those that are behind. Sequences are compared among ranks of equal
// communicator name, and for the mesh axes pp, dp and tp only between ranks whose other coordinates agree.
Verdict Judge(std::span<const RankEvidence> ranks);

// hang_report.txt: the verdict, a line a rank, then every dump in full.
std::string FormatReport(const Verdict& verdict, std::span<const RankEvidence> ranks);

}  // namespace shardit
