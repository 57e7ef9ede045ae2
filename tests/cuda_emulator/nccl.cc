// NCCL among the host threads of one process. A call becomes a task on its stream; when its turn comes it arrives at
// its communicator, and the last rank to arrive computes for all. As in NCCL, calls of one rank on one communicator run
// in the order of issue, whatever their streams. All state is guarded by the scheduler's lock.
#include "nccl.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/cuda_emulator/fatal.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/nccl_data.h"
#include "tests/cuda_emulator/stream.h"

namespace cuda_emulator {
namespace {

// A task of one rank: the calls of a group, or a single one.
struct Launch {
  TaskPtr task;
  int open = 0;  // calls that are not done
};
using LaunchPtr = std::shared_ptr<Launch>;

struct Posted {
  NcclCall call;
  LaunchPtr launch;
};

struct Rank;

// What the ranks of a communicator share.
struct Clique {
  explicit Clique(int ranks) : members(static_cast<size_t>(ranks)) {}
  ~Clique();
  int size() const { return static_cast<int>(members.size()); }
  bool complete() const { return joined == size(); }

  std::vector<Rank*> members;
  int joined = 0;
  bool counted = false;  // among those that suspend the protection of memory
  // Collectives by their number; each rank's call, once it has arrived.
  std::map<uint64_t, std::map<int, Posted>> collectives;
  // Sends and receives without their other side, by (from, to).
  std::map<std::pair<int, int>, std::deque<Posted>> sends, receives;
  // By (from, to): whether each side has sent or received here before.
  struct Connection {
    bool sends = false, receives = false;
  };
  std::map<std::pair<int, int>, Connection> connections;
  int left = 0;  // members that have destroyed or aborted theirs
  struct Split {
    std::map<int, std::pair<int, int>> color_and_key;  // by rank
    std::map<int, std::shared_ptr<Rank>> new_ranks;    // by rank; none for those without a color
  };
  std::map<uint64_t, Split> splits;
};

struct Rank {
  std::shared_ptr<Clique> clique;  // null while a split is under way
  int rank = -1;
  int device = 0;
  bool blocking = true;
  bool aborted = false;
  int polls = 0;  // of the asynchronous error that still say "in progress"
  uint64_t collectives = 0;
  uint64_t splits = 0;
  bool splitting = false;
  TaskPtr last;
  CapturePtr capture;  // the latest that a call was captured in, and the call's node
  int capture_tail = -1;

