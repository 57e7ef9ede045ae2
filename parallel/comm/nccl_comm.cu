#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/cuda/graph.h"
#include "core/cuda/launch.cuh"
#include "core/tensor/device_memory.h"
#include "core/tensor/tensor.h"
#include "parallel/comm/agree_status.h"
#include "parallel/comm/nccl_comm.h"
#include "parallel/comm/nccl_library.cuh"
#include "parallel/comm/operation.h"
#include "parallel/comm/tree_sum.h"

namespace shardit::cuda {
namespace {

// A failed call is a device or a peer in an unknown state.
#define NCCL_CHECK(nccl, call)                                                                                         \
  do {                                                                                                                 \
    const ncclResult_t shardit_nccl_result = (nccl).call;                                                              \
    CHECK(shardit_nccl_result == ncclSuccess)                                                                          \
        << "nccl" #call << ": " << (nccl).GetErrorString(shardit_nccl_result) << ": " << (nccl).GetLastError(nullptr); \
  } while (false)

// Blocks (of up to about a thousand threads) that a lane's kernel may hold while it waits for its peer.
constexpr int kLaneBlocks = 8;
constexpr auto kPollSleep = std::chrono::microseconds(50);

ncclDataType_t TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return ncclFloat32;
    case DType::kBF16:
      return ncclBfloat16;
    case DType::kF64:
      return ncclFloat64;
    case DType::kI32:
      return ncclInt32;
    case DType::kI64:
      return ncclInt64;
    case DType::kU8:
      return ncclUint8;
  }
  return ncclUint8;
}

ncclRedOp_t OpOf(ReduceOp op) { return op == ReduceOp::kSum ? ncclSum : op == ReduceOp::kMin ? ncclMin : ncclMax; }

const char* At(const void* base, int64_t offset) { return static_cast<const char*>(base) + offset; }
char* At(void* base, int64_t offset) { return static_cast<char*>(base) + offset; }

absl::Status StatusOf(const Nccl& nccl, ncclResult_t result) {
  if (result == ncclSuccess) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("nccl: ", nccl.GetErrorString(result), ": ", nccl.GetLastError(nullptr)));
}

// Events that have done their work, for the next collective. Any thread.
class EventPool {
 public:
  explicit EventPool(Device device) : device_(device) {}
  Event Take() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return Event::Make(device_);
    Event event = std::move(free_.back());
    free_.pop_back();
    return event;
  }
  void Give(Event event) {
    std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(event));
  }

 private:
  const Device device_;
  std::mutex mutex_;
  std::vector<Event> free_;
};

// A communicator of NCCL's and the stream of its collectives.
struct Lane {
  ncclComm_t comm = nullptr;
  Stream stream;
  int peer = 0;  // of a lane of two ranks
};

