// Streams run late, in any order that events allow; captures and graphs keep exactly the order that was asked for.
#include <gtest/gtest.h>

#include <functional>
#include <thread>
#include <vector>

#include "tests/cuda_emulator/test_support.h"

namespace cuda_emulator {
namespace {

__global__ void SetKernel(int* data, int value) { *data = value; }
__global__ void CopyKernel(int* to, const int* from) { *to = *from; }
__global__ void AddKernel(int* data, int value) { *data += value; }
__global__ void DoubleKernel(int* data) { *data *= 2; }

class Stream {
 public:
  explicit Stream(unsigned flags = cudaStreamNonBlocking) { Check(cudaStreamCreateWithFlags(&stream_, flags)); }
  ~Stream() { Check(cudaStreamDestroy(stream_)); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  explicit Event(unsigned flags = cudaEventDisableTiming) { Check(cudaEventCreateWithFlags(&event_, flags)); }
  ~Event() { Check(cudaEventDestroy(event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// A value in pinned memory, which the host may look at while work is under way.
class PinnedInt {
 public:
  explicit PinnedInt(int value) {
    Check(cudaMallocHost(&data_, sizeof(int)));
    *data_ = value;
  }
  ~PinnedInt() { Check(cudaFreeHost(data_)); }
  PinnedInt(const PinnedInt&) = delete;
  PinnedInt& operator=(const PinnedInt&) = delete;
  int* data() { return data_; }
  int value() const { return *static_cast<volatile int*>(data_); }

 private:
  int* data_ = nullptr;
};

void OneKernel(void (*kernel)(int*, int), int* data, int value, cudaStream_t stream) {
  Launch(kernel, 1, 1, 0, stream, data, value);
}

TEST(Streams, NothingRunsBeforeSomebodyWaits) {
  Stream stream;
  PinnedInt number(0);
  OneKernel(SetKernel, number.data(), 7, stream);
  EXPECT_EQ(number.value(), 0);
  Check(cudaStreamSynchronize(stream));
  EXPECT_EQ(number.value(), 7);
  SetImmediate(true);
  OneKernel(SetKernel, number.data(), 8, stream);
  EXPECT_EQ(number.value(), 8);
  SetImmediate(false);
}

TEST(Streams, ALongQueueRuns) {
  Stream stream;
  PinnedInt number(0);
  for (int i = 0; i < 5000; ++i) OneKernel(AddKernel, number.data(), 1, stream);
  EXPECT_GT(number.value(), 0);
  EXPECT_LT(number.value(), 5000);
  Check(cudaStreamSynchronize(stream));
  EXPECT_EQ(number.value(), 5000);
}

// How many of 40 seeds see the value that one stream computes and another reads, after `between` kernels of its own.
int Right(bool with_event, int before, int between) {
  int right = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SeedScope scope(seed);
    Stream producer, consumer;
    Event ready;
    DeviceArray<int> data(std::vector<int>{0, 0, 0});
    for (int i = 0; i < before; ++i) OneKernel(AddKernel, data.data(), 1, producer);
    Check(cudaEventRecord(ready, producer));
    for (int i = 0; i < between; ++i) OneKernel(AddKernel, data.data() + 1, 1, consumer);
    if (with_event) Check(cudaStreamWaitEvent(consumer, ready));
    Launch(CopyKernel, 1, 1, 0, consumer, data.data() + 2, data.data());
    Check(cudaStreamSynchronize(consumer));
    Check(cudaStreamSynchronize(producer));
    right += data.ToHost()[2] == before;
  }
  return right;
}

TEST(Streams, AMissingEventShows) {
  EXPECT_EQ(Right(true, 1, 20), 40);
  EXPECT_EQ(Right(true, 20, 1), 40);
  EXPECT_LT(Right(false, 1, 20), 35);  // even where the producer has a head start
  EXPECT_LT(Right(false, 20, 1), 35);
}

TEST(Streams, TheDefaultStreamWaitsForBlockingStreamsAndTheyForIt) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SeedScope scope(seed);
    Stream first(cudaStreamDefault), second(cudaStreamDefault);
    DeviceArray<int> data(std::vector<int>{1});
    OneKernel(AddKernel, data.data(), 2, first);
    Launch(DoubleKernel, 1, 1, 0, nullptr, data.data());
    OneKernel(AddKernel, data.data(), 5, second);
    Check(cudaStreamSynchronize(second));
    EXPECT_EQ(data.ToHost()[0], 11);
  }
}

TEST(Streams, QueriesMakeProgress) {
  Stream stream;
  Event begin(cudaEventDefault), end(cudaEventDefault);
  PinnedInt number(0);
  EXPECT_EQ(cudaEventQuery(end), cudaSuccess);  // never recorded
  Check(cudaEventRecord(begin, stream));
  for (int i = 0; i < 100; ++i) OneKernel(AddKernel, number.data(), 1, stream);
  Check(cudaEventRecord(end, stream));
  EXPECT_EQ(cudaEventQuery(end), cudaErrorNotReady);
  float milliseconds = -1;
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin, end), cudaErrorNotReady);
  int queries = 0;
  while (cudaStreamQuery(stream) == cudaErrorNotReady) ++queries;
  EXPECT_LT(queries, 100);
  EXPECT_EQ(number.value(), 100);
  Check(cudaEventElapsedTime(&milliseconds, begin, end));
  EXPECT_GE(milliseconds, 0);
  EXPECT_EQ(cudaGetLastError(), cudaErrorNotReady);
}

TEST(Streams, HostFunctionsRunInOrderAndMayNotCallCuda) {
  Stream stream;
  PinnedInt number(1);
  struct Seen {
    int* number;
    int value = 0;
    cudaError_t wait_error = cudaSuccess;
    cudaError_t free_error = cudaSuccess;
  } seen{number.data()};
  OneKernel(AddKernel, number.data(), 1, stream);
  Check(cudaLaunchHostFunc(
      stream,
      [](void* data) {
        Seen& seen = *static_cast<Seen*>(data);
        seen.value = *seen.number;
        seen.wait_error = cudaStreamSynchronize(nullptr);
        seen.free_error = cudaFree(nullptr);
      },
      &seen));
  OneKernel(AddKernel, number.data(), 1, stream);
  Check(cudaStreamSynchronize(stream));
  EXPECT_EQ(seen.value, 2);
  EXPECT_EQ(seen.wait_error, cudaErrorNotPermitted);
  EXPECT_EQ(seen.free_error, cudaErrorNotPermitted);
  cudaGetLastError();
  DeviceArray<int> device(1);
  EXPECT_DEATH(
      {
        OneKernel(SetKernel, device.data(), 1, stream);
        cudaLaunchHostFunc(
            stream, [](void* data) { *static_cast<int*>(data) = 1; }, device.data());
        cudaStreamSynchronize(stream);
      },
      "");
}

TEST(Streams, HandlesAreChecked) {
  cudaStream_t stream = nullptr;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  Check(cudaStreamDestroy(stream));
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
  cudaGetLastError();
}

// ---- Captures. ----

class Graph {
 public:
  Graph(cudaStream_t stream, const std::function<void()>& body) {
    cudaGraph_t graph = nullptr;
    Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    body();
    Check(cudaStreamEndCapture(stream, &graph));
    Check(cudaGraphGetNodes(graph, nullptr, &nodes_));
    Check(cudaGraphInstantiate(&executable_, graph, 0));
    Check(cudaGraphDestroy(graph));
  }
  ~Graph() { Check(cudaGraphExecDestroy(executable_)); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  size_t nodes() const { return nodes_; }
  void Launch(cudaStream_t stream) { Check(cudaGraphLaunch(executable_, stream)); }

 private:
  cudaGraphExec_t executable_ = nullptr;
  size_t nodes_ = 0;
};

TEST(Graphs, ReplayWhatWasRecorded) {
  Stream stream;
  DeviceArray<int> data(std::vector<int>{1});
  PinnedInt out(0);
  int argument = 3;
  Graph graph(stream, [&] {
    OneKernel(AddKernel, data.data(), argument, stream);
    argument = 100;
    Launch(DoubleKernel, 1, 1, 0, stream, data.data());
    Check(cudaMemcpyAsync(out.data(), data.data(), sizeof(int), cudaMemcpyDeviceToHost, stream));
  });
  EXPECT_EQ(graph.nodes(), 3u);
  EXPECT_EQ(data.ToHost()[0], 1);  // recorded only
  for (int i = 0; i < 3; ++i) graph.Launch(stream);
  EXPECT_EQ(out.value(), 0);
  Check(cudaStreamSynchronize(stream));
  EXPECT_EQ(out.value(), ((1 + 3) * 2 + 3) * 4 + 6);
}

// What a side stream reads of a number that the main stream overwrites; `order_second`: only after an event.
int Forked(uint64_t seed, bool order_second) {
  SeedScope scope(seed);
  Stream main, side;
  Event forked, joined, ordered;
  DeviceArray<int> data(std::vector<int>{1, 1, 0});
  Graph graph(main, [&] {
    OneKernel(AddKernel, data.data(), 1, main);
    Check(cudaEventRecord(forked, main));
    Check(cudaStreamWaitEvent(side, forked));
    for (int i = 0; i < 10; ++i) OneKernel(AddKernel, data.data() + 1, 1, side);
    Launch(CopyKernel, 1, 1, 0, side, data.data() + 2, data.data());
    Check(cudaEventRecord(ordered, side));
    if (order_second) Check(cudaStreamWaitEvent(main, ordered));
    OneKernel(SetKernel, data.data(), 50, main);  // the side stream may still read it
    Check(cudaEventRecord(joined, side));
    Check(cudaStreamWaitEvent(main, joined));
  });
  graph.Launch(main);
  Check(cudaStreamSynchronize(main));
  EXPECT_EQ(data.ToHost()[1], 11);
  EXPECT_EQ(data.ToHost()[0], 50);
  return data.ToHost()[2];
}

TEST(Graphs, KeepTheEdgesOfForksAndNoOthers) {
  int right = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    EXPECT_EQ(Forked(seed, true), 2);
    right += Forked(seed, false) == 2;
  }
  EXPECT_LT(right, 35);
}

TEST(Graphs, LaunchesFollowTheirStreamAndEachOther) {
  Stream first, second;
  DeviceArray<int> data(std::vector<int>{1});
  Graph graph(first, [&] { Launch(DoubleKernel, 1, 1, 0, first, data.data()); });
  OneKernel(AddKernel, data.data(), 1, first);
  graph.Launch(first);
  OneKernel(AddKernel, data.data(), 1, first);
  Event event;
  Check(cudaEventRecord(event, first));
  Check(cudaStreamWaitEvent(second, event));
  graph.Launch(second);
  Check(cudaStreamSynchronize(second));
  EXPECT_EQ(data.ToHost()[0], 10);
}

TEST(Graphs, LaunchesOfOneGraphDoNotOverlap) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SeedScope scope(seed);
    Stream first, second;
    DeviceArray<int> data(std::vector<int>{1});
    Graph graph(first, [&] {
      OneKernel(AddKernel, data.data(), 1, first);
      Launch(DoubleKernel, 1, 1, 0, first, data.data());
    });
    graph.Launch(first);
    graph.Launch(second);
    Check(cudaDeviceSynchronize());
    EXPECT_EQ(data.ToHost()[0], 10);
  }
}

