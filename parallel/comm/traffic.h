// What a communicator was asked to move, as exact integers: calls, payload bytes and ring bytes by kind. Planned bytes
// and measured bytes come from the one function RingBytes, so a report can compare them with ==.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace shardit {

enum class CollectiveKind : uint8_t {
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kBroadcast,
  kGather,
  kBarrier,
  kSend,
  kRecv
};
inline constexpr int kCollectiveKinds = 8;

// "all-reduce", "reduce-scatter", ...
std::string_view Name(CollectiveKind kind);

// Bytes that `rank` sends when `kind` runs as a ring (one neighbour to the next, every slice once around). Backends may
// use another algorithm of the same or fewer bytes; the ring is the common measure. The ranks' slices of the payload
// are [offsets[r], offsets[r + 1]) in bytes, offsets.size() = ranks + 1; T = offsets.back(), s_r = size of slice r:
//   reduce-scatter  T - s_rank                (every slice but its own, which ends here)
//   all-gather      T - s_next                (every slice but the one that its successor contributes)
//   all-reduce      the sum of both; 2 (n - 1) / n T when the slices are equal
//   broadcast       T, and 0 on the last rank of the ring that starts at `root`
//   gather          s_rank, and 0 on `root`
//   send            T;  receive and barrier 0
// For broadcast, send and receive only T counts: offsets may be {0, T}, with `ranks` given apart.
int64_t RingBytes(CollectiveKind kind, std::span<const int64_t> offsets, int rank, int ranks, int root = 0);

struct Traffic {
  int64_t calls = 0;
  int64_t payload_bytes = 0;  // bytes of the whole result or operand: what the caller would hold if it were not sharded
  int64_t ring_bytes = 0;     // bytes sent by this rank

  Traffic& operator+=(const Traffic& other);
  Traffic& operator-=(const Traffic& other);
  friend bool operator==(const Traffic&, const Traffic&) = default;
};

// Counters of one communicator on one rank. Control messages (flags, statuses, sizes) are kept apart from data, so that
// data bytes equal the closed forms.
struct TrafficCounters {
  std::array<Traffic, kCollectiveKinds> data;
  std::array<Traffic, kCollectiveKinds> control;

  const Traffic& of(CollectiveKind kind) const { return data[static_cast<int>(kind)]; }
  const Traffic& control_of(CollectiveKind kind) const { return control[static_cast<int>(kind)]; }
  Traffic TotalData() const;
  Traffic TotalControl() const;
  TrafficCounters& operator+=(const TrafficCounters& other);
  // What came since `earlier` counters of the same communicator.
  TrafficCounters Since(const TrafficCounters& earlier) const;
};

}  // namespace shardit