// Joins the communicator of `id`, and then does `first`, where there is one. NCCL's own way to a deadline is a
// communicator that never blocks, whose every later group of calls it runs on a thread made for it; so joining blocks,
// on a thread that is left behind when time is up.
absl::StatusOr<ncclComm_t> Join(const Nccl& nccl, Device device, int ranks, const ncclUniqueId& id, int rank,
                                int max_blocks, double seconds, const std::string& name,
                                const std::function<ncclResult_t(ncclComm_t)>& first = nullptr) {
  struct Attempt {
    std::mutex mutex;
    std::condition_variable done_signal;
    bool done = false;
    ncclComm_t comm = nullptr;
    ncclResult_t result = ncclSuccess;
  };
  auto attempt = std::make_shared<Attempt>();
  std::thread([attempt, &nccl, device, ranks, id, rank, max_blocks, first] {
    UseDevice(device);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 1;
    if (max_blocks > 0) config.maxCTAs = max_blocks;
    ncclComm_t comm = nullptr;
    ncclResult_t result = nccl.CommInitRankConfig(&comm, ranks, id, rank, &config);
    if (result == ncclSuccess && first) result = first(comm);
    std::lock_guard<std::mutex> lock(attempt->mutex);
    attempt->comm = comm;
    attempt->result = result;
    attempt->done = true;
    attempt->done_signal.notify_one();
  }).detach();

  std::unique_lock<std::mutex> lock(attempt->mutex);
  if (!attempt->done_signal.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return attempt->done; })) {
    return absl::DeadlineExceededError(absl::StrCat("nccl: rank ", rank, " of ", ranks, " of axis ", name, " waited ",
                                                    seconds,
                                                    " s for the others; NCCL_DEBUG=INFO tells what "
                                                    "it does"));
  }
  if (attempt->result == ncclSuccess) return attempt->comm;
  return absl::FailedPreconditionError(absl::StrCat("nccl: rank ", rank, " of ", ranks, " of axis ", name,
                                                    " cannot join: ", nccl.GetErrorString(attempt->result), ": ",
                                                    nccl.GetLastError(nullptr)));
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(Communicator& host, RankContext& context, const Nccl& nccl)
      : Communicator(host.rank(), host.size(), host.name(), host.log()),
        nccl_(nccl),
        context_(context),
        compute_(context.cuda().stream),
        deterministic_(context.cuda().deterministic),
        events_(std::make_shared<EventPool>(compute_.device)) {}
  ~NcclCommunicator() override;

  // Collective.
  absl::Status Join(Communicator& host, const DeviceCommOptions& options);

  Device device() const override { return compute_.device; }
  std::unique_ptr<Communicator> Split(int color, int key, std::string name) override;
  absl::Status Health() override;
  void AbortDevice() override;

 private:
  // The lanes of messages: the two directions of this rank's edges of the ring of ranks.
  enum Message { kSendToNext, kRecvFromNext, kSendToPrevious, kRecvFromPrevious, kMessages };

  // A collective under way.
  struct Pending {
    Pending(std::shared_ptr<EventPool> pool, int64_t log_number)
        : pool(std::move(pool)), log_number(log_number), end(this->pool->Take()) {}
    ~Pending() { pool->Give(std::move(end)); }
    const std::shared_ptr<EventPool> pool;
    const int64_t log_number;
    Event end;
    Tensor buffer;  // what it needs until it is done
  };

  void Start(CollectiveSpec spec, std::shared_ptr<WorkState> work) override;
  const Lane& LaneOf(const CollectiveSpec& spec) const;
  // Issues the collective on the lane's stream.
  void Enqueue(const CollectiveSpec& spec, const Lane& lane, Pending& pending);
  void AllReduce(const CollectiveSpec& spec);
  void ReduceScatter(const CollectiveSpec& spec);
  void AllGather(const CollectiveSpec& spec);
  bool SumsInTree(const CollectiveSpec& spec) const;
  void AllReduceInTree(const CollectiveSpec& spec, Pending& pending);
  void ReduceScatterInTree(const CollectiveSpec& spec, void* out, Pending& pending);
  void WaitOnHost(const Event& end);
  void EndFinished();
  absl::Status JoinMessages(Communicator& host, double seconds);

  int Next() const { return (rank() + 1) % size(); }
  int Previous() const { return (rank() + size() - 1) % size(); }
  static bool EqualSlices(const CollectiveSpec& spec) {
    for (size_t r = 1; r + 1 < spec.offsets.size(); ++r) {
      if (spec.offsets[r + 1] - spec.offsets[r] != spec.offsets[1]) return false;
    }
    return true;
  }
  static int64_t Slice(const CollectiveSpec& spec, int r) {
    return spec.offsets[static_cast<size_t>(r) + 1] - spec.offsets[static_cast<size_t>(r)];
  }
  static int64_t Begin(const CollectiveSpec& spec, int r) { return spec.offsets[static_cast<size_t>(r)]; }

  const Nccl& nccl_;
  RankContext& context_;
  const Stream compute_;
  const bool deterministic_;
  const std::shared_ptr<EventPool> events_;
  Lane main_;
  Lane messages_[kMessages];
  std::vector<Message> joined_;  // of these, in the order of joining
  Tensor barrier_token_;

  std::mutex mutex_;  // guards what follows
  std::deque<std::shared_ptr<const Pending>> unfinished_;
  bool aborted_ = false;
};

