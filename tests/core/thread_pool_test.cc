#include "core/base/thread_pool.h"

#include <sched.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include "core/base/workspace.h"
#include "gtest/gtest.h"

namespace shardit {
namespace {

TEST(ThreadPool, RunsEveryThreadOnce) {
  for (const int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    std::vector<std::atomic<int>> calls(static_cast<size_t>(threads));
    for (int repeat = 0; repeat < 50; ++repeat) {
      pool.RunOnAll([&](int thread) { ++calls[static_cast<size_t>(thread)]; });
    }
    for (const auto& count : calls) EXPECT_EQ(count, 50);
  }
}

TEST(ThreadPool, ThreadsAreDistinctAndTheCallerIsThreadZero) {
  ThreadPool pool(4);
  std::mutex mutex;
  std::set<std::thread::id> ids;
  std::thread::id zero;
  pool.RunOnAll([&](int thread) {
    const std::lock_guard<std::mutex> lock(mutex);
    ids.insert(std::this_thread::get_id());
    if (thread == 0) zero = std::this_thread::get_id();
  });
  EXPECT_EQ(ids.size(), 4u);
  EXPECT_EQ(zero, std::this_thread::get_id());
}

// Plain memory on both sides: under the thread sanitizer this also proves the ordering that the header promises.
TEST(ThreadPool, WritesAreVisibleAcrossRegions) {
  ThreadPool pool(3);
  std::vector<int64_t> sums(3, 0);
  int64_t input = 0, want = 0;
  for (int step = 0; step < 2000; ++step) {
    input = step;
    want += 3 * step;
    pool.RunOnAll([&](int thread) { sums[static_cast<size_t>(thread)] += input; });
  }
  EXPECT_EQ(std::accumulate(sums.begin(), sums.end(), int64_t{0}), want);
}

TEST(ThreadPool, WakesWorkersThatSleep) {
  ThreadPool pool(2);
  for (int repeat = 0; repeat < 5; ++repeat) {
    int seen[2] = {0, 0};
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // longer than any spin
    pool.RunOnAll([&](int thread) {
      if (thread == 1) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // the caller sleeps in its turn
      seen[thread] = 1;
    });
    EXPECT_EQ(seen[0] + seen[1], 2);
  }
}

TEST(ThreadPool, ParallelForCoversTheRangeOnceAndStatically) {
  ThreadPool pool(3);
  for (const int64_t count : {0, 1, 2, 3, 10, 1000}) {
    std::vector<int> owner(static_cast<size_t>(count), -1), again(static_cast<size_t>(count), -1);
    for (std::vector<int>* owners : {&owner, &again}) {
      pool.ParallelFor(count, 1, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t i = begin; i < end; ++i) {
          EXPECT_EQ((*owners)[static_cast<size_t>(i)], -1);
          (*owners)[static_cast<size_t>(i)] = thread;
        }
      });
    }
    for (const int thread : owner) EXPECT_GE(thread, 0);
    EXPECT_EQ(owner, again);
  }
}

TEST(ThreadPool, SmallRangesRunInline) {
  ThreadPool pool(4);
  int calls = 0;
  pool.ParallelFor(64, 64, [&](int64_t begin, int64_t end, int thread) {
    EXPECT_EQ(begin, 0);
    EXPECT_EQ(end, 64);
    EXPECT_EQ(thread, 0);
    ++calls;
  });
  EXPECT_EQ(calls, 1);
}

TEST(ThreadPool, PinsWorkers) {
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  int cpu = 0;
  while (!CPU_ISSET(static_cast<size_t>(cpu), &allowed)) ++cpu;
  const std::vector<int> cpus = {cpu, cpu};
  ThreadPool pool(2, cpus);
  cpu_set_t worker;
  CPU_ZERO(&worker);
  pool.RunOnAll([&](int thread) {
    if (thread != 1) return;
    EXPECT_EQ(sched_getaffinity(0, sizeof(worker), &worker), 0);
  });
  EXPECT_EQ(CPU_COUNT(&worker), 1);
  EXPECT_TRUE(CPU_ISSET(static_cast<size_t>(cpu), &worker));
}

TEST(ThreadPoolDeathTest, RegionInsideRegion) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        ThreadPool pool(1);
        pool.RunOnAll([&](int) { pool.RunOnAll([](int) {}); });
      },
      "inside a region");
}

TEST(Workspace, GrowsOnlyAndKeepsAreasApart) {
  Workspace workspace(2);
  EXPECT_EQ(workspace.bytes(), 0);
  float* zero = workspace.ThreadArea<float>(0, 100);
  float* one = workspace.ThreadArea<float>(1, 100);
  float* shared = workspace.SharedArea<float>(100);
  EXPECT_NE(zero, one);
  EXPECT_NE(zero, shared);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(zero) % Workspace::kAlignment, 0u);
  EXPECT_EQ(workspace.bytes(), 1200);
  EXPECT_EQ(workspace.ThreadArea<float>(0, 50), zero);
  EXPECT_EQ(workspace.bytes(), 1200);
  float* grown = workspace.ThreadArea<float>(0, 1000);
  grown[999] = 1.0f;
  EXPECT_EQ(workspace.bytes(), 4800);
}

}  // namespace
}  // namespace shardit