cudaError_t EndCapture(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  const cudaError_t error = cudaStreamEndCapture(stream, &graph);
  if (graph != nullptr) Check(cudaGraphDestroy(graph));
  cudaGetLastError();
  return error;
}

TEST(Captures, RefuseWhatCannotBeRecorded) {
  Stream stream, blocking(cudaStreamDefault), other;
  Event event;
  void* memory = nullptr;
  int pageable = 0;
  DeviceArray<int> data(1);
  Check(cudaEventRecord(event, other));
  const std::pair<const char*, std::function<cudaError_t()>> calls[] = {
      {"synchronise", [&] { return cudaStreamSynchronize(stream); }},
      {"query", [&] { return cudaStreamQuery(stream); }},
      {"synchronise the device", [&] { return cudaDeviceSynchronize(); }},
      {"allocate", [&] { return cudaMalloc(&memory, 4); }},
      {"allocate pinned", [&] { return cudaMallocHost(&memory, 4); }},
      {"free", [&] { return cudaFree(nullptr); }},
      {"query an event", [&] { return cudaEventQuery(event); }},
      {"copy", [&] { return cudaMemcpy(&pageable, data.data(), 4, cudaMemcpyDeviceToHost); }},
      {"copy from pageable memory",
       [&] { return cudaMemcpyAsync(data.data(), &pageable, 4, cudaMemcpyHostToDevice, stream); }},
  };
  for (const auto& [name, call] : calls) {
    Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    EXPECT_EQ(call(), cudaErrorStreamCaptureUnsupported) << name;
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    Check(cudaStreamIsCapturing(stream, &status));
    EXPECT_EQ(status, cudaStreamCaptureStatusInvalidated) << name;
    EXPECT_EQ(EndCapture(stream), cudaErrorStreamCaptureInvalidated) << name;
  }
  // An event from outside; the default stream, which would wait for the capture.
  OneKernel(SetKernel, data.data(), 1, other);
  Check(cudaEventRecord(event, other));
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  EXPECT_EQ(cudaStreamWaitEvent(stream, event), cudaErrorStreamCaptureIsolation);
  EndCapture(stream);
  Check(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeThreadLocal));
  EXPECT_EQ(cudaMemsetAsync(data.data(), 0, 4, nullptr), cudaErrorStreamCaptureImplicit);
  EndCapture(blocking);
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeThreadLocal), cudaErrorStreamCaptureUnsupported);
  // All of it works again.
  Check(cudaMemsetAsync(data.data(), 0, 4, stream));
  Check(cudaStreamSynchronize(stream));
  cudaGetLastError();
}

