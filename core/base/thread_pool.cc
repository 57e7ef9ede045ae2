#include "core/base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "core/base/check.h"
#include "core/base/math.h"

namespace shardit {
namespace {

// Longer than the serial work between two kernels of a step, much shorter than a time slice of the scheduler.
constexpr std::chrono::microseconds kSpinTime{60};

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns when value != old: spins for up to `spin_time`, then sleeps until notified. Acquires what the writer
// released.
template <typename T>
void WaitWhileEqual(const std::atomic<T>& value, T old, std::chrono::microseconds spin_time) {
  constexpr int kPausesPerClockRead = 32;
  if (spin_time.count() > 0) {
    const auto deadline = std::chrono::steady_clock::now() + spin_time;
    do {
      for (int i = 0; i < kPausesPerClockRead; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        Pause();
      }
    } while (std::chrono::steady_clock::now() < deadline);
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

void PinThisThread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  // Pinning is an optimisation: where the machine forbids it, the thread runs unpinned.
  (void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

}  // namespace

struct ThreadPool::Impl {
  // A new generation starts a region; workers_left reaching 0 ends it. Lines apart: the first is read by all workers
  // while they spin, the second is written by each as it finishes.
  alignas(64) std::atomic<uint32_t> generation{0};
  alignas(64) std::atomic<int> workers_left{0};
  const absl::FunctionRef<void(int)>* body = nullptr;  // null tells the workers to end
  bool in_region = false;                              // of the calling thread alone
  std::chrono::microseconds spin_time{0};
  std::vector<std::thread> workers;

  void Work(int thread) {
    for (uint32_t seen = 0;; ++seen) {
      WaitWhileEqual(generation, seen, spin_time);
      if (body == nullptr) return;
      (*body)(thread);
      if (workers_left.fetch_sub(1, std::memory_order_acq_rel) == 1) workers_left.notify_one();
    }
  }

  void StartRegion(const absl::FunctionRef<void(int)>* region_body) {
    body = region_body;
    workers_left.store(static_cast<int>(workers.size()), std::memory_order_relaxed);
    generation.fetch_add(1, std::memory_order_release);
    generation.notify_all();
  }

  void FinishRegion() {
    for (int left; (left = workers_left.load(std::memory_order_acquire)) != 0;) {
      WaitWhileEqual(workers_left, left, spin_time);
    }
  }
};

ThreadPool::ThreadPool(int threads, std::span<const int> cpus) : threads_(threads), impl_(std::make_unique<Impl>()) {
  CHECK_GE(threads, 1);
  CHECK(cpus.empty() || cpus.size() == static_cast<size_t>(threads))
      << "one processor per thread: " << cpus.size() << " processors, " << threads << " threads";
  // A spinning thread would only keep a working one off the processor where there are more threads than processors.
  if (static_cast<unsigned>(threads) <= std::thread::hardware_concurrency()) impl_->spin_time = kSpinTime;
  impl_->workers.reserve(static_cast<size_t>(threads - 1));
  for (int thread = 1; thread < threads; ++thread) {
    const int cpu = cpus.empty() ? -1 : cpus[static_cast<size_t>(thread)];
    impl_->workers.emplace_back([impl = impl_.get(), thread, cpu, identity = ThreadIdentity()] {
      if (!identity.empty()) SetThreadIdentity(identity + " thread " + std::to_string(thread));
      if (cpu >= 0) PinThisThread(cpu);
      impl->Work(thread);
    });
  }
}

ThreadPool::~ThreadPool() {
  impl_->StartRegion(nullptr);
  for (std::thread& worker : impl_->workers) worker.join();
}

void ThreadPool::RunOnAll(absl::FunctionRef<void(int thread)> body) {
  CHECK(!impl_->in_region) << "[ThreadPool] a region was started inside a region";
  impl_->in_region = true;
  if (threads_ > 1) impl_->StartRegion(&body);
  body(0);
  if (threads_ > 1) impl_->FinishRegion();
  impl_->in_region = false;
}

void ThreadPool::ParallelFor(int64_t count, int64_t grain,
                             absl::FunctionRef<void(int64_t begin, int64_t end, int thread)> body) {
  if (count <= 0) return;
  if (count <= grain || threads_ == 1) {
    body(0, count, 0);
    return;
  }
  RunOnAll([&](int thread) {
    const Range part = PartRange(count, threads_, thread);
    if (part.size() > 0) body(part.begin, part.end, thread);
  });
}

}  // namespace shardit