absl::Status NcclCommunicator::Join(Communicator& host, const DeviceCommOptions& options) {
  ncclUniqueId id{};
  const ncclResult_t result = rank() == 0 ? nccl_.GetUniqueId(&id) : ncclSuccess;
  RETURN_IF_ERROR(AgreeStatus(host, StatusOf(nccl_, result)));
  host.Broadcast(&id, 1, 0, {"nccl id", /*control=*/true}).Wait();
  absl::StatusOr<ncclComm_t> comm =
      cuda::Join(nccl_, device(), size(), id, rank(), /*max_blocks=*/0, options.start_seconds, name());
  RETURN_IF_ERROR(AgreeStatus(host, comm.status()));
  main_ = {*comm, NewStream(device(), /*high_priority=*/true)};
  const MemoryOwnerScope owner(context_.allocator(), MemoryOwner::kBuffers);
  barrier_token_ = Tensor::Zeros(context_.allocator(), {1}, DType::kI32);
  return options.messages ? JoinMessages(host, options.start_seconds) : absl::OkStatus();
}

// Edge e of the ring joins ranks e and e + 1 by one communicator for each direction. Edges are made in their order, so
// that no rank waits for one who waits for it.
absl::Status NcclCommunicator::JoinMessages(Communicator& host, double seconds) {
  struct Ids {
    ncclUniqueId up, down;
  };
  Ids mine{};
  NCCL_CHECK(nccl_, GetUniqueId(&mine.up));
  NCCL_CHECK(nccl_, GetUniqueId(&mine.down));
  std::vector<Ids> ids(static_cast<size_t>(size()));
  host.AllGather(&mine, ids.data(), size(), {"nccl ids", /*control=*/true}).Wait();
  absl::Status status = absl::OkStatus();
  const auto join = [&](Message message, const ncclUniqueId& id, int rank_of_two) {
    if (!status.ok()) return;
    const Lane lane{nullptr, NewStream(device(), /*high_priority=*/true), 1 - rank_of_two};
    const bool sends = message == kSendToNext || message == kSendToPrevious;
    // NCCL connects two ranks when one first sends to the other, and both hosts wait in these calls for each other. In
    // a step that would be for a rank that may itself wait for this one.
    const auto connect = [&nccl = nccl_, lane, sends, token = barrier_token_.raw()](ncclComm_t comm) {
      const cudaStream_t stream = Handle(lane.stream);
      const ncclResult_t result = sends ? nccl.Send(token, 1, ncclInt32, lane.peer, comm, stream)
                                        : nccl.Recv(token, 1, ncclInt32, lane.peer, comm, stream);
      if (result == ncclSuccess) Synchronize(lane.stream);
      return result;
    };
    absl::StatusOr<ncclComm_t> comm =
        cuda::Join(nccl_, device(), 2, id, rank_of_two, kLaneBlocks, seconds, name(), connect);
    status = comm.status();
    if (!comm.ok()) return;
    messages_[message] = {*comm, lane.stream, lane.peer};
    joined_.push_back(message);
  };
  for (int edge = 0; edge < size(); ++edge) {
    const Ids& of_edge = ids[static_cast<size_t>(edge)];
    if (edge == rank()) {
      join(kSendToNext, of_edge.up, 0);
      join(kRecvFromNext, of_edge.down, 0);
    } else if (edge == Previous()) {
      join(kRecvFromPrevious, of_edge.up, 1);
      join(kSendToPrevious, of_edge.down, 1);
    }
  }
  return AgreeStatus(host, status);
}

NcclCommunicator::~NcclCommunicator() {
  if (!aborted_) Synchronize(compute_);  // which may be replaying what was recorded of it
  const auto leave = [&](const Lane& lane) {
    if (lane.comm == nullptr) return;
    if (!aborted_) {
      Synchronize(lane.stream);
      NCCL_CHECK(nccl_, CommDestroy(lane.comm));
    }
    DestroyStream(lane.stream);
  };
  // In the same order on both sides: ranks of one host leave a communicator together.
  for (const Message message : joined_) leave(messages_[message]);
  leave(main_);
}

