// Communication between the ranks of one mesh axis, or of the world. Backends on host memory: self (one rank, inline),
// and ranks joined by a transport (threads of one process, or MPI processes), whose collectives all run in
// parallel/comm/operation.h and whose results are therefore equal bit for bit. On the memory of GPUs:
// parallel/comm/device_comm.h.
//
// Order. Every rank of a communicator issues the same collectives, with the same counts, in the same order; nothing
// checks it at run time, so callers make it true by construction (a fixed bucket order, never "whichever is ready
// first"). Several may be in flight at once. Send and Recv match per (pair, tag) in the order of issue, and are free of
// the collectives' order. One thread at a time issues on a communicator; different threads use different communicators.
//
// Determinism. Sums depend on the inputs and the number of ranks only, not on arrival, message size or backend: every
// element is reduced in the tree order of parallel/comm/reduce.h, by one rank, and copied to the others.
//
// Buffers are memory of device(), the host's or a GPU's, of the caller, who keeps them in place, and leaves inputs
// unchanged, until the Work is done. A count of 0 is allowed and does not synchronise. Slices: rank r of n owns
// PartRange(count, n, r) of `count` elements, so counts that n does not divide need no padding.
//
// Failure. A transport error aborts the job. Mismatched calls are mistakes of ours: a hang, or an abort on a message of
// the wrong size.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "core/base/math.h"
#include "core/tensor/device.h"
#include "core/tensor/dtype.h"
#include "core/tensor/elements.h"
#include "parallel/comm/collective_log.h"
#include "parallel/comm/reduce.h"
#include "parallel/comm/traffic.h"
#include "parallel/comm/work.h"

namespace shardit {

template <class T>
concept Reducible = std::same_as<T, float> || std::same_as<T, BFloat16> || std::same_as<T, double> ||
    std::same_as<T, int32_t> || std::same_as<T, int64_t> || std::same_as<T, uint8_t>;
template <class T>
concept Movable = std::is_trivially_copyable_v<T>;

// Where a collective was called, for the log and traces, and whether it is control (flags, statuses, sizes), which is
// counted apart from data. `tag` is a string literal.
struct CallSite {
  const char* tag = "";
  bool control = false;
};

// One collective as a backend receives it. Offsets and sizes are in bytes.
struct CollectiveSpec {
  CollectiveKind kind = CollectiveKind::kBarrier;
  const void* in = nullptr;
  void* out = nullptr;
  std::vector<int64_t> offsets;  // rank r's slice is [offsets[r], offsets[r+1]); {0, bytes} where there are no slices
  DType dtype = DType::kU8;      // reductions
  ReduceOp op = ReduceOp::kSum;  // reductions
  int peer = -1;                 // root of broadcast and gather; peer of send and receive
  int tag = 0;                   // send and receive
  int64_t sequence = 0;          // number of this collective on its communicator; sends and receives not counted
  CallSite site;

  int64_t bytes() const { return offsets.back(); }
};

class Communicator {
 public:
  // Tags of Send and Recv are below this.
  static constexpr int kMaxTag = 1 << 16;

  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  // The axis: "world", "pp", "dp", "tp", or what Split was given.
  const std::string& name() const { return name_; }
  // Where the buffers of collectives lie. GatherBytes, AllGatherBytes and Split are the host's business.
  virtual Device device() const { return Device::Cpu(); }
  // The rank's log.
  CollectiveLog* log() const { return log_; }
  // The part of `count` elements that this rank owns after ReduceScatter and contributes to AllGather.
  Range Slice(int64_t count) const { return PartRange(count, size_, rank_); }

  // out[i] = op over ranks of in[i], on every rank. In-place (in == out) allowed; no other overlap.
  template <Reducible T>
  Work AllReduce(const T* in, T* out, int64_t count, ReduceOp op, CallSite site = {}) {
    return Reduce(CollectiveKind::kAllReduce, in, out, SliceOffsets(count, sizeof(T)), DTypeOf<T>(), op, site);
  }

  // out[0 .. Slice(count).size()) = this rank's slice of the sum over ranks of in[0 .. count). In-place allowed where
  // out == in + Slice(count).begin; the rest of `in` is left as it was. No other overlap.
  template <Reducible T>
  Work ReduceScatter(const T* in, T* out, int64_t count, CallSite site = {}) {
    return Reduce(CollectiveKind::kReduceScatter, in, out, SliceOffsets(count, sizeof(T)), DTypeOf<T>(), ReduceOp::kSum,
                  site);
  }

  // out[0 .. count) = the ranks' slices; in[0 .. Slice(count).size()) is this rank's. In-place allowed where
  // in == out + Slice(count).begin; no other overlap.
  template <Movable T>
  Work AllGather(const T* in, T* out, int64_t count, CallSite site = {}) {
    return Move(CollectiveKind::kAllGather, in, out, SliceOffsets(count, sizeof(T)), site);
  }

  // The same with slices of the caller's choice: rank r's is [offsets[r], offsets[r + 1]) elements, ranks + 1 offsets,
  // equal on all ranks. In-place as above.
  template <Reducible T>
  Work ReduceScatter(const T* in, T* out, const std::vector<int64_t>& offsets, CallSite site = {}) {
    return Reduce(CollectiveKind::kReduceScatter, in, out, Bytes(offsets, sizeof(T)), DTypeOf<T>(), ReduceOp::kSum,
                  site);
  }
  template <Movable T>
  Work AllGather(const T* in, T* out, const std::vector<int64_t>& offsets, CallSite site = {}) {
    return Move(CollectiveKind::kAllGather, in, out, Bytes(offsets, sizeof(T)), site);
  }