  bool ready() const { return clique != nullptr && clique->complete() && !splitting; }
};

Clique::~Clique() {
  if (counted) Memory::Instance().SuspendProtection(false);
}

void Join(const std::shared_ptr<Clique>& clique, Rank* rank, int number) {
  if (clique->members[static_cast<size_t>(number)] != nullptr) {
    Fatal("NCCL: two members are rank " + std::to_string(number));
  }
  clique->members[static_cast<size_t>(number)] = rank;
  ++clique->joined;
  rank->rank = number;
  rank->clique = clique;
  if (clique->complete() && clique->size() > 1) {
    clique->counted = true;
    Memory::Instance().SuspendProtection(true);
  }
  Scheduler::Instance().Notify();
}

void Done(const Posted& posted) {
  if (--posted.launch->open == 0) Scheduler::Instance().Finish(posted.launch->task);
}

bool Agree(const NcclCall& a, const NcclCall& b) {
  return a.kind == b.kind && a.count == b.count && a.type == b.type && a.op == b.op && a.peer == b.peer;
}

void ArriveAtCollective(Rank& rank, const Posted& posted) {
  Clique& clique = *rank.clique;
  const uint64_t number = rank.collectives++;
  std::map<int, Posted>& calls = clique.collectives[number];
  if (!calls.empty() && !Agree(calls.begin()->second.call, posted.call)) {
    Fatal("NCCL: the ranks' collectives differ: " + Describe(calls.begin()->second.call) + " on rank " +
          std::to_string(calls.begin()->first) + ", " + Describe(posted.call) + " on rank " +
          std::to_string(rank.rank));
  }
  calls[rank.rank] = posted;
  if (static_cast<int>(calls.size()) < clique.size()) return;
  std::vector<NcclCall> all;
  for (const auto& [member, call] : calls) all.push_back(call.call);
  RunCollective(all);
  const std::map<int, Posted> finished = std::move(calls);
  clique.collectives.erase(number);
  for (const auto& [member, call] : finished) Done(call);
}

void ArriveAtPeer(Rank& rank, const Posted& posted) {
  const bool send = posted.call.kind == NcclKind::kSend;
  const std::pair<int, int> pair =
      send ? std::pair(rank.rank, posted.call.peer) : std::pair(posted.call.peer, rank.rank);
  std::deque<Posted>& mine = send ? rank.clique->sends[pair] : rank.clique->receives[pair];
  std::deque<Posted>& others = send ? rank.clique->receives[pair] : rank.clique->sends[pair];
  if (others.empty()) {
    mine.push_back(posted);
    return;
  }
  const Posted other = std::move(others.front());
  others.pop_front();
  const NcclCall& from = send ? posted.call : other.call;
  const NcclCall& to = send ? other.call : posted.call;
  if (from.count != to.count || from.type != to.type) {
    Fatal("NCCL: a send and its receive differ: " + Describe(from) + "; " + Describe(to));
  }
  std::memmove(to.out, from.in, from.count * SizeOf(from.type));
  Done(posted);
  Done(other);
}

// The calls' turn has come on their stream.
void Arrive(const std::shared_ptr<Rank>& rank, const std::vector<NcclCall>& calls, const TaskPtr& task) {
  const LaunchPtr launch = std::make_shared<Launch>(Launch{task, static_cast<int>(calls.size())});
  for (const NcclCall& call : calls) {
    const Posted posted{call, launch};
    if (rank->aborted) {
      Done(posted);
    } else if (call.kind == NcclKind::kSend || call.kind == NcclKind::kRecv) {
      ArriveAtPeer(*rank, posted);
    } else {
      ArriveAtCollective(*rank, posted);
    }
  }
}

std::string WaitsFor(const Rank& rank, const std::vector<NcclCall>& calls) {
  std::string text = "rank " + std::to_string(rank.rank) + " of " + std::to_string(rank.clique->size());
  for (const NcclCall& call : calls) text += ", " + Describe(call);
  return text;
}

struct Issued {
  std::shared_ptr<Rank> rank;
  CUstream_st* stream;
  NcclCall call;
};

// All of them of one rank. Calls on several streams wait for, and are waited for by, all of these.
ncclResult_t Issue(Scheduler::Lock& lock, const std::vector<Issued>& issued) {
  const std::shared_ptr<Rank>& rank = issued[0].rank;
  CUstream_st* stream = issued[0].stream;
  std::vector<NcclCall> calls;
  std::vector<TaskPtr> after{rank->last};
  std::vector<CUstream_st*> others;
  for (const Issued& one : issued) {
    calls.push_back(one.call);
    if (one.stream == stream || std::find(others.begin(), others.end(), one.stream) != others.end()) continue;
    if (stream->capture != nullptr || one.stream->capture != nullptr) return ncclInvalidUsage;
    others.push_back(one.stream);
    after.push_back(one.stream->last);
  }
  if (stream->capture != nullptr && stream->capture == rank->capture) stream->tails.push_back(rank->capture_tail);
  Operation operation{.name = "NCCL", .type = cudaGraphNodeTypeKernel};
  operation.arrive = [rank, calls](const TaskPtr& task) { Arrive(rank, calls, task); };
  operation.waits_for = [rank, calls] { return WaitsFor(*rank, calls); };
  TaskPtr task;
  if (Streams::Instance().Issue(lock, stream, std::move(operation), after, &task) != cudaSuccess) {
    return ncclUnhandledCudaError;
  }
  if (stream->capture != nullptr) {
    rank->capture = stream->capture;
    rank->capture_tail = stream->tails[0];
  } else {
    rank->last = task;
  }
  for (CUstream_st* other : others) Streams::Instance().Issue(lock, other, Operation{.name = "NCCL"}, {task});
  if (rank->blocking) return ncclSuccess;
  rank->polls = 1;
  return ncclInProgress;
}

// The calling thread's group.
struct Group {
  int depth = 0;
  std::vector<Issued> calls;
  std::vector<std::shared_ptr<Rank>> joining;
};
thread_local Group group;

// Waits until the rank can be used, where its calls wait for anything.
ncclResult_t WaitReady(Scheduler::Lock& lock, const std::shared_ptr<Rank>& rank) {
  if (!rank->blocking) {
    rank->polls = 1;
    return ncclInProgress;
  }
  Scheduler::Instance().RunUntil(lock, [&] { return rank->ready() || rank->aborted; });
  return ncclSuccess;
}

// As in NCCL, the first send or receive between two ranks blocks the host until the other side makes its own: they
// exchange the addresses of buffers. Those of a group do so together.
void Connect(Scheduler::Lock& lock, const std::vector<Issued>& calls) {
  struct Waiting {
    std::shared_ptr<Rank> rank;
    std::shared_ptr<Clique> clique;
    std::pair<int, int> pair;
  };
  std::vector<Waiting> waiting;
  for (const auto& [rank, stream, call] : calls) {
    const bool sends = call.kind == NcclKind::kSend;
    if ((!sends && call.kind != NcclKind::kRecv) || !rank->blocking) continue;
    const std::pair<int, int> pair = sends ? std::pair(rank->rank, call.peer) : std::pair(call.peer, rank->rank);
    Clique::Connection& connection = rank->clique->connections[pair];
    (sends ? connection.sends : connection.receives) = true;
    waiting.push_back({rank, rank->clique, pair});
  }
  if (waiting.empty()) return;
  Scheduler::Instance().Notify();
  Scheduler::Instance().RunUntil(lock, [&] {
    return std::all_of(waiting.begin(), waiting.end(), [](const Waiting& one) {
      const Clique::Connection& connection = one.clique->connections[one.pair];
      return (connection.sends && connection.receives) || one.rank->aborted;
    });
  });
}

ncclResult_t EndGroup(Scheduler::Lock& lock) {
  const std::vector<Issued> calls = std::exchange(group.calls, {});
  const std::vector<std::shared_ptr<Rank>> joining = std::exchange(group.joining, {});
  ncclResult_t result = ncclSuccess;
  for (const std::shared_ptr<Rank>& rank : joining) {
    if (const ncclResult_t one = WaitReady(lock, rank); one != ncclSuccess) result = one;
  }
  Connect(lock, calls);
  std::vector<bool> taken(calls.size());
  for (size_t i = 0; i < calls.size(); ++i) {
    if (taken[i]) continue;
    std::vector<Issued> of_rank;
    for (size_t j = i; j < calls.size(); ++j) {
      if (calls[j].rank != calls[i].rank) continue;
      taken[j] = true;
      of_rank.push_back(calls[j]);
    }
    if (const ncclResult_t one = Issue(lock, of_rank); one != ncclSuccess) result = one;
  }
  return result;
}

bool ValidConfig(const ncclConfig_t* config) {
  return config == nullptr || (config->magic == 0xcafebeef && config->size == sizeof(ncclConfig_t));
}

std::map<std::string, std::shared_ptr<Clique>>& Joining() {
  static auto* cliques = new std::map<std::string, std::shared_ptr<Clique>>;
  return *cliques;
}

std::string IdPrefix() {
  char text[64];
  std::snprintf(text, sizeof(text), "emulated NCCL of process %d, ", static_cast<int>(getpid()));
  return text;
}

// All ranks have said how they split: the new cliques.
void FormSplit(Clique::Split& split) {
  std::map<int, std::vector<std::pair<int, int>>> members;  // by color: key and rank
  for (const auto& [rank, color_and_key] : split.color_and_key) {
    if (color_and_key.first != NCCL_SPLIT_NOCOLOR) members[color_and_key.first].push_back({color_and_key.second, rank});
  }
  for (auto& [color, ranks] : members) {
    std::sort(ranks.begin(), ranks.end());
    const auto clique = std::make_shared<Clique>(static_cast<int>(ranks.size()));
    for (size_t i = 0; i < ranks.size(); ++i) {
      Join(clique, split.new_ranks.at(ranks[i].second).get(), static_cast<int>(i));
    }
  }
}

// Lets go of what the rank has posted; its tasks are done, with nothing computed.
void Release(Rank& rank) {
  std::vector<Posted> posted;
  for (auto& [number, calls] : rank.clique->collectives) {
    const auto mine = calls.find(rank.rank);
    if (mine == calls.end()) continue;
    posted.push_back(mine->second);
    calls.erase(mine);
  }
  for (auto* queues : {&rank.clique->sends, &rank.clique->receives}) {
    for (auto& [pair, queue] : *queues) {
      const bool mine = queues == &rank.clique->sends ? pair.first == rank.rank : pair.second == rank.rank;
      if (!mine) continue;
      posted.insert(posted.end(), queue.begin(), queue.end());
      queue.clear();
    }
  }
  for (const Posted& one : posted) Done(one);
}

}  // namespace
}  // namespace cuda_emulator

