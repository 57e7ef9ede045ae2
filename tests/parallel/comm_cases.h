// Collective cases that every backend must pass: each function is called by all ranks of a communicator. Expected
// values are computed here from the inputs of all ranks, which are functions of (rank, element).
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "core/base/math.h"
#include "parallel/comm/communicator.h"

namespace shardit::comm_cases {

inline const std::vector<int64_t> kCounts = {0, 1, 7, 1009, 30011};
// Several segments of a slice, on up to four ranks.
inline constexpr int64_t kLargeCount = 1000003;

// Small whole numbers: sums over a few ranks are exact in every dtype.
template <class T>
T WholeInput(int rank, int64_t i) {
  return static_cast<T>((rank * 5 + i * 3 + i / 17) % 13 + (std::is_same_v<T, uint8_t> ? 0 : -6));
}

template <>
inline BFloat16 WholeInput(int rank, int64_t i) {
  return BFloat16::FromFloat(WholeInput<float>(rank, i));
}

// Floats of very different sizes, whose sum depends on the order of addition.
inline float RoughInput(int rank, int64_t i) {
  uint64_t h = (static_cast<uint64_t>(rank) << 40) + static_cast<uint64_t>(i) + 1;
  h *= 0x9e3779b97f4a7c15ull;
  h ^= h >> 29;
  h *= 0xbf58476d1ce4e5b9ull;
  h ^= h >> 32;
  const float mantissa = static_cast<float>(static_cast<int32_t>(h & 0xffffff) - 0x800000) / 0x800000;
  return std::ldexp(mantissa, static_cast<int>((h >> 24) % 24));
}

// The documented order, written apart from the product's: pairs of neighbours are added, level by level, and an odd one
// is carried up.
inline float TreeSum(std::vector<float> values) {
  while (values.size() > 1) {
    std::vector<float> next;
    for (size_t i = 0; i + 1 < values.size(); i += 2) next.push_back(values[i] + values[i + 1]);
    if (values.size() % 2 == 1) next.push_back(values.back());
    values = next;
  }
  return values[0];
}

template <class T, class Input>
std::vector<T> Filled(int rank, int64_t count, Input input) {
  std::vector<T> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = input(rank, i);
  return values;
}

template <class T>
T Expected(ReduceOp op, int ranks, int64_t i) {
  T result = WholeInput<T>(0, i);
  for (int r = 1; r < ranks; ++r) {
    const T x = WholeInput<T>(r, i);
    result = op == ReduceOp::kSum   ? static_cast<T>(result + x)
             : op == ReduceOp::kMin ? std::min(result, x)
                                    : std::max(result, x);
  }
  return result;
}

template <>
inline BFloat16 Expected(ReduceOp op, int ranks, int64_t i) {
  return BFloat16::FromFloat(Expected<float>(op, ranks, i));
}

// Index of the first difference in bits, -1 if none.
template <class T>
int64_t FirstDifference(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0) return static_cast<int64_t>(i);
  }
  return -1;
}

template <class T>
void AllReduceCase(Communicator& comm, ReduceOp op, int64_t count, bool in_place) {
  const std::vector<T> in = Filled<T>(comm.rank(), count, WholeInput<T>);
  std::vector<T> out = in_place ? in : std::vector<T>(count, T{99});
  comm.AllReduce(in_place ? out.data() : in.data(), out.data(), count, op).Wait();
  const std::vector<T> expected = Filled<T>(0, count, [&](int, int64_t i) { return Expected<T>(op, comm.size(), i); });
  EXPECT_EQ(FirstDifference(out, expected), -1) << Name(DTypeOf<T>()) << " count " << count << " in place " << in_place;
}

template <class T>
void ReduceScatterCase(Communicator& comm, int64_t count, bool in_place) {
  std::vector<T> in = Filled<T>(comm.rank(), count, WholeInput<T>);
  const Range slice = comm.Slice(count);
  std::vector<T> apart(slice.size(), T{99});
  T* out = in_place ? in.data() + slice.begin : apart.data();
  comm.ReduceScatter(in.data(), out, count).Wait();
  const std::vector<T> expected = Filled<T>(
      0, slice.size(), [&](int, int64_t i) { return Expected<T>(ReduceOp::kSum, comm.size(), slice.begin + i); });
  EXPECT_EQ(FirstDifference(std::vector<T>(out, out + slice.size()), expected), -1) << "elements " << count;
  for (int64_t i = 0; in_place && i < count; ++i) {
    if (i >= slice.begin && i < slice.end) continue;
    const T before = WholeInput<T>(comm.rank(), i);
    ASSERT_EQ(std::memcmp(&in[i], &before, sizeof(T)), 0) << "input outside the slice changed";
  }
}