  // The same on elements whose type the caller knows at run time only: tensors that are fp32 in one run and bf16 in
  // another. in and out are of one type (CHECK).
  Work AllReduce(ConstElements in, Elements out, int64_t count, ReduceOp op, CallSite site = {});
  Work ReduceScatter(ConstElements in, Elements out, const std::vector<int64_t>& offsets, CallSite site = {});
  Work AllGather(ConstElements in, Elements out, const std::vector<int64_t>& offsets, CallSite site = {});

  // data[0 .. count) becomes that of `root` on every rank.
  template <Movable T>
  Work Broadcast(T* data, int64_t count, int root, CallSite site = {}) {
    return Move(CollectiveKind::kBroadcast, data, data, {0, count * static_cast<int64_t>(sizeof(T))}, site, root);
  }

  // Done once every rank has called it.
  Work Barrier(CallSite site = {}) { return Move(CollectiveKind::kBarrier, nullptr, nullptr, {0, 0}, site); }

  // Point to point, peer != rank(), tag in [0, kMaxTag). A send may complete before its receive is issued.
  template <Movable T>
  Work Send(const T* data, int64_t count, int peer, int tag, CallSite site = {}) {
    return Move(CollectiveKind::kSend, data, nullptr, {0, count * static_cast<int64_t>(sizeof(T))}, site, peer, tag);
  }
  template <Movable T>
  Work Recv(T* data, int64_t count, int peer, int tag, CallSite site = {}) {
    return Move(CollectiveKind::kRecv, nullptr, data, {0, count * static_cast<int64_t>(sizeof(T))}, site, peer, tag);
  }
  Work Send(ConstElements data, int64_t count, int peer, int tag, CallSite site = {}) {
    return Move(CollectiveKind::kSend, data.raw(), nullptr, {0, count * SizeOf(data.dtype())}, site, peer, tag);
  }
  Work Recv(Elements data, int64_t count, int peer, int tag, CallSite site = {}) {
    return Move(CollectiveKind::kRecv, nullptr, data.raw(), {0, count * SizeOf(data.dtype())}, site, peer, tag);
  }

  // Byte strings of any length, one from each rank, in rank order: on `root` only (others get an empty vector), or on
  // all. Blocking. Lengths travel first, as control messages.
  std::vector<std::string> GatherBytes(std::string_view mine, int root, CallSite site = {});
  std::vector<std::string> AllGatherBytes(std::string_view mine, CallSite site = {});

  // The communicator of those ranks that gave the same color, ordered by key, then by rank here. Collective over this
  // communicator and blocking: for start-up, from one thread of the rank at a time. Split(0, rank(), name) is a
  // duplicate, whose operations neither wait for nor get mixed with this one's: checkpoint and control get their own.
  virtual std::unique_ptr<Communicator> Split(int color, int key, std::string name) = 0;

  // Counted when a collective is issued. Readable from any thread.
  TrafficCounters counters() const;
  // Counts what was not issued one by one: collectives that a graph repeats (parallel/comm/replayed_traffic.h).
  void AddTraffic(const TrafficCounters& traffic);

  // For a watchdog, from any thread; neither blocks. On a GPU the library meets errors of its own while collectives
  // run, a peer that left for one: the first of them, naming the axis. Also lets the log know what the device has
  // finished.
  virtual absl::Status Health() { return absl::OkStatus(); }

  // Whether its collectives can be recorded in a CUDA graph.
  virtual bool recordable() const { return true; }
  // Gives up what is under way on the device, so that whoever waits for it returns. Nothing can be issued any more: the
  // job is about to end.
  virtual void AbortDevice() {}

 protected:
  // `log` belongs to the rank and outlives the communicator.
  Communicator(int rank, int size, std::string name, CollectiveLog* log);

  // Runs the collective, now or later, and marks `work` started, then done. Called in the order of issue.
  virtual void Start(CollectiveSpec spec, std::shared_ptr<WorkState> work) = 0;

 private:
  friend class StagedCommunicator;  // issues on the host what it was given for a device

  Work Reduce(CollectiveKind kind, const void* in, void* out, std::vector<int64_t> offsets, DType dtype, ReduceOp op,
              CallSite site);
  Work Move(CollectiveKind kind, const void* in, void* out, std::vector<int64_t> offsets, CallSite site, int peer = -1,
            int tag = 0);
  Work Issue(CollectiveSpec spec, CallSite site);
  void CheckTypes(CollectiveKind kind, ConstElements in, Elements out) const;
  std::vector<int64_t> SliceOffsets(int64_t count, int64_t element_bytes) const;
  std::vector<int64_t> Bytes(const std::vector<int64_t>& offsets, int64_t element_bytes) const;
  std::vector<int64_t> ExchangeLengths(int64_t mine);

  const int rank_;
  const int size_;
  const std::string name_;
  CollectiveLog* const log_;
  int64_t collectives_ = 0;  // issued so far, without sends and receives

  mutable std::mutex counters_mutex_;
  TrafficCounters counters_;
};

}  // namespace shardit
