#include "trainer/train/cpu_share.h"

#include <sched.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/math.h"

namespace shardit {

std::vector<int> AllowedCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

std::vector<int> PartOfCpus(const std::vector<int>& mine, int index, int sharers) {
  const int64_t count = static_cast<int64_t>(mine.size());
  if (count < sharers) return mine.empty() ? mine : std::vector<int>{mine[static_cast<size_t>(index % count)]};
  const Range part = PartRange(count, sharers, index);
  return {mine.begin() + part.begin, mine.begin() + part.end};
}

CpuShare DivideCpus(World& world, int64_t threads) {
  const std::vector<int> mine = AllowedCpus();
  const std::string key = absl::StrCat(world.host_name(), ":", absl::StrJoin(mine, ","));
  // World, once at start-up: who else on this host may run where this rank may.
  const std::vector<std::string> keys = world.comm().AllGatherBytes(key, {.tag = "processor masks", .control = true});
  const int sharers = static_cast<int>(std::count(keys.begin(), keys.end(), key));
  const int index = static_cast<int>(std::count(keys.begin(), keys.begin() + world.rank(), key));
  CpuShare share{.cpus = PartOfCpus(mine, index, sharers)};
  const int own = std::max<int>(1, static_cast<int>(share.cpus.size()));
  share.threads = threads == 0 ? own : static_cast<int>(threads);
  if (share.threads > own || static_cast<int>(mine.size()) < sharers) share.cpus.clear();
  if (!share.cpus.empty()) share.cpus.resize(static_cast<size_t>(share.threads));
  return share;
}

void BindToShare(const CpuShare& share) {
  if (share.cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : share.cpus) CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof(set), &set);
}

}  // namespace shardit