std::unique_ptr<Communicator> NcclCommunicator::Split(int color, int key, std::string name) {
  CHECK(false) << "[comm " << this->name() << "] split the host's communicator, then make the device's";
  return nullptr;
}

void NcclCommunicator::Start(CollectiveSpec spec, std::shared_ptr<WorkState> work) {
  work->MarkStart();
  if (spec.bytes() == 0 && spec.kind != CollectiveKind::kBarrier) return work->MarkDone();
  UseDevice(device());
  const Lane& lane = LaneOf(spec);
  auto pending = std::make_shared<Pending>(events_, work->log_number());
  Order(compute_, lane.stream);  // it reads what has been issued so far
  Enqueue(spec, lane, *pending);
  pending->end.Record(lane.stream);
  if (IsCapturing(compute_)) {
    log()->End(work->log_number(), std::chrono::steady_clock::now());  // nobody sees when it runs
  } else {
    EndFinished();
    std::lock_guard<std::mutex> lock(mutex_);
    unfinished_.push_back(pending);
  }
  work->SetDeviceWait([this, pending] { WaitOnHost(pending->end); }, /*stream_ordered=*/true);
  work->SetProgress([pending, compute = compute_](WorkState& state, bool wait) {
    if (!wait) return;
    pending->end.MakeWait(compute);
    pending->buffer = Tensor();  // the compute stream, in whose order it may be used again, is behind
    state.MarkOrdered();
  });
}

const Lane& NcclCommunicator::LaneOf(const CollectiveSpec& spec) const {
  const bool send = spec.kind == CollectiveKind::kSend;
  if (!send && spec.kind != CollectiveKind::kRecv) return main_;
  const bool up = spec.tag % 2 == 0;
  const Lane& lane = messages_[send ? (up ? kSendToNext : kSendToPrevious) : (up ? kRecvFromPrevious : kRecvFromNext)];
  CHECK(spec.peer == (send == up ? Next() : Previous()))
      << "[" << Name(spec.kind) << " on " << name() << "] tag " << spec.tag << ", peer " << spec.peer << " of rank "
      << rank() << " of " << size() << ": even tags go to the next rank, odd ones to the previous";
  CHECK(lane.comm != nullptr) << "[" << Name(spec.kind) << " on " << name() << "] made without messages";
  return lane;
}

void NcclCommunicator::Enqueue(const CollectiveSpec& spec, const Lane& lane, Pending& pending) {
  const cudaStream_t stream = Handle(lane.stream);
  const size_t bytes = static_cast<size_t>(spec.bytes());
  switch (spec.kind) {
    case CollectiveKind::kAllReduce:
      return SumsInTree(spec) ? AllReduceInTree(spec, pending) : AllReduce(spec);
    case CollectiveKind::kReduceScatter:
      return SumsInTree(spec) ? ReduceScatterInTree(spec, spec.out, pending) : ReduceScatter(spec);
    case CollectiveKind::kAllGather:
      return AllGather(spec);
    case CollectiveKind::kBroadcast:
      NCCL_CHECK(nccl_, Broadcast(spec.in, spec.out, bytes, ncclUint8, spec.peer, lane.comm, stream));
      return;
    case CollectiveKind::kBarrier: {
      void* const token = barrier_token_.raw();
      NCCL_CHECK(nccl_, AllReduce(token, token, 1, ncclInt32, ncclMax, lane.comm, stream));
      return;
    }
    case CollectiveKind::kSend:
      NCCL_CHECK(nccl_, Send(spec.in, bytes, ncclUint8, lane.peer, lane.comm, stream));
      return;
    case CollectiveKind::kRecv:
      NCCL_CHECK(nccl_, Recv(spec.out, bytes, ncclUint8, lane.peer, lane.comm, stream));
      return;
    case CollectiveKind::kGather:
      CHECK(false) << "[gather on " << name() << "] is for hosts";
  }
}

void NcclCommunicator::AllReduce(const CollectiveSpec& spec) {
  const size_t count = static_cast<size_t>(spec.bytes() / SizeOf(spec.dtype));
  NCCL_CHECK(nccl_,
             AllReduce(spec.in, spec.out, count, TypeOf(spec.dtype), OpOf(spec.op), main_.comm, Handle(main_.stream)));
}