template <class T>
void AllGatherCase(Communicator& comm, int64_t count, bool in_place) {
  const Range slice = comm.Slice(count);
  const std::vector<T> whole = Filled<T>(0, count, WholeInput<T>);
  const std::vector<T> mine(whole.begin() + slice.begin, whole.begin() + slice.end);
  std::vector<T> out(count, T{99});
  std::copy(mine.begin(), mine.end(), out.begin() + slice.begin);
  comm.AllGather(in_place ? out.data() + slice.begin : mine.data(), out.data(), count).Wait();
  EXPECT_EQ(FirstDifference(out, whole), -1) << "count " << count << " in place " << in_place;
}

template <class T>
void BroadcastCase(Communicator& comm, int64_t count, int root) {
  std::vector<T> data = Filled<T>(comm.rank(), count, WholeInput<T>);
  comm.Broadcast(data.data(), count, root).Wait();
  EXPECT_EQ(FirstDifference(data, Filled<T>(root, count, WholeInput<T>)), -1) << "count " << count << " root " << root;
}

template <class T>
void AllCases(Communicator& comm) {
  for (const int64_t count : kCounts) {
    for (const bool in_place : {false, true}) {
      for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax}) {
        AllReduceCase<T>(comm, op, count, in_place);
      }
      ReduceScatterCase<T>(comm, count, in_place);
      AllGatherCase<T>(comm, count, in_place);
    }
    BroadcastCase<T>(comm, count, 0);
    BroadcastCase<T>(comm, count, comm.size() - 1);
  }
}

inline void AllDtypes(Communicator& comm) {
  AllCases<float>(comm);
  AllCases<BFloat16>(comm);
  AllCases<double>(comm);
  AllCases<int32_t>(comm);
  AllCases<int64_t>(comm);
  AllCases<uint8_t>(comm);
  for (const bool in_place : {false, true}) {
    AllReduceCase<float>(comm, ReduceOp::kSum, kLargeCount, in_place);
    ReduceScatterCase<float>(comm, kLargeCount, in_place);
    AllGatherCase<float>(comm, kLargeCount, in_place);
  }
  BroadcastCase<float>(comm, kLargeCount, comm.size() / 2);
}

// bf16 is summed in fp32 and rounded once, whatever algorithm the size selects.
inline void BFloat16SumOrder(Communicator& comm) {
  const auto input = [](int rank, int64_t i) { return BFloat16::FromFloat(RoughInput(rank, i)); };
  for (const int64_t count : {1, 5, 4096, 4097, 30011}) {
    const std::vector<BFloat16> expected = Filled<BFloat16>(0, count, [&](int, int64_t i) {
      std::vector<float> inputs;
      for (int r = 0; r < comm.size(); ++r) inputs.push_back(input(r, i).ToFloat());
      return BFloat16::FromFloat(TreeSum(inputs));
    });
    std::vector<BFloat16> data = Filled<BFloat16>(comm.rank(), count, input);
    comm.AllReduce(data.data(), data.data(), count, ReduceOp::kSum).Wait();
    EXPECT_EQ(FirstDifference(data, expected), -1) << "all-reduce of " << count;

    const Range slice = comm.Slice(count);
    const std::vector<BFloat16> in = Filled<BFloat16>(comm.rank(), count, input);
    std::vector<BFloat16> out(static_cast<size_t>(slice.size()));
    comm.ReduceScatter(in.data(), out.data(), count).Wait();
    const std::vector<BFloat16> part(expected.begin() + slice.begin, expected.begin() + slice.end);
    EXPECT_EQ(FirstDifference(out, part), -1) << "reduce-scatter of " << count;
  }
}

inline std::vector<float> RoughAllReduce(Communicator& comm, int64_t count) {
  std::vector<float> data = Filled<float>(comm.rank(), count, RoughInput);
  comm.AllReduce(data.data(), data.data(), count, ReduceOp::kSum).Wait();
  return data;
}

