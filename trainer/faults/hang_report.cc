#include "trainer/faults/hang_report.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace shardit {
namespace {

constexpr char kNothing[] = "-";
constexpr absl::string_view kCollectives = "collectives\n";
// More odd ranks than this are counted, not listed.
constexpr size_t kMaxListed = 8;

std::optional<Phase> ParsePhase(absl::string_view name) {
  for (int i = 0; i < kPhases; ++i) {
    if (Name(static_cast<Phase>(i)) == name) return static_cast<Phase>(i);
  }
  return std::nullopt;
}

// What ranks must share for their sequences of communicator `name` to be comparable: for a mesh axis the other
// coordinates, for anything else nothing.
std::string GroupKey(const std::string& name, const std::string& coordinates) {
  if (name != "pp" && name != "dp" && name != "tp") return name;
  std::string key = name;
  for (const absl::string_view word : absl::StrSplit(coordinates, ' ', absl::SkipEmpty())) {
    if (!absl::StartsWith(word, name + "=")) absl::StrAppend(&key, " ", word);
  }
  return key;
}

std::string Waiting(const CollectiveRecord& record) {
  std::string text = absl::StrCat(std::string(Name(record.kind)), " '", record.site, "' on ", record.comm);
  const bool message = record.kind == CollectiveKind::kSend || record.kind == CollectiveKind::kRecv;
  if (!message) absl::StrAppend(&text, "[", record.sequence, "]");
  if (message) absl::StrAppend(&text, record.kind == CollectiveKind::kSend ? " to " : " from ", record.peer);
  return text;
}

// "rank 1 (pid 12 on host a)".
std::string Who(int rank, const RankPlace& place) {
  return absl::StrCat("rank ", rank, " (pid ", place.pid, " on host ", place.host, ")");
}

std::string WaitsFor(const HangDump& dump) {
  std::vector<std::string> waits;
  for (const CommState& comm : dump.comms) {
    if (comm.waits()) waits.push_back(comm.waiting);
  }
  return absl::StrJoin(waits, ", ");
}

// The process state that a neighbour on the same host saw.
std::string KernelState(std::span<const RankEvidence> ranks, int rank) {
  const std::string key = absl::StrCat(rank, "=");
  for (const RankEvidence& other : ranks) {
    if (!other.dump.has_value()) continue;
    for (absl::string_view word : absl::StrSplit(other.dump->neighbours, ' ', absl::SkipEmpty())) {
      if (absl::ConsumePrefix(&word, key)) return std::string(word);
    }
  }
  return "";
}

std::string Explain(absl::string_view state) {
  if (state == "T" || state == "t") return ", its process is stopped by a signal or a debugger";
  if (state == "D") return ", its process is blocked in the kernel, on a disk or file system";
  if (state == "Z" || state == "X" || state == "gone") return ", its process has ended";
  return "";
}

std::string Describe(std::span<const RankEvidence> ranks, int rank) {
  const RankEvidence& evidence = ranks[static_cast<size_t>(rank)];
  std::string text = Who(rank, evidence.place);
  if (!evidence.dump.has_value()) {
    absl::StrAppend(&text, " does not answer", Explain(KernelState(ranks, rank)));
    if (evidence.beat.has_value()) absl::StrAppend(&text, "; last seen in ", FormatBeat(*evidence.beat));
    return text;
  }
  absl::StrAppendFormat(&text, " is in %s, without progress for %.1f s", FormatBeat(evidence.dump->beat),
                        evidence.dump->idle_seconds);
  if (evidence.dump->waits()) absl::StrAppend(&text, ", waiting for ", WaitsFor(*evidence.dump));
  return text;
}

// Ranks with a dump that are behind the newest sequence of a communicator.
std::vector<int> RanksBehind(std::span<const RankEvidence> ranks) {
  std::map<std::string, int64_t> newest;
  const auto each = [&](auto use) {
    for (size_t r = 0; r < ranks.size(); ++r) {
      if (!ranks[r].dump.has_value()) continue;
      for (const CommState& comm : ranks[r].dump->comms) {
        use(static_cast<int>(r), comm, GroupKey(comm.name, ranks[r].place.coordinates));
      }
    }
  };
  each([&](int, const CommState& comm, const std::string& key) {
    const auto found = newest.try_emplace(key, comm.newest).first;
    found->second = std::max(found->second, comm.newest);
  });
  std::vector<int> behind;
  each([&](int rank, const CommState& comm, const std::string& key) {
    if (comm.newest < newest[key] && (behind.empty() || behind.back() != rank)) behind.push_back(rank);
  });
  return behind;
}

std::vector<int> OddRanks(std::span<const RankEvidence> ranks) {
  std::vector<int> silent, all;
  for (size_t r = 0; r < ranks.size(); ++r) {
    (ranks[r].dump.has_value() ? all : silent).push_back(static_cast<int>(r));
  }
  if (!silent.empty()) return silent;
  const std::vector<int> behind = RanksBehind(ranks);
  const std::vector<int>& candidates = behind.empty() ? all : behind;
  std::vector<int> busy;
  for (const int rank : candidates) {
    if (!ranks[static_cast<size_t>(rank)].dump->waits()) busy.push_back(rank);
  }
  return busy.empty() ? behind : busy;
}

}  // namespace