struct ncclComm {
  std::shared_ptr<cuda_emulator::Rank> rank;
};

namespace cuda_emulator {
namespace {

ncclComm_t MakeComm(const ncclConfig_t* config, bool blocking) {
  ncclComm_t comm = new ncclComm{std::make_shared<Rank>()};
  comm->rank->device = CurrentDevice();
  comm->rank->blocking = blocking;
  if (config != nullptr && config->blocking != NCCL_CONFIG_UNDEF_INT) comm->rank->blocking = config->blocking != 0;
  return comm;
}

// A collective, send or receive: issued, or kept for the end of the group.
ncclResult_t Call(ncclComm_t comm, cudaStream_t handle, const NcclCall& call) {
  auto lock = Scheduler::Instance().Acquire();
  CUstream_st* stream = Streams::Instance().Resolve(handle);
  if (comm == nullptr || stream == nullptr || SizeOf(call.type) == 0) return ncclInvalidArgument;
  const std::shared_ptr<Rank>& rank = comm->rank;
  if (rank->aborted || !rank->ready() || rank->polls > 0) return ncclInvalidArgument;
  const int ranks = rank->clique->size();
  const bool has_peer =
      call.kind != NcclKind::kAllReduce && call.kind != NcclKind::kReduceScatter && call.kind != NcclKind::kAllGather;
  if (has_peer && (call.peer < 0 || call.peer >= ranks)) return ncclInvalidArgument;
  Memory& memory = Memory::Instance();
  const std::pair<const void*, size_t> buffers[] = {{call.in, InBytes(call, ranks)}, {call.out, OutBytes(call, ranks)}};
  for (const auto& [pointer, bytes] : buffers) {
    if (bytes == 0) continue;
    const bool unused = (pointer == call.in && call.kind == NcclKind::kBroadcast && call.peer != rank->rank) ||
                        (pointer == call.out && call.kind == NcclKind::kReduce && call.peer != rank->rank);
    if (unused && pointer == nullptr) continue;
    if (pointer == nullptr || memory.Find(pointer) == Place::kPageable) return ncclInvalidArgument;
    if (!memory.IsValidRange(pointer, bytes)) Fatal("NCCL: a buffer goes beyond its memory: " + Describe(call));
  }
  if (call.count == 0 && call.kind != NcclKind::kSend && call.kind != NcclKind::kRecv) return ncclSuccess;
  const Issued issued{rank, stream, call};
  if (group.depth > 0) {
    group.calls.push_back(issued);
    return ncclSuccess;
  }
  Connect(lock, {issued});
  return Issue(lock, {issued});
}

}  // namespace
}  // namespace cuda_emulator

