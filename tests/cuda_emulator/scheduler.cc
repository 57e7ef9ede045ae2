#include "tests/cuda_emulator/scheduler.h"

#include <atomic>
#include <utility>

#include "tests/cuda_emulator/fatal.h"
#include "tests/cuda_emulator/memory.h"

namespace cuda_emulator {
namespace {

constexpr size_t kLongQueue = 4096;

int ThisThread() {
  static std::atomic<int> threads{0};
  static thread_local const int number = ++threads;
  return number;
}

// Streams' order while `preference` holds.
uint32_t StreamKey(uint32_t preference, int stream) {
  uint32_t key = (static_cast<uint32_t>(stream) + 1) * 0x9E3779B1u ^ preference;
  key = (key ^ (key >> 15)) * 0x85EBCA77u;
  return key ^ (key >> 13);
}

}  // namespace

// Device memory is opened for the first task that needs it, and closed for host functions and at the end.
class Scheduler::Access {
 public:
  ~Access() { Set(false); }
  void Set(bool open) {
    if (open == open_) return;
    open ? Memory::Instance().Open() : Memory::Instance().Close();
    open_ = open;
  }

 private:
  bool open_ = false;
};

Scheduler& Scheduler::Instance() {
  static Scheduler* scheduler = new Scheduler;
  return *scheduler;
}

TaskPtr Scheduler::Add(Operation operation, const std::vector<TaskPtr>& dependencies, int stream) {
  TaskPtr task = std::make_shared<Task>();
  task->operation = std::move(operation);
  task->number = next_number_++;
  task->stream = stream;
  task->issuer = ThisThread();
  for (const TaskPtr& dependency : dependencies) {
    if (dependency == nullptr || dependency->done) continue;
    dependency->successors.push_back(task);
    ++task->open_dependencies;
  }
  pending_[task->number] = task;
  ++pending_of_issuer_[task->issuer];
  if (task->open_dependencies == 0) ready_.push_back(task);
  ++progress_;
  changed_.notify_all();
  return task;
}

void Scheduler::RunIfLong(Lock& lock) {
  if (GlobalSettings().immediate) {
    RunSome(lock, static_cast<int>(pending_.size()));
  } else if (pending_.size() > kLongQueue) {
    RunSome(lock, static_cast<int>(kLongQueue / 2));
  }
}

void Scheduler::Finish(const TaskPtr& task) {
  task->done = true;
  task->finished = std::chrono::steady_clock::now();
  task->operation = {};
  pending_.erase(task->number);
  --pending_of_issuer_[task->issuer];
  for (const TaskPtr& successor : std::exchange(task->successors, {})) {
    if (--successor->open_dependencies == 0) ready_.push_back(successor);
  }
  ++progress_;
  changed_.notify_all();
}

// Mostly one stream goes first for as long as it can, which is how a missing event shows behind a long queue; now and
// then the order of the streams, or one choice, is another.
TaskPtr Scheduler::TakeReady() {
  if (const uint64_t seed = GlobalSettings().seed; seed != seed_) {
    seed_ = seed;
    random_ = Random(seed);
    preference_ = random_.Next();
  }
  const uint32_t number = random_.Next();
  if (number % 256 == 0) preference_ = random_.Next();
  size_t chosen = 0;
  if (number / 256 % 32 == 0) {
    chosen = random_.Below(static_cast<uint32_t>(ready_.size()));
  } else {
    for (size_t i = 1; i < ready_.size(); ++i) {
      if (StreamKey(preference_, ready_[i]->stream) > StreamKey(preference_, ready_[chosen]->stream)) chosen = i;
    }
  }
  std::swap(ready_[chosen], ready_.back());
  TaskPtr task = std::move(ready_.back());
  ready_.pop_back();
  return task;
}

bool Scheduler::RunOne(Lock& lock, Access& access) {
  if (ready_.empty()) return false;
  const TaskPtr task = TakeReady();
  if (task->operation.arrive) {
    task->arrived = true;
    ++progress_;
    const auto arrive = task->operation.arrive;
    lock.unlock();
    access.Set(true);
    lock.lock();
    arrive(task);
    return true;
  }
  if (task->operation.run) {
    ++running_;
    lock.unlock();
    access.Set(!task->operation.on_host);
    task->operation.run();
    lock.lock();
    --running_;
  }
  Finish(task);
  return true;
}

void Scheduler::RunUntil(Lock& lock, const std::function<bool()>& condition) {
  Access access;
  while (!condition()) {
    if (RunOne(lock, access)) continue;
    access.Set(false);
    const uint64_t progress = progress_;
    const auto limit = std::chrono::seconds(GlobalSettings().hang_seconds);
    if (changed_.wait_for(lock, limit, [&] { return progress_ != progress || condition(); })) continue;
    if (running_ == 0) ReportHang();
  }
}

void Scheduler::RunSome(Lock& lock, int count) {
  Access access;
  while (count-- > 0 && RunOne(lock, access)) {
  }
}

void Scheduler::RunAll(Lock& lock) {
  const int issuer = ThisThread();
  RunUntil(lock, [&] { return pending_of_issuer_[issuer] == 0; });
  RunSome(lock, static_cast<int>(pending_.size()));
}

void Scheduler::ReportHang() const {
  std::string report = "nothing has happened for long, and a host thread waits. Issued and not done:";
  int told = 0;
  for (const auto& [number, task] : pending_) {
    if (task->open_dependencies > 0) continue;
    if (++told > 32) break;
    report += "\n  stream " + std::to_string(task->stream) + ", issued by host thread " + std::to_string(task->issuer) +
              ": " + task->operation.name;
    if (task->operation.waits_for) report += ": " + task->operation.waits_for();
  }
  Fatal(report);
}

}  // namespace cuda_emulator
