#include "parallel/comm/engine_comm.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "parallel/comm/self_comm.h"

namespace shardit {

std::unique_ptr<Communicator> MakeWorldCommunicator(CommEngine* engine, CollectiveLog* log) {
  if (engine->size() == 1) return std::make_unique<SelfCommunicator>("world", log);
  std::vector<int> members(engine->size());
  std::iota(members.begin(), members.end(), 0);
  auto channel = std::make_shared<Channel>(0, std::move(members), engine->rank());
  return std::make_unique<EngineCommunicator>(engine, std::move(channel), "world", log);
}

EngineCommunicator::EngineCommunicator(CommEngine* engine, std::shared_ptr<Channel> channel, std::string name,
                                       CollectiveLog* log)
    : Communicator(channel->rank, static_cast<int>(channel->members.size()), std::move(name), log),
      engine_(engine),
      channel_(std::move(channel)) {}

void EngineCommunicator::Start(CollectiveSpec spec, std::shared_ptr<WorkState> work) {
  engine_->Submit(channel_, std::move(spec), std::move(work));
}

std::unique_ptr<Communicator> EngineCommunicator::Split(int color, int key, std::string name) {
  struct Entry {
    int color, key, rank, next_id;
  };
  const Entry mine{color, key, rank(), engine_->next_channel_id()};
  std::vector<Entry> entries(size());
  AllGather(&mine, entries.data(), size(), {"split", /*control=*/true}).Wait();

  std::erase_if(entries, [&](const Entry& entry) { return entry.color != color; });
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.key, a.rank) < std::pair(b.key, b.rank); });
  if (entries.size() == 1) return std::make_unique<SelfCommunicator>(std::move(name), log());

  std::vector<int> members;
  int id = 0, new_rank = 0;
  for (const Entry& entry : entries) {
    if (entry.rank == rank()) new_rank = static_cast<int>(members.size());
    members.push_back(channel_->members[entry.rank]);
    id = std::max(id, entry.next_id);
  }
  engine_->set_next_channel_id(id + 1);
  auto channel = std::make_shared<Channel>(id, std::move(members), new_rank);
  return std::make_unique<EngineCommunicator>(engine_, std::move(channel), std::move(name), log());
}

}  // namespace shardit