void NcclCommunicator::ReduceScatter(const CollectiveSpec& spec) {
  const ncclDataType_t type = TypeOf(spec.dtype);
  const auto count = [&](int r) { return static_cast<size_t>(Slice(spec, r) / SizeOf(spec.dtype)); };
  const cudaStream_t stream = Handle(main_.stream);
  if (EqualSlices(spec)) {
    NCCL_CHECK(nccl_, ReduceScatter(spec.in, spec.out, count(0), type, ncclSum, main_.comm, stream));
    return;
  }
  NCCL_CHECK(nccl_, GroupStart());
  for (int r = 0; r < size(); ++r) {
    if (count(r) == 0) continue;
    const char* const in = At(spec.in, Begin(spec, r));
    void* const out = r == rank() ? spec.out : nullptr;  // read on the root only
    NCCL_CHECK(nccl_, Reduce(in, out, count(r), type, ncclSum, r, main_.comm, stream));
  }
  NCCL_CHECK(nccl_, GroupEnd());
}

void NcclCommunicator::AllGather(const CollectiveSpec& spec) {
  const auto bytes = [&](int r) { return static_cast<size_t>(Slice(spec, r)); };
  const cudaStream_t stream = Handle(main_.stream);
  if (EqualSlices(spec)) {
    NCCL_CHECK(nccl_, AllGather(spec.in, spec.out, bytes(0), ncclUint8, main_.comm, stream));
    return;
  }
  NCCL_CHECK(nccl_, GroupStart());
  for (int r = 0; r < size(); ++r) {
    if (bytes(r) == 0) continue;
    char* const out = At(spec.out, Begin(spec, r));
    const void* const in = r == rank() ? spec.in : out;  // read on the root only
    NCCL_CHECK(nccl_, Broadcast(in, out, bytes(r), ncclUint8, r, main_.comm, stream));
  }
  NCCL_CHECK(nccl_, GroupEnd());
}

bool NcclCommunicator::SumsInTree(const CollectiveSpec& spec) const {
  const bool floating = spec.dtype == DType::kF32 || spec.dtype == DType::kBF16 || spec.dtype == DType::kF64;
  return deterministic_ && floating && spec.op == ReduceOp::kSum;
}

void NcclCommunicator::AllReduceInTree(const CollectiveSpec& spec, Pending& pending) {
  if (spec.bytes() > kSmallBytes) {
    ReduceScatterInTree(spec, At(spec.out, Begin(spec, rank())), pending);
    CollectiveSpec gather = spec;
    gather.in = At(spec.out, Begin(spec, rank()));
    return AllGather(gather);
  }
  // One message: everybody's whole array to everybody, this rank's own behind the others'.
  const int64_t bytes = spec.bytes();
  pending.buffer = Tensor::Empty(context_.allocator(), {(size() - 1) * bytes}, DType::kU8);
  NCCL_CHECK(nccl_, GroupStart());
  for (int r = 0, slot = 0; r < size(); ++r) {
    if (r == rank()) continue;
    const size_t count = static_cast<size_t>(bytes);
    NCCL_CHECK(nccl_, Send(spec.in, count, ncclUint8, r, main_.comm, Handle(main_.stream)));
    NCCL_CHECK(nccl_,
               Recv(At(pending.buffer.raw(), slot++ * bytes), count, ncclUint8, r, main_.comm, Handle(main_.stream)));
  }
  NCCL_CHECK(nccl_, GroupEnd());
  TreeSum({.own = {spec.in, spec.dtype},
           .others = {pending.buffer.raw(), spec.dtype},
           .ranks = size(),
           .rank = rank(),
           .out = {spec.out, spec.dtype},
           .count = bytes / SizeOf(spec.dtype)},
          main_.stream);
}

