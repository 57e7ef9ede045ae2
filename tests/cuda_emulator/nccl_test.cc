// NCCL among threads.
#include "nccl.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <numeric>
#include <thread>
#include <vector>

#include "tests/cuda_emulator/test_support.h"

namespace cuda_emulator {
namespace {

void CheckNccl(ncclResult_t result) { ASSERT_EQ(result, ncclSuccess) << ncclGetErrorString(result); }

struct Member {
  int rank;
  int ranks;
  ncclComm_t comm;
  cudaStream_t stream;
};

// Runs `body` on a thread a rank, each with a communicator and a stream.
void OnRanks(int ranks, const std::function<void(Member&)>& body) {
  ncclUniqueId id;
  CheckNccl(ncclGetUniqueId(&id));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      Member member{rank, ranks, nullptr, nullptr};
      Check(cudaStreamCreateWithFlags(&member.stream, cudaStreamNonBlocking));
      CheckNccl(ncclCommInitRank(&member.comm, ranks, id, rank));
      body(member);
      Check(cudaStreamSynchronize(member.stream));
      if (member.comm != nullptr) CheckNccl(ncclCommDestroy(member.comm));
      Check(cudaStreamDestroy(member.stream));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

__global__ void ScaleKernel(float* data, float factor) { data[threadIdx.x] *= factor; }

template <class T>
std::vector<T> Iota(size_t count, int begin) {
  std::vector<T> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<T>(static_cast<float>(begin + static_cast<int>(i)));
  return values;
}

template <class T>
std::vector<T> Read(Member& m, DeviceArray<T>& array) {
  Check(cudaStreamSynchronize(m.stream));
  return array.ToHost();
}

template <class T>
void TestAllReduce(ncclDataType_t type) {
  OnRanks(3, [&](Member& m) {
    DeviceArray<T> data(Iota<T>(10, m.rank * 5)), out(10);
    for (const ncclRedOp_t op : {ncclSum, ncclMin, ncclMax}) {
      CheckNccl(ncclAllReduce(data.data(), out.data(), 10, type, op, m.comm, m.stream));
      const std::vector<T> host = Read(m, out);
      for (int i = 0; i < 10; ++i) {
        const int expected = op == ncclSum ? 3 * i + 15 : op == ncclMin ? i : i + 10;
        EXPECT_EQ(static_cast<float>(host[static_cast<size_t>(i)]), static_cast<float>(expected));
      }
    }
    CheckNccl(ncclAllReduce(data.data(), data.data(), 10, type, ncclSum, m.comm, m.stream));  // in place
    EXPECT_EQ(static_cast<float>(Read(m, data)[9]), 42.0f);
  });
}

TEST(Nccl, ReducesEveryType) {
  TestAllReduce<float>(ncclFloat32);
  TestAllReduce<double>(ncclFloat64);
  TestAllReduce<__nv_bfloat16>(ncclBfloat16);
  TestAllReduce<int32_t>(ncclInt32);
  TestAllReduce<int64_t>(ncclInt64);
  TestAllReduce<uint8_t>(ncclUint8);
}

TEST(Nccl, ScattersGathersAndBroadcasts) {
  OnRanks(3, [](Member& m) {
    DeviceArray<int> in(Iota<int>(6, m.rank)), slice(2), all(6), root(Iota<int>(6, 100 * m.rank));
    CheckNccl(ncclReduceScatter(in.data(), slice.data(), 2, ncclInt32, ncclSum, m.comm, m.stream));
    CheckNccl(ncclAllGather(slice.data(), all.data(), 2, ncclInt32, m.comm, m.stream));
    CheckNccl(ncclBroadcast(root.data(), root.data(), 6, ncclInt32, 2, m.comm, m.stream));
    const int begin = 6 * m.rank + 3;
    EXPECT_EQ(Read(m, slice), (std::vector<int>{begin, begin + 3}));
    EXPECT_EQ(Read(m, all), (std::vector<int>{3, 6, 9, 12, 15, 18}));
    EXPECT_EQ(Read(m, root), Iota<int>(6, 200));
    // In place: a rank's slice within the whole.
    CheckNccl(ncclReduceScatter(in.data(), in.data() + 2 * m.rank, 2, ncclInt32, ncclSum, m.comm, m.stream));
    CheckNccl(ncclAllGather(in.data() + 2 * m.rank, in.data(), 2, ncclInt32, m.comm, m.stream));
    EXPECT_EQ(Read(m, in), (std::vector<int>{3, 6, 9, 12, 15, 18}));
    int count = 0, rank = -1;
    CheckNccl(ncclCommCount(m.comm, &count));
    CheckNccl(ncclCommUserRank(m.comm, &rank));
    EXPECT_EQ(count, 3);
    EXPECT_EQ(rank, m.rank);
  });
}

TEST(Nccl, SendsAroundARingInGroups) {
  OnRanks(3, [](Member& m) {
    DeviceArray<int> mine(std::vector<int>{m.rank}), other(1);
    for (int round = 0; round < 3; ++round) {
      CheckNccl(ncclGroupStart());
      CheckNccl(ncclSend(mine.data(), 1, ncclInt32, (m.rank + 1) % 3, m.comm, m.stream));
      CheckNccl(ncclRecv(other.data(), 1, ncclInt32, (m.rank + 2) % 3, m.comm, m.stream));
      CheckNccl(ncclGroupEnd());
      Check(cudaMemcpyAsync(mine.data(), other.data(), 4, cudaMemcpyDeviceToDevice, m.stream));
    }
    EXPECT_EQ(Read(m, mine)[0], m.rank);
    EXPECT_EQ(Read(m, other)[0], m.rank);
  });
}

// Streams of one rank: collectives keep the order of issue, and wait for their own stream's kernels only.
TEST(Nccl, FollowsStreams) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SeedScope scope(seed);
    OnRanks(2, [](Member& m) {
      cudaStream_t other = nullptr;
      Check(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
      DeviceArray<float> data(std::vector<float>(4, 1.0f)), more(std::vector<float>(4, 1.0f));
      Launch(ScaleKernel, 1, 4, 0, m.stream, data.data(), 3.0f);
      CheckNccl(ncclAllReduce(data.data(), data.data(), 4, ncclFloat32, ncclSum, m.comm, m.stream));
      CheckNccl(ncclAllReduce(more.data(), more.data(), 4, ncclFloat32, ncclSum, m.comm, other));
      Launch(ScaleKernel, 1, 4, 0, m.stream, data.data(), 0.5f);
      Check(cudaStreamSynchronize(other));
      EXPECT_EQ(more.ToHost()[0], 2.0f);
      EXPECT_EQ(Read(m, data)[3], 3.0f);
      Check(cudaStreamDestroy(other));
    });
  }
}

TEST(Nccl, IsRecordedInGraphs) {
  OnRanks(3, [](Member& m) {
    DeviceArray<float> data(std::vector<float>(4, 1.0f));
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    Check(cudaStreamBeginCapture(m.stream, cudaStreamCaptureModeThreadLocal));
    CheckNccl(ncclAllReduce(data.data(), data.data(), 4, ncclFloat32, ncclSum, m.comm, m.stream));
    Launch(ScaleKernel, 1, 4, 0, m.stream, data.data(), 2.0f);
    CheckNccl(ncclAllReduce(data.data(), data.data(), 4, ncclFloat32, ncclSum, m.comm, m.stream));
    Check(cudaStreamEndCapture(m.stream, &graph));
    Check(cudaGraphInstantiate(&executable, graph, 0));
    for (int i = 0; i < 2; ++i) Check(cudaGraphLaunch(executable, m.stream));
    CheckNccl(ncclAllReduce(data.data(), data.data(), 4, ncclFloat32, ncclSum, m.comm, m.stream));
    EXPECT_EQ(Read(m, data)[3], 3.0f * 18.0f * 18.0f);
    Check(cudaGraphExecDestroy(executable));
    Check(cudaGraphDestroy(graph));
  });
}

TEST(Nccl, SplitsByColorAndKey) {
  OnRanks(3, [](Member& m) {
    ncclComm_t part = nullptr, none = nullptr;
    CheckNccl(ncclCommSplit(m.comm, m.rank == 1 ? 7 : 3, -m.rank, &part, nullptr));
    CheckNccl(ncclCommSplit(m.comm, m.rank == 0 ? NCCL_SPLIT_NOCOLOR : 0, 0, &none, nullptr));
    int count = 0, rank = -1;
    CheckNccl(ncclCommCount(part, &count));
    CheckNccl(ncclCommUserRank(part, &rank));
    EXPECT_EQ(count, m.rank == 1 ? 1 : 2);
    EXPECT_EQ(rank, m.rank == 0 ? 1 : 0);
    EXPECT_EQ(none == nullptr, m.rank == 0);
    DeviceArray<int> data(std::vector<int>{10 + m.rank});
    CheckNccl(ncclAllReduce(data.data(), data.data(), 1, ncclInt32, ncclSum, part, m.stream));
    EXPECT_EQ(Read(m, data)[0], m.rank == 1 ? 11 : 22);
    CheckNccl(ncclCommDestroy(part));
    CheckNccl(ncclCommDestroy(none));
  });
}

void Poll(ncclComm_t comm) {
  ncclResult_t state = ncclInProgress;
  int polls = 0;
  while (state == ncclInProgress) {
    CheckNccl(ncclCommGetAsyncError(comm, &state));
    ++polls;
    std::this_thread::yield();
  }
  CheckNccl(state);
  EXPECT_GT(polls, 1);
}

TEST(Nccl, NonBlockingCallsArePolled) {
  ncclUniqueId id;
  CheckNccl(ncclGetUniqueId(&id));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
      config.blocking = 0;
      ncclComm_t comm = nullptr;
      EXPECT_EQ(ncclCommInitRankConfig(&comm, 2, id, rank, &config), ncclInProgress);
      DeviceArray<int> data(std::vector<int>{rank + 1});
      EXPECT_EQ(ncclAllReduce(data.data(), data.data(), 1, ncclInt32, ncclSum, comm, nullptr), ncclInvalidArgument);
      Poll(comm);
      cudaStream_t stream = nullptr;
      Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
      EXPECT_EQ(ncclAllReduce(data.data(), data.data(), 1, ncclInt32, ncclSum, comm, stream), ncclInProgress);
      Poll(comm);
      Check(cudaStreamSynchronize(stream));
      EXPECT_EQ(data.ToHost()[0], 3);
      CheckNccl(ncclCommDestroy(comm));
      Check(cudaStreamDestroy(stream));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Nccl, DeviceSynchronisationWaitsForPeers) {
  OnRanks(2, [](Member& m) {
    DeviceArray<int> data(std::vector<int>{1});
    if (m.rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    CheckNccl(ncclAllReduce(data.data(), data.data(), 1, ncclInt32, ncclSum, m.comm, m.stream));
    Check(cudaDeviceSynchronize());
    Check(cudaStreamQuery(m.stream));
  });
}

// As NCCL connects: the first message blocks the host until its peer makes the other call; later ones do not, in that
// direction.
TEST(Nccl, FirstMessagesWaitForTheOtherHost) {
  std::atomic<bool> called[2] = {};
  OnRanks(2, [&](Member& m) {
    DeviceArray<int> data(std::vector<int>{m.rank});
    for (int message = 0; message < 2; ++message) {
      if (m.rank == 0) {
        CheckNccl(ncclSend(data.data(), 1, ncclInt32, 1, m.comm, m.stream));
        EXPECT_EQ(called[message].load(), message == 0);
        if (message == 1) called[1] = true;
        continue;
      }
      while (message == 1 && !called[1]) std::this_thread::yield();
      if (message == 0) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      if (message == 0) called[0] = true;
      CheckNccl(ncclRecv(data.data(), 1, ncclInt32, 0, m.comm, m.stream));
    }
    EXPECT_EQ(Read(m, data)[0], 0);
  });
}

// As NCCL says of the ranks of one host.
TEST(Nccl, RanksLeaveTogether) {
  std::atomic<bool> other_leaves = false;
  OnRanks(2, [&](Member& m) {
    if (m.rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    if (m.rank == 1) other_leaves = true;
    CheckNccl(ncclCommDestroy(m.comm));
    m.comm = nullptr;
    EXPECT_TRUE(other_leaves.load());
  });
}

// A rank whose peer never comes: aborting lets its stream go on.
TEST(Nccl, AbortLetsStreamsGoOn) {
  OnRanks(2, [](Member& m) {
    DeviceArray<int> data(std::vector<int>{1});
    if (m.rank == 1) return;
    CheckNccl(ncclAllReduce(data.data(), data.data(), 1, ncclInt32, ncclSum, m.comm, m.stream));
    EXPECT_EQ(cudaStreamQuery(m.stream), cudaErrorNotReady);
    CheckNccl(ncclCommAbort(m.comm));
    m.comm = nullptr;
    Check(cudaStreamSynchronize(m.stream));
    cudaGetLastError();
  });
}

TEST(Nccl, ChecksArguments) {
  OnRanks(1, [](Member& m) {
    std::vector<float> host(4);
    DeviceArray<float> data(4);
    EXPECT_EQ(ncclAllReduce(host.data(), data.data(), 4, ncclFloat32, ncclSum, m.comm, m.stream), ncclInvalidArgument);
    EXPECT_EQ(ncclBroadcast(data.data(), data.data(), 4, ncclFloat32, 1, m.comm, m.stream), ncclInvalidArgument);
    ncclConfig_t config{};
    ncclComm_t comm = nullptr;
    ncclUniqueId id;
    CheckNccl(ncclGetUniqueId(&id));
    EXPECT_EQ(ncclCommInitRankConfig(&comm, 1, id, 0, &config), ncclInvalidArgument);
  });
}

void DifferentCounts() {
  OnRanks(2, [](Member& m) {
    DeviceArray<float> data(std::vector<float>(8, 0.0f));
    const size_t count = m.rank == 0 ? 4 : 8;
    CheckNccl(ncclAllReduce(data.data(), data.data(), count, ncclFloat32, ncclSum, m.comm, m.stream));
    Check(cudaStreamSynchronize(m.stream));
  });
}

void PeerNeverComes() {
  GlobalSettings().hang_seconds = 1;
  OnRanks(2, [](Member& m) {
    DeviceArray<float> data(std::vector<float>(8, 0.0f));
    if (m.rank == 0) CheckNccl(ncclAllReduce(data.data(), data.data(), 8, ncclFloat32, ncclSum, m.comm, m.stream));
    Check(cudaStreamSynchronize(m.stream));
  });
}

TEST(NcclDeathTest, MistakesEndTheProgram) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // they start threads
  EXPECT_DEATH(DifferentCounts(), "the ranks' collectives differ: ncclAllReduce of [48] elements");
  EXPECT_DEATH(PeerNeverComes(), "a host thread waits(.|\n)*rank 0 of 2, ncclAllReduce of 8 elements");
}

}  // namespace
}  // namespace cuda_emulator