std::string FormatBeat(const Beat& beat) { return absl::StrCat(Name(beat.phase), " of step ", beat.step); }

std::optional<Beat> ParseBeat(absl::string_view text) {
  const std::vector<absl::string_view> words = absl::StrSplit(text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
  Beat beat;
  if (words.size() != 4 || words[1] != "of" || words[2] != "step") return std::nullopt;
  const std::optional<Phase> phase = ParsePhase(words[0]);
  if (!phase.has_value() || !absl::SimpleAtoi(words[3], &beat.step)) return std::nullopt;
  beat.phase = *phase;
  return beat;
}

bool HangDump::waits() const {
  return std::any_of(comms.begin(), comms.end(), [](const CommState& comm) { return comm.waits(); });
}

std::string FormatDump(const HangDump& dump) {
  std::string text = absl::StrFormat("beat %s\nidle %.3f\n", FormatBeat(dump.beat), dump.idle_seconds);
  for (const CommState& comm : dump.comms) {
    absl::StrAppend(&text, "comm ", comm.newest, "\t", comm.name, "\t", comm.waits() ? comm.waiting : kNothing, "\n");
  }
  absl::StrAppend(&text, "neighbours ", dump.neighbours, "\noperations ", dump.operations, "\n", kCollectives,
                  dump.collectives);
  return text;
}

std::optional<HangDump> ParseDump(absl::string_view text) {
  const size_t end = text.find(kCollectives);
  if (end == absl::string_view::npos) return std::nullopt;
  HangDump dump;
  dump.collectives = std::string(text.substr(end + kCollectives.size()));
  bool has_beat = false;
  for (absl::string_view line : absl::StrSplit(text.substr(0, end), '\n')) {
    if (absl::ConsumePrefix(&line, "beat ")) {
      const std::optional<Beat> beat = ParseBeat(line);
      has_beat = beat.has_value();
      if (has_beat) dump.beat = *beat;
    } else if (absl::ConsumePrefix(&line, "idle ")) {
      if (!absl::SimpleAtod(line, &dump.idle_seconds)) return std::nullopt;
    } else if (absl::ConsumePrefix(&line, "comm ")) {
      const std::vector<std::string> words = absl::StrSplit(line, '\t');
      CommState comm;
      if (words.size() != 3 || !absl::SimpleAtoi(words[0], &comm.newest)) return std::nullopt;
      comm.name = words[1];
      if (words[2] != kNothing) comm.waiting = words[2];
      dump.comms.push_back(std::move(comm));
    } else if (absl::ConsumePrefix(&line, "neighbours ")) {
      dump.neighbours = std::string(line);
    } else if (absl::ConsumePrefix(&line, "operations ")) {
      dump.operations = std::string(line);
    }
  }
  return has_beat ? std::optional(std::move(dump)) : std::nullopt;
}

std::vector<CommState> CommStates(std::span<const CollectiveRecord> records) {
  std::map<std::string, CommState> states;
  for (const CollectiveRecord& record : records) {
    CommState& state = states[record.comm];
    state.name = record.comm;
    const bool message = record.kind == CollectiveKind::kSend || record.kind == CollectiveKind::kRecv;
    if (!message) state.newest = std::max(state.newest, record.sequence);
    if (!record.done() && !state.waits()) state.waiting = Waiting(record);
  }
  std::vector<CommState> list;
  for (auto& [name, state] : states) list.push_back(std::move(state));
  return list;
}

Verdict Judge(std::span<const RankEvidence> ranks) {
  Verdict verdict{.odd = OddRanks(ranks)};
  std::vector<std::string> parts;
  for (const int rank : verdict.odd) {
    if (parts.size() == kMaxListed) {
      parts.push_back(absl::StrCat("and ", verdict.odd.size() - kMaxListed, " more ranks"));
      break;
    }
    parts.push_back(Describe(ranks, rank));
  }
  verdict.line = absl::StrCat("hang: ", absl::StrJoin(parts, "; "));
  if (verdict.odd.empty()) {
    verdict.line = absl::StrCat("hang: all ", ranks.size(), " ranks are equally far and wait for one another; rank 0 ",
                                "waits for ", ranks.empty() ? "" : WaitsFor(*ranks[0].dump),
                                "; check the network between the hosts");
  }
  return verdict;
}

std::string FormatReport(const Verdict& verdict, std::span<const RankEvidence> ranks) {
  std::string report = absl::StrCat(verdict.line, "\n\n");
  for (size_t r = 0; r < ranks.size(); ++r) {
    const bool odd = std::find(verdict.odd.begin(), verdict.odd.end(), static_cast<int>(r)) != verdict.odd.end();
    absl::StrAppend(&report, odd ? "* " : "  ", Describe(ranks, static_cast<int>(r)), "\n");
  }
  for (size_t r = 0; r < ranks.size(); ++r) {
    absl::StrAppend(&report, "\n---- ", Who(static_cast<int>(r), ranks[r].place), " ", ranks[r].place.coordinates, "\n",
                    ranks[r].dump.has_value() ? FormatDump(*ranks[r].dump) : "no answer\n");
  }
  return report;
}

}  // namespace shardit