// Sums whose value depends on the order have the documented one, whatever algorithm the size selects.
inline void SumOrder(Communicator& comm) {
  for (const int64_t count : {1, 5, 2048, 2049, 30011}) {
    const std::vector<float> expected = Filled<float>(0, count, [&](int, int64_t i) {
      std::vector<float> inputs;
      for (int r = 0; r < comm.size(); ++r) inputs.push_back(RoughInput(r, i));
      return TreeSum(inputs);
    });
    EXPECT_EQ(FirstDifference(RoughAllReduce(comm, count), expected), -1) << "all-reduce of " << count;

    const Range slice = comm.Slice(count);
    const std::vector<float> in = Filled<float>(comm.rank(), count, RoughInput);
    std::vector<float> out(slice.size());
    comm.ReduceScatter(in.data(), out.data(), count).Wait();
    const std::vector<float> part(expected.begin() + slice.begin, expected.begin() + slice.end);
    EXPECT_EQ(FirstDifference(out, part), -1) << "reduce-scatter of " << count;
  }
}

// Every rank sends to every other, two tags, in an order unlike the receives'.
inline void SendRecv(Communicator& comm) {
  constexpr int64_t kCount = 5003;
  std::vector<std::vector<int32_t>> sent, received;
  std::vector<Work> works;
  const auto stamp = [](int from, int to, int tag) { return from * 1000 + to * 10 + tag; };
  sent.reserve(2 * comm.size());
  received.reserve(2 * comm.size());
  for (int peer = 0; peer < comm.size(); ++peer) {
    if (peer == comm.rank()) continue;
    for (const int tag : {0, 1}) {
      sent.emplace_back(kCount, stamp(comm.rank(), peer, tag));
      works.push_back(comm.Send(sent.back().data(), kCount, peer, tag));
    }
    for (const int tag : {1, 0}) {
      received.emplace_back(kCount, -1);
      works.push_back(comm.Recv(received.back().data(), kCount, peer, tag));
    }
  }
  for (const Work& work : works) work.Wait();
  size_t next = 0;
  for (int peer = 0; peer < comm.size(); ++peer) {
    if (peer == comm.rank()) continue;
    for (const int tag : {1, 0}) {
      EXPECT_EQ(received[next++], std::vector<int32_t>(kCount, stamp(peer, comm.rank(), tag)));
    }
  }
}

// More collectives in flight than the backend runs at once, of mixed kinds and sizes, waited for in reverse.
inline void ManyInFlight(Communicator& comm) {
  constexpr int kWorks = 60;
  std::vector<std::vector<int64_t>> buffers(kWorks);
  std::vector<Work> works;
  for (int k = 0; k < kWorks; ++k) {
    const int64_t count = k % 3 == 0 ? 3 : k % 3 == 1 ? 2000 : 30001;
    buffers[k].assign(count, comm.rank() + k);
    if (k % 5 == 4) {
      works.push_back(comm.Broadcast(buffers[k].data(), count, k % comm.size()));
    } else {
      works.push_back(comm.AllReduce(buffers[k].data(), buffers[k].data(), count, ReduceOp::kSum));
    }
  }
  for (int k = kWorks - 1; k >= 0; --k) {
    works[k].Wait();
    EXPECT_TRUE(works[k].Done());
    EXPECT_LE(works[k].start(), works[k].end());
    const int64_t n = comm.size();
    const int64_t expected = k % 5 == 4 ? k % n + k : n * (n - 1) / 2 + n * k;
    EXPECT_EQ(buffers[k], std::vector<int64_t>(buffers[k].size(), expected)) << "collective " << k;
  }
}

inline void ByteStrings(Communicator& comm) {
  const auto text = [](int rank) { return std::string(rank * 3, static_cast<char>('a' + rank)); };
  std::vector<std::string> expected;
  for (int r = 0; r < comm.size(); ++r) expected.push_back(text(r));
  EXPECT_EQ(comm.AllGatherBytes(text(comm.rank())), expected);
  const int root = comm.size() - 1;
  const std::vector<std::string> gathered = comm.GatherBytes(text(comm.rank()), root);
  EXPECT_EQ(gathered, comm.rank() == root ? expected : std::vector<std::string>());
}

// Splits into odd and even ranks with reversed order.
inline void Splits(Communicator& comm) {
  const int color = comm.rank() % 2;
  auto half = comm.Split(color, -comm.rank(), "half");
  EXPECT_EQ(half->name(), "half");
  EXPECT_EQ(half->size(), (comm.size() + (color == 0 ? 1 : 0)) / 2);
  std::vector<int> ranks(half->size(), -1);
  const int mine = comm.rank();
  half->AllGather(&mine, ranks.data(), half->size()).Wait();
  for (const int rank : ranks) EXPECT_EQ(rank % 2, color);
  EXPECT_TRUE(std::is_sorted(ranks.rbegin(), ranks.rend()));
  EXPECT_EQ(half->rank(), std::find(ranks.begin(), ranks.end(), comm.rank()) - ranks.begin());
}

