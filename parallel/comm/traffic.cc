#include "parallel/comm/traffic.h"

#include "core/base/check.h"

namespace shardit {

std::string_view Name(CollectiveKind kind) {
  switch (kind) {
    case CollectiveKind::kAllReduce:
      return "all-reduce";
    case CollectiveKind::kReduceScatter:
      return "reduce-scatter";
    case CollectiveKind::kAllGather:
      return "all-gather";
    case CollectiveKind::kBroadcast:
      return "broadcast";
    case CollectiveKind::kGather:
      return "gather";
    case CollectiveKind::kBarrier:
      return "barrier";
    case CollectiveKind::kSend:
      return "send";
    case CollectiveKind::kRecv:
      return "receive";
  }
  return "?";
}

int64_t RingBytes(CollectiveKind kind, std::span<const int64_t> offsets, int rank, int ranks, int root) {
  const int64_t total = offsets.back();
  const int next = (rank + 1) % ranks;
  const auto slice = [&](int r) {
    CHECK_EQ(offsets.size(), static_cast<size_t>(ranks) + 1);
    return offsets[r + 1] - offsets[r];
  };
  switch (kind) {
    case CollectiveKind::kAllReduce:
      return 2 * total - slice(rank) - slice(next);
    case CollectiveKind::kReduceScatter:
      return total - slice(rank);
    case CollectiveKind::kAllGather:
      return total - slice(next);
    case CollectiveKind::kBroadcast:
      return next == root ? 0 : total;
    case CollectiveKind::kGather:
      return rank == root ? 0 : slice(rank);
    case CollectiveKind::kSend:
      return total;
    case CollectiveKind::kBarrier:
    case CollectiveKind::kRecv:
      return 0;
  }
  return 0;
}

Traffic& Traffic::operator+=(const Traffic& other) {
  calls += other.calls;
  payload_bytes += other.payload_bytes;
  ring_bytes += other.ring_bytes;
  return *this;
}

Traffic& Traffic::operator-=(const Traffic& other) {
  calls -= other.calls;
  payload_bytes -= other.payload_bytes;
  ring_bytes -= other.ring_bytes;
  return *this;
}

TrafficCounters& TrafficCounters::operator+=(const TrafficCounters& other) {
  for (size_t kind = 0; kind < data.size(); ++kind) {
    data[kind] += other.data[kind];
    control[kind] += other.control[kind];
  }
  return *this;
}

TrafficCounters TrafficCounters::Since(const TrafficCounters& earlier) const {
  TrafficCounters since = *this;
  for (size_t kind = 0; kind < data.size(); ++kind) {
    since.data[kind] -= earlier.data[kind];
    since.control[kind] -= earlier.control[kind];
  }
  return since;
}

Traffic TrafficCounters::TotalData() const {
  Traffic total;
  for (const Traffic& traffic : data) total += traffic;
  return total;
}

Traffic TrafficCounters::TotalControl() const {
  Traffic total;
  for (const Traffic& traffic : control) total += traffic;
  return total;
}

}  // namespace shardit