using cuda_emulator::Call;
using cuda_emulator::Clique;
using cuda_emulator::NcclKind;
using cuda_emulator::Rank;
using cuda_emulator::Scheduler;

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static uint64_t ids = 0;
  const auto lock = Scheduler::Instance().Acquire();
  const std::string text = cuda_emulator::IdPrefix() + "communicator " + std::to_string(++ids);
  *id = {};
  std::memcpy(id->internal, text.data(), text.size());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  auto lock = Scheduler::Instance().Acquire();
  if (comm == nullptr || ranks < 1 || rank < 0 || rank >= ranks || !cuda_emulator::ValidConfig(config)) {
    return ncclInvalidArgument;
  }
  const std::string key(id.internal, strnlen(id.internal, NCCL_UNIQUE_ID_BYTES));
  if (key.compare(0, cuda_emulator::IdPrefix().size(), cuda_emulator::IdPrefix()) != 0) {
    cuda_emulator::Fatal("NCCL: the emulator joins threads of one process, and the unique id is of another");
  }
  auto& joining = cuda_emulator::Joining();
  std::shared_ptr<Clique>& clique = joining[key];
  if (clique == nullptr) clique = std::make_shared<Clique>(ranks);
  if (clique->size() != ranks) cuda_emulator::Fatal("NCCL: the ranks' sizes of the communicator differ");
  *comm = cuda_emulator::MakeComm(config, true);
  cuda_emulator::Join(clique, (*comm)->rank.get(), rank);
  if (clique->complete()) joining.erase(key);
  if (cuda_emulator::group.depth > 0) {
    cuda_emulator::group.joining.push_back((*comm)->rank);
    return ncclSuccess;
  }
  return cuda_emulator::WaitReady(lock, (*comm)->rank);
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  return ncclCommInitRankConfig(comm, ranks, id, rank, nullptr);
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* new_comm, ncclConfig_t* config) {
  auto lock = Scheduler::Instance().Acquire();
  if (comm == nullptr || new_comm == nullptr || !cuda_emulator::ValidConfig(config)) return ncclInvalidArgument;
  const std::shared_ptr<Rank> rank = comm->rank;
  if (!rank->ready() || rank->polls > 0) return ncclInvalidArgument;
  const uint64_t number = rank->splits++;
  Clique::Split& split = rank->clique->splits[number];
  *new_comm = nullptr;
  if (color != NCCL_SPLIT_NOCOLOR) {
    *new_comm = cuda_emulator::MakeComm(config, rank->blocking);
    split.new_ranks[rank->rank] = (*new_comm)->rank;
    if (!(*new_comm)->rank->blocking) (*new_comm)->rank->polls = 1;
  }
  split.color_and_key[rank->rank] = {color, key};
  rank->splitting = true;
  if (static_cast<int>(split.color_and_key.size()) == rank->clique->size()) {
    cuda_emulator::FormSplit(split);
    rank->clique->splits.erase(number);
    for (Rank* member : rank->clique->members) member->splitting = false;
    Scheduler::Instance().Notify();
  }
  if (cuda_emulator::group.depth > 0) {
    cuda_emulator::group.joining.push_back(rank);
    return ncclSuccess;
  }
  return cuda_emulator::WaitReady(lock, rank);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  const auto lock = Scheduler::Instance().Acquire();
  if (comm == nullptr || error == nullptr) return ncclInvalidArgument;
  Rank& rank = *comm->rank;
  const bool waits = !rank.ready() || rank.polls > 0;
  if (rank.ready() && rank.polls > 0) --rank.polls;
  *error = waits && !rank.aborted ? ncclInProgress : ncclSuccess;
  if (std::getenv("SHARDIT_CUDA_EMULATOR_NCCL_ERROR") != nullptr) *error = ncclRemoteError;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  auto lock = Scheduler::Instance().Acquire();
  if (comm == nullptr || !comm->rank->ready()) return ncclInvalidArgument;
  const cuda_emulator::TaskPtr last = comm->rank->last;
  Scheduler::Instance().RunUntil(lock, [&] { return last == nullptr || last->done; });
  if (comm->rank->blocking) return ncclSuccess;
  comm->rank->polls = 1;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm == nullptr) return ncclSuccess;
  auto lock = Scheduler::Instance().Acquire();
  const cuda_emulator::TaskPtr last = comm->rank->last;
  Scheduler::Instance().RunUntil(lock, [&] { return last == nullptr || last->done; });
  // NCCL says that the ranks of a host do this together, or hang.
  const std::shared_ptr<Clique> clique = comm->rank->clique;
  ++clique->left;
  Scheduler::Instance().Notify();
  Scheduler::Instance().RunUntil(lock, [&] { return clique->left == clique->size(); });
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  if (comm == nullptr) return ncclSuccess;
  const auto lock = Scheduler::Instance().Acquire();
  comm->rank->aborted = true;
  if (comm->rank->clique != nullptr) {
    cuda_emulator::Release(*comm->rank);
    ++comm->rank->clique->left;
  }
  Scheduler::Instance().Notify();
  delete comm;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    case ncclNumResults:
      break;
  }
  return "unknown result code";
}