void NcclCommunicator::ReduceScatterInTree(const CollectiveSpec& spec, void* out, Pending& pending) {
  const int64_t own = Slice(spec, rank());
  pending.buffer = Tensor::Empty(context_.allocator(), {(size() - 1) * own}, DType::kU8);
  NCCL_CHECK(nccl_, GroupStart());
  for (int r = 0, slot = 0; r < size(); ++r) {
    if (r == rank()) continue;
    const size_t count = static_cast<size_t>(Slice(spec, r));
    const char* const in = At(spec.in, Begin(spec, r));
    char* const received = At(pending.buffer.raw(), slot++ * own);
    if (count > 0) NCCL_CHECK(nccl_, Send(in, count, ncclUint8, r, main_.comm, Handle(main_.stream)));
    if (own == 0) continue;
    NCCL_CHECK(nccl_, Recv(received, static_cast<size_t>(own), ncclUint8, r, main_.comm, Handle(main_.stream)));
  }
  NCCL_CHECK(nccl_, GroupEnd());
  TreeSum({.own = {At(spec.in, Begin(spec, rank())), spec.dtype},
           .others = {pending.buffer.raw(), spec.dtype},
           .ranks = size(),
           .rank = rank(),
           .out = {out, spec.dtype},
           .count = own / SizeOf(spec.dtype)},
          main_.stream);
}

// A peer that is gone would let the device wait for ever.
void NcclCommunicator::WaitOnHost(const Event& end) {
  while (!end.Done()) {
    const absl::Status health = Health();
    CHECK(health.ok()) << health.message();
    std::this_thread::sleep_for(kPollSleep);
  }
}

// Tells the log what the device has passed since somebody last asked. Lanes end in an order of their own; what is done
// behind something that is not, waits for it.
void NcclCommunicator::EndFinished() {
  std::lock_guard<std::mutex> lock(mutex_);
  while (!unfinished_.empty() && unfinished_.front()->end.Done()) {
    log()->End(unfinished_.front()->log_number, std::chrono::steady_clock::now());
    unfinished_.pop_front();
  }
}

absl::Status NcclCommunicator::Health() {
  UseDevice(device());  // the caller is a thread of its own, whose questions would else start up the first device
  EndFinished();
  std::lock_guard<std::mutex> lock(mutex_);
  if (aborted_) return absl::AbortedError(absl::StrCat("nccl: axis ", name(), " was aborted"));
  const auto check = [&](const Lane& lane) -> absl::Status {
    if (lane.comm == nullptr) return absl::OkStatus();
    ncclResult_t error = ncclSuccess;
    const ncclResult_t asked = nccl_.CommGetAsyncError(lane.comm, &error);
    if (asked != ncclSuccess) error = asked;
    if (error == ncclSuccess || error == ncclInProgress) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("nccl: rank ", rank(), " of axis ", name(), ": ",
                                               nccl_.GetErrorString(error), ": ", nccl_.GetLastError(lane.comm)));
  };
  RETURN_IF_ERROR(check(main_));
  for (const Lane& lane : messages_) RETURN_IF_ERROR(check(lane));
  return absl::OkStatus();
}

void NcclCommunicator::AbortDevice() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (std::exchange(aborted_, true)) return;
  // NCCL first tells its kernels to leave, then waits for every graph that holds the communicator to be destroyed,
  // which nobody is left to do: each on a thread that the end of the process takes along.
  const auto abort = [&](const Lane& lane) {
    if (lane.comm == nullptr) return;
    std::thread([&nccl = nccl_, comm = lane.comm, device = device()] {
      UseDevice(device);
      nccl.CommAbort(comm);  // its result would change nothing
    }).detach();
  };
  abort(main_);
  for (const Lane& lane : messages_) abort(lane);
}

}  // namespace

absl::Status NcclMissing() { return LoadNccl().status(); }

absl::StatusOr<std::unique_ptr<Communicator>> MakeNcclComm(Communicator& host, RankContext& context,
                                                           const DeviceCommOptions& options) {
  RETURN_IF_ERROR(AgreeStatus(host, NcclMissing()));
  auto comm = std::make_unique<NcclCommunicator>(host, context, *LoadNccl());
  RETURN_IF_ERROR(comm->Join(host, options));
  return comm;
}

}  // namespace shardit::cuda