TEST(Captures, EndOnTheirStreamAndThreadWithEverythingJoined) {
  Stream main, side;
  Event event;
  DeviceArray<int> data(1);
  Check(cudaStreamBeginCapture(main, cudaStreamCaptureModeThreadLocal));
  OneKernel(SetKernel, data.data(), 1, main);
  Check(cudaEventRecord(event, main));
  EXPECT_EQ(cudaEventQuery(event), cudaErrorCapturedEvent);
  Check(cudaStreamWaitEvent(side, event));
  OneKernel(SetKernel, data.data(), 2, side);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  Check(cudaStreamIsCapturing(side, &status));
  EXPECT_EQ(status, cudaStreamCaptureStatusActive);
  std::thread([&] { EXPECT_EQ(EndCapture(main), cudaErrorStreamCaptureWrongThread); }).join();
  EXPECT_EQ(EndCapture(main), cudaErrorStreamCaptureUnjoined);
  Check(cudaStreamIsCapturing(side, &status));
  EXPECT_EQ(status, cudaStreamCaptureStatusNone);
  Check(cudaStreamBeginCapture(main, cudaStreamCaptureModeThreadLocal));
  Check(cudaEventRecord(event, main));
  Check(cudaStreamWaitEvent(side, event));
  EXPECT_EQ(EndCapture(side), cudaErrorStreamCaptureUnmatched);
  EXPECT_EQ(EndCapture(main), cudaErrorStreamCaptureInvalidated);
}

void QueryWithoutDevice() {
  GlobalSettings().devices = 2;
  Event event;
  std::thread([&] { cudaEventQuery(event); }).join();
}

TEST(DevicesDeathTest, ThreadsChooseAmongSeveral) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(QueryWithoutDevice(), "a query on a thread that has chosen none of several devices");
}

// In thread-local mode other threads go on.
TEST(Captures, DoNotConcernOtherThreads) {
  Stream stream;
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  std::thread([] {
    void* memory = nullptr;
    Check(cudaMalloc(&memory, 4));
    Check(cudaDeviceSynchronize());
    Check(cudaFree(memory));
  }).join();
  EXPECT_EQ(EndCapture(stream), cudaSuccess);
}

}  // namespace
}  // namespace cuda_emulator