const char* ncclGetLastError(ncclComm_t comm) { return ""; }

ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) {
  const auto lock = Scheduler::Instance().Acquire();
  if (comm == nullptr || !comm->rank->ready()) return ncclInvalidArgument;
  *count = comm->rank->clique->size();
  return ncclSuccess;
}

ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int* device) {
  if (comm == nullptr) return ncclInvalidArgument;
  *device = comm->rank->device;
  return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) {
  const auto lock = Scheduler::Instance().Acquire();
  if (comm == nullptr || !comm->rank->ready()) return ncclInvalidArgument;
  *rank = comm->rank->rank;
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  return Call(comm, stream, {NcclKind::kAllReduce, in, out, count, type, op, -1});
}

ncclResult_t ncclReduceScatter(const void* in, void* out, size_t out_count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
  return Call(comm, stream, {NcclKind::kReduceScatter, in, out, out_count, type, op, -1});
}

ncclResult_t ncclAllGather(const void* in, void* out, size_t in_count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return Call(comm, stream, {NcclKind::kAllGather, in, out, in_count, type, ncclSum, -1});
}

ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  return Call(comm, stream, {NcclKind::kBroadcast, in, out, count, type, ncclSum, root});
}

ncclResult_t ncclReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream) {
  return Call(comm, stream, {NcclKind::kReduce, in, out, count, type, op, root});
}

ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return Call(comm, stream, {NcclKind::kSend, data, nullptr, count, type, ncclSum, peer});
}

ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return Call(comm, stream, {NcclKind::kRecv, nullptr, data, count, type, ncclSum, peer});
}

ncclResult_t ncclGroupStart() {
  ++cuda_emulator::group.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  auto lock = Scheduler::Instance().Acquire();
  if (cuda_emulator::group.depth == 0) return ncclInvalidUsage;
  if (--cuda_emulator::group.depth > 0) return ncclSuccess;
  return cuda_emulator::EndGroup(lock);
}
