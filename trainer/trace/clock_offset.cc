#include "trainer/trace/clock_offset.h"

#include <unistd.h>

#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"

namespace shardit {
namespace {

constexpr int kRounds = 8;
constexpr CallSite kSite{.tag = "clock offset", .control = true};

// On rank 0: rank 0's clock minus that of `peer`, which answers at the same time.
int64_t AskOffset(Communicator& control, int peer, absl::FunctionRef<int64_t()> now) {
  int64_t shortest = std::numeric_limits<int64_t>::max(), offset = 0;
  for (int round = 0; round < kRounds; ++round) {
    const int64_t sent = now();
    int64_t theirs = 0;
    control.Send(&sent, 1, peer, 0, kSite).Wait();
    control.Recv(&theirs, 1, peer, 0, kSite).Wait();
    const int64_t received = now();
    if (received - sent >= shortest) continue;
    shortest = received - sent;
    offset = sent + shortest / 2 - theirs;
  }
  return offset;
}

void Answer(Communicator& control, absl::FunctionRef<int64_t()> now) {
  for (int round = 0; round < kRounds; ++round) {
    int64_t ping = 0;
    control.Recv(&ping, 1, 0, 0, kSite).Wait();
    const int64_t mine = now();
    control.Send(&mine, 1, 0, 0, kSite).Wait();
  }
}

}  // namespace

std::string SteadyClockId() {
  const absl::StatusOr<std::string> boot_id = ReadWholeFile("/proc/sys/kernel/random/boot_id", 4096);
  if (boot_id.ok() && !boot_id->empty()) return *boot_id;
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  return absl::StrCat(host, " ", getpid());
}

std::vector<int64_t> ClockOffsets(Communicator& control, const std::string& clock_id,
                                  absl::FunctionRef<int64_t()> now) {
  const std::vector<std::string> ids = control.AllGatherBytes(clock_id, kSite);
  std::map<std::string, int64_t> offset_of{{ids[0], 0}};
  // The lowest rank of each clock answers for it, one after the other.
  for (int rank = 1; rank < control.size(); ++rank) {
    const auto [entry, is_new] = offset_of.try_emplace(ids[rank], 0);
    if (!is_new) continue;
    if (control.rank() == 0) entry->second = AskOffset(control, rank, now);
    if (control.rank() == rank) Answer(control, now);
  }
  std::vector<int64_t> offsets;
  if (control.rank() != 0) return offsets;
  for (const std::string& id : ids) offsets.push_back(offset_of[id]);
  return offsets;
}

}  // namespace shardit