// Two duplicates, used in one order by even ranks and in the other by odd ranks: they neither wait for each other nor
// take each other's messages.
inline void Duplicates(Communicator& comm) {
  std::unique_ptr<Communicator> copies[2] = {comm.Split(0, comm.rank(), "a"), comm.Split(0, comm.rank(), "b")};
  int64_t sums[2] = {comm.rank(), 100 + comm.rank()};
  Work works[2];
  for (const int i : {comm.rank() % 2, 1 - comm.rank() % 2}) {
    EXPECT_EQ(copies[i]->rank(), comm.rank());
    EXPECT_EQ(copies[i]->size(), comm.size());
    works[i] = copies[i]->AllReduce(&sums[i], &sums[i], 1, ReduceOp::kSum);
  }
  for (const Work& work : works) work.Wait();
  const int64_t n = comm.size();
  EXPECT_EQ(sums[0], n * (n - 1) / 2);
  EXPECT_EQ(sums[1], 100 * n + n * (n - 1) / 2);
}

// Counters against closed forms, as integers; on a fresh duplicate, so that nothing else is counted.
inline void Counters(Communicator& parent) {
  auto comm = parent.Split(0, parent.rank(), "counted");
  const int64_t n = comm->size(), r = comm->rank();
  const int64_t count = 1000 * n;    // divisible: the textbook formulas hold
  const int64_t odd = 1000 * n + 1;  // rank 0 owns one element more
  std::vector<float> data(odd), part(odd);
  comm->AllReduce(data.data(), data.data(), count, ReduceOp::kSum).Wait();
  comm->AllReduce(data.data(), data.data(), odd, ReduceOp::kSum).Wait();
  comm->ReduceScatter(data.data(), part.data(), count).Wait();
  comm->ReduceScatter(data.data(), part.data(), odd).Wait();
  comm->AllGather(part.data(), data.data(), count).Wait();
  comm->Broadcast(data.data(), count, 0).Wait();
  comm->Barrier().Wait();
  const TrafficCounters counters = comm->counters();

  const int64_t total = 4 * count, slice = total / n;
  const int64_t own_extra = n > 1 && r == 0 ? 0 : 4, next_extra = n > 1 && (r + 1) % n == 0 ? 0 : 4;
  const int64_t odd_scatter = n == 1 ? 0 : total - slice + own_extra;
  const int64_t odd_gather = n == 1 ? 0 : total - slice + next_extra;
  EXPECT_EQ(counters.of(CollectiveKind::kAllReduce),
            (Traffic{2, 2 * total + 4, 2 * (n - 1) * slice + odd_scatter + odd_gather}));
  EXPECT_EQ(counters.of(CollectiveKind::kReduceScatter), (Traffic{2, 2 * total + 4, (n - 1) * slice + odd_scatter}));
  EXPECT_EQ(counters.of(CollectiveKind::kAllGather), (Traffic{1, total, (n - 1) * slice}));
  EXPECT_EQ(counters.of(CollectiveKind::kBroadcast), (Traffic{1, total, r == n - 1 ? 0 : total}));
  EXPECT_EQ(counters.of(CollectiveKind::kBarrier), (Traffic{1, 0, 0}));
  EXPECT_EQ(counters.TotalControl(), Traffic{});

  comm->AllReduce(data.data(), data.data(), count, ReduceOp::kMax, {"flag", /*control=*/true}).Wait();
  EXPECT_EQ(comm->counters().control_of(CollectiveKind::kAllReduce), (Traffic{1, total, 2 * (n - 1) * slice}));
  EXPECT_EQ(comm->counters().TotalData(), counters.TotalData());

  if (n == 1) return;
  const int next = static_cast<int>((r + 1) % n), previous = static_cast<int>((r + n - 1) % n);
  Work send = comm->Send(data.data(), 10, next, 0);
  comm->Recv(part.data(), 10, previous, 0).Wait();
  send.Wait();
  EXPECT_EQ(comm->counters().of(CollectiveKind::kSend), (Traffic{1, 40, 40}));
  EXPECT_EQ(comm->counters().of(CollectiveKind::kRecv), (Traffic{1, 40, 0}));
}

}  // namespace shardit::comm_cases
