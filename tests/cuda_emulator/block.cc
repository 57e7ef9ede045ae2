#include "tests/cuda_emulator/block.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <span>

#include "tests/cuda_emulator/fatal.h"
#include "tests/cuda_emulator/symbols.h"

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local dim3 blockDim{};
constinit thread_local dim3 gridDim{};

namespace cuda_emulator {
namespace {

// Behind the dynamic shared memory that a launch asked for; looked at when a block ends.
constexpr size_t kSharedCanaryBytes = 1024;
constexpr unsigned char kSharedCanary = 0xC3;

enum class State : uint8_t { kUnstarted, kRunning, kAtBarrier, kInWarp, kDone };

struct Thread {
  Fiber* fiber = nullptr;  // while it waits
  // What it waits for.
  const char* name = nullptr;
  Location where;
  unsigned mask = 0;
  void* payload = nullptr;
  WarpFunction function = nullptr;
  int barrier = 0;
  int barrier_result = 0;
};

struct Warp {
  unsigned waiting = 0;
  unsigned exited = 0;  // also lanes that the block does not have
};

struct Barrier {
  int arrived = 0;
  int expected = 0;
  int true_predicates = 0;
  Count count = Count::kNone;
  const char* name = nullptr;
  Location where;
  std::vector<uint16_t> waiting;
};

bool SamePlace(const Location& a, const Location& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

std::string Place(const Location& where) { return std::string(where.file_name()) + ":" + std::to_string(where.line()); }

std::string Text(const uint3& v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

std::string Text(unsigned mask) {
  char text[16];
  std::snprintf(text, sizeof(text), "0x%08x", mask);
  return text;
}

// "0-31, 40, 64-95" of increasing numbers.
std::string Ranges(const std::vector<int>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    text += (text.empty() ? "" : ", ") + std::to_string(numbers[i]);
    if (last > i) text += "-" + std::to_string(numbers[last]);
    i = last + 1;
  }
  return text;
}

// The machine of one host thread. Fibers, and so its state, stay on that thread.
class Multiprocessor {
 public:
  Multiprocessor() : threads_(kMaxThreads), async_(kMaxThreads), ready_(kMaxThreads) {
    void* shared =
        mmap(nullptr, kMaxSharedBytes + kSharedCanaryBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) Fatal("no memory for shared memory");
    shared_ = static_cast<char*>(shared);
  }
  ~Multiprocessor() { munmap(shared_, kMaxSharedBytes + kSharedCanaryBytes); }

  void Run(const KernelRun& run);

  // For the current CUDA thread.
  int lane() const { return current_ % kWarpSize; }
  void* shared() { return shared_; }
  bool running() const { return run_ != nullptr; }
  AsyncCopies& async_copies() { return async_[static_cast<size_t>(current_)]; }
  uint32_t RandomNumber() { return random_.Next(); }
  void ArriveInWarp(const char* name, unsigned mask, void* payload, WarpFunction function, Location where);
  int ArriveAtBarrier(const char* name, int id, int expected, Count count, bool predicate, bool wait, Location where);
  [[noreturn]] void Fail(const std::string& message) const;

  // What a fiber does for ever: run the threads it is given.
  void FiberLoop();

 private:
  void RunBlock();
  void DrawOrder();
  void RunThread(int thread);
  void ExitWarp(int thread);
  bool TryReleaseWarp(int warp, unsigned mask);
  void ReleaseBarrier(Barrier& barrier);
  void CheckBlockEnd();

  // The thread to run next, or -1; `fresh`: one that has not begun.
  int Next(bool& fresh);
  void Resume(int thread);
  [[gnu::always_inline]] inline void Wait();
  Fiber* TakeFiber();
  void MakeReady(int thread);
  [[noreturn]] void Deadlock();

  const KernelRun* run_ = nullptr;
  Random random_{1};
  int count_ = 0;  // threads of a block
  int done_ = 0;
  int current_ = 0;
  std::vector<uint3> indices_;
  uint8_t state_[kMaxThreads];
  std::vector<Thread> threads_;
  std::vector<AsyncCopies> async_;
  Warp warps_[kMaxWarps];
  Barrier barriers_[kNamedBarriers];

  uint16_t order_[kMaxThreads];  // in which threads begin
  int begun_ = 0;
  bool begin_first_ = false;     // before those that may go on
  std::vector<uint16_t> ready_;  // a ring
  size_t ready_head_ = 0;
  size_t ready_count_ = 0;

  Fiber host_;
  Fiber* fiber_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_fibers_;
  int assigned_ = 0;  // the thread that the fiber switched to shall begin
  char* shared_ = nullptr;
  std::vector<std::span<char>> shared_variables_;
};

constinit thread_local Multiprocessor* machine = nullptr;

[[gnu::noinline]] void MakeMachine() {
  static thread_local Multiprocessor made;
  machine = &made;
}

Multiprocessor& Machine() {
  if (machine == nullptr) MakeMachine();
  return *machine;
}

void FiberEntry() {
  Fiber::Entered();
  Machine().FiberLoop();
}

int Multiprocessor::Next(bool& fresh) {
  fresh = begun_ < count_ && (ready_count_ == 0 || begin_first_);
  if (fresh) return order_[begun_++];
  if (ready_count_ == 0) return -1;
  const int thread = ready_[ready_head_];
  ready_head_ = (ready_head_ + 1) % kMaxThreads;
  --ready_count_;
  return thread;
}

// Makes a waiting thread the current one; the caller switches to its fiber.
void Multiprocessor::Resume(int thread) {
  current_ = thread;
  threadIdx = indices_[static_cast<size_t>(thread)];
  state_[thread] = static_cast<uint8_t>(State::kRunning);
  fiber_ = threads_[static_cast<size_t>(thread)].fiber;
}

// The current thread leaves the host thread to another, until it is its turn again.
[[gnu::always_inline]] inline void Multiprocessor::Wait() {
  const int self = current_;
  bool fresh;
  const int next = Next(fresh);
  if (next < 0) Deadlock();
  if (next == self) return;
  Fiber* from = fiber_;
  threads_[static_cast<size_t>(self)].fiber = from;
  if (fresh) {
    assigned_ = next;
    fiber_ = TakeFiber();
  } else {
    Resume(next);
  }
  Fiber::Switch(*from, *fiber_);
}

void Multiprocessor::Run(const KernelRun& run) {
  run_ = &run;
  random_ = Random(run.seed);
  count_ = static_cast<int>(run.block.x * run.block.y * run.block.z);
  indices_.clear();
  for (unsigned z = 0; z < run.block.z; ++z) {
    for (unsigned y = 0; y < run.block.y; ++y) {
      for (unsigned x = 0; x < run.block.x; ++x) indices_.push_back({x, y, z});
    }
  }
  shared_variables_ = SharedVariables(run.kernel);
  blockDim = run.block;
  gridDim = run.grid;
  // Blocks in the order of a walk by a step that has no divisor in common with their number.
  const uint64_t blocks = uint64_t{run.grid.x} * run.grid.y * run.grid.z;
  uint64_t step = 1, block = random_.Next() % blocks;
  for (int tries = 0; tries < 8; ++tries) {
    const uint64_t candidate = 1 + random_.Next() % blocks;
    if (std::gcd(candidate, blocks) == 1) step = candidate;
  }
  for (uint64_t i = 0; i < blocks; ++i) {
    blockIdx.x = static_cast<unsigned>(block % run.grid.x);
    blockIdx.y = static_cast<unsigned>(block / run.grid.x % run.grid.y);
    blockIdx.z = static_cast<unsigned>(block / run.grid.x / run.grid.y);
    RunBlock();
    block = (block + step) % blocks;
  }
  run_ = nullptr;
}

void Multiprocessor::RunBlock() {
  done_ = begun_ = 0;
  ready_head_ = ready_count_ = 0;
  std::memset(state_, static_cast<int>(State::kUnstarted), static_cast<size_t>(count_));
  const int warps = (count_ + kWarpSize - 1) / kWarpSize;
  for (int w = 0; w < warps; ++w) warps_[w] = {};
  if (count_ % kWarpSize != 0) warps_[warps - 1].exited = kAllLanes << (count_ % kWarpSize);
  DrawOrder();
  for (const std::span<char> variable : shared_variables_) std::memset(variable.data(), 0xFF, variable.size());
  if (run_->shared_bytes > 0) {
    std::memset(shared_, 0xFF, run_->shared_bytes);
    std::memset(shared_ + run_->shared_bytes, kSharedCanary, kSharedCanaryBytes);
  }

  bool fresh;
  assigned_ = Next(fresh);
  fiber_ = TakeFiber();
  Fiber::Switch(host_, *fiber_);
  CheckBlockEnd();
}

void Multiprocessor::DrawOrder() {
  const int warps = (count_ + kWarpSize - 1) / kWarpSize;
  uint8_t warp_order[kMaxWarps];
  for (int w = 0; w < warps; ++w) {
    const uint32_t other = random_.Below(static_cast<uint32_t>(w) + 1);
    warp_order[w] = warp_order[other];
    warp_order[other] = static_cast<uint8_t>(w);
  }
  int filled = 0;
  for (int w = 0; w < warps; ++w) {
    const uint32_t number = random_.Next();
    const uint32_t step = number | 1, start = number >> 8;
    for (uint32_t i = 0; i < kWarpSize; ++i) {
      const int thread = warp_order[w] * kWarpSize + static_cast<int>((start + step * i) % kWarpSize);
      if (thread < count_) order_[filled++] = static_cast<uint16_t>(thread);
    }
  }
  begin_first_ = random_.Below(4) == 0;
}

void Multiprocessor::CheckBlockEnd() {
  for (int id = 0; id < kNamedBarriers; ++id) {
    if (barriers_[id].arrived > 0) {
      Fail("the block ended with " + std::to_string(barriers_[id].arrived) + " of " +
           std::to_string(barriers_[id].expected) + " threads arrived at barrier " + std::to_string(id));
    }
  }
  if (run_->shared_bytes == 0) return;
  for (size_t i = 0; i < kSharedCanaryBytes; ++i) {
    if (static_cast<unsigned char>(shared_[run_->shared_bytes + i]) != kSharedCanary) {
      Fail("written " + std::to_string(i) + " bytes behind the " + std::to_string(run_->shared_bytes) +
           " bytes of dynamic shared memory");
    }
  }
}

void Multiprocessor::FiberLoop() {
  for (;;) {
    RunThread(assigned_);
    bool fresh;
    const int next = Next(fresh);
    if (next >= 0 && fresh) {
      assigned_ = next;
      continue;
    }
    if (next < 0 && done_ < count_) Deadlock();
    Fiber* self = fiber_;
    idle_fibers_.push_back(self);
    if (next >= 0) {
      Resume(next);
    } else {
      fiber_ = nullptr;
    }
    Fiber::Switch(*self, fiber_ == nullptr ? host_ : *fiber_);
  }
}

void Multiprocessor::RunThread(int thread) {
  current_ = thread;
  threadIdx = indices_[static_cast<size_t>(thread)];
  state_[thread] = static_cast<uint8_t>(State::kRunning);
  run_->thread();
  state_[current_] = static_cast<uint8_t>(State::kDone);
  ++done_;
  AsyncCopies& copies = async_[static_cast<size_t>(current_)];
  if (copies.group != 0 || !copies.pending.empty()) {
    copies.pending.clear();
    copies.group = 0;
  }
  ExitWarp(current_);
}

Fiber* Multiprocessor::TakeFiber() {
  if (idle_fibers_.empty()) {
    fibers_.push_back(std::make_unique<Fiber>(&FiberEntry, static_cast<int>(fibers_.size())));
    return fibers_.back().get();
  }
  Fiber* fiber = idle_fibers_.back();
  idle_fibers_.pop_back();
  return fiber;
}

void Multiprocessor::MakeReady(int thread) {
  state_[thread] = static_cast<uint8_t>(State::kRunning);
  ready_[(ready_head_ + ready_count_++) % kMaxThreads] = static_cast<uint16_t>(thread);
}

void Multiprocessor::ArriveInWarp(const char* name, unsigned mask, void* payload, WarpFunction function,
                                  Location where) {
  const int lane = current_ % kWarpSize, warp = current_ / kWarpSize;
  if ((mask >> lane & 1) == 0) {
    Fail(std::string(name) + " at " + Place(where) + " by a lane that its mask " + Text(mask) + " does not name");
  }
  Thread& thread = threads_[static_cast<size_t>(current_)];
  thread.name = name;
  thread.where = where;
  thread.mask = mask;
  thread.payload = payload;
  thread.function = function;
  state_[current_] = static_cast<uint8_t>(State::kInWarp);
  warps_[warp].waiting |= 1u << lane;
  TryReleaseWarp(warp, mask);
  Wait();
}

// Lets the lanes of `mask` go on where all that have not exited wait with that mask.
bool Multiprocessor::TryReleaseWarp(int warp, unsigned mask) {
  Warp& w = warps_[warp];
  const unsigned lanes = mask & ~w.exited;
  if (lanes == 0 || (w.waiting & lanes) != lanes) return false;
  void* payloads[kWarpSize] = {};
  const Thread* first = nullptr;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((lanes >> lane & 1) == 0) continue;
    const Thread& thread = threads_[static_cast<size_t>(warp * kWarpSize + lane)];
    if (thread.mask != mask) return false;
    if (first == nullptr) first = &thread;
    if (thread.name != first->name) {
      Fail("lanes of one warp and mask meet in different functions: " + std::string(first->name) + " at " +
           Place(first->where) + " and " + thread.name + " at " + Place(thread.where));
    }
    payloads[lane] = thread.payload;
  }
  first->function(payloads, lanes);
  w.waiting &= ~lanes;
  const uint32_t number = random_.Next();
  const uint32_t step = number | 1, start = number >> 8;
  for (uint32_t i = 0; i < kWarpSize; ++i) {
    const int lane = static_cast<int>((start + step * i) % kWarpSize);
    if (lanes >> lane & 1) MakeReady(warp * kWarpSize + lane);
  }
  return true;
}

void Multiprocessor::ExitWarp(int thread) {
  Warp& warp = warps_[thread / kWarpSize];
  warp.exited |= 1u << (thread % kWarpSize);
  while (warp.waiting != 0) {
    bool released = false;
    for (int lane = 0; lane < kWarpSize && !released; ++lane) {
      if ((warp.waiting >> lane & 1) == 0) continue;
      const int waiting = thread / kWarpSize * kWarpSize + lane;
      released = TryReleaseWarp(thread / kWarpSize, threads_[static_cast<size_t>(waiting)].mask);
    }
    if (!released) return;
  }
}

int Multiprocessor::ArriveAtBarrier(const char* name, int id, int expected, Count count, bool predicate, bool wait,
                                    Location where) {
  if (id < 0 || id >= kNamedBarriers) Fail("barrier " + std::to_string(id) + " at " + Place(where));
  Barrier& barrier = barriers_[id];
  if (barrier.arrived == 0) {
    barrier.expected = expected;
    barrier.count = count;
    barrier.name = name;
    barrier.where = where;
    barrier.true_predicates = 0;
  } else if (barrier.expected != expected || barrier.count != count ||
             (barrier.name == name && id == 0 && !SamePlace(barrier.where, where))) {
    Fail("threads of the block meet at different barriers: " + std::string(barrier.name) + " at " +
         Place(barrier.where) + " for " + std::to_string(barrier.expected) + " threads and " + name + " at " +
         Place(where) + " for " + std::to_string(expected));
  }
  ++barrier.arrived;
  barrier.true_predicates += predicate ? 1 : 0;
  Thread& thread = threads_[static_cast<size_t>(current_)];
  if (wait) {
    barrier.waiting.push_back(static_cast<uint16_t>(current_));
    thread.name = name;
    thread.where = where;
    thread.barrier = id;
    state_[current_] = static_cast<uint8_t>(State::kAtBarrier);
  }
  if (barrier.arrived == barrier.expected) ReleaseBarrier(barrier);
  if (!wait) return 0;
  Wait();
  return thread.barrier_result;
}

void Multiprocessor::ReleaseBarrier(Barrier& barrier) {
  const int result = barrier.count == Count::kAnd  ? barrier.true_predicates == barrier.expected
                     : barrier.count == Count::kOr ? barrier.true_predicates > 0
                                                   : barrier.true_predicates;
  // Warps in a drawn order, and the lanes of each in another.
  std::vector<uint16_t>& waiting = barrier.waiting;
  for (size_t i = waiting.size(); i > 1; --i) {
    std::swap(waiting[i - 1], waiting[random_.Below(static_cast<uint32_t>(i))]);
  }
  for (const uint16_t thread : waiting) {
    threads_[thread].barrier_result = result;
    MakeReady(thread);
  }
  waiting.clear();
  barrier.arrived = 0;
}

void Multiprocessor::Deadlock() {
  std::string report = "the block cannot go on:";
  std::vector<bool> told(static_cast<size_t>(count_));
  for (int first = 0; first < count_; ++first) {
    if (told[static_cast<size_t>(first)]) continue;
    const State state = static_cast<State>(state_[first]);
    const Thread& model = threads_[static_cast<size_t>(first)];
    std::vector<int> alike;
    for (int t = first; t < count_; ++t) {
      const Thread& thread = threads_[static_cast<size_t>(t)];
      if (state_[t] != state_[first]) continue;
      if (state == State::kInWarp && (thread.mask != model.mask || !SamePlace(thread.where, model.where))) continue;
      if (state == State::kAtBarrier && (thread.barrier != model.barrier || !SamePlace(thread.where, model.where))) {
        continue;
      }
      told[static_cast<size_t>(t)] = true;
      alike.push_back(t);
    }
    report += "\n  threads " + Ranges(alike);
    if (state == State::kDone) report += " have exited";
    if (state == State::kInWarp) report += std::string(" wait in ") + model.name + " for mask " + Text(model.mask);
    if (state == State::kAtBarrier) report += std::string(" wait in ") + model.name;
    if (state == State::kInWarp || state == State::kAtBarrier) report += " at " + Place(model.where);
  }
  Fail(report);
}

void Multiprocessor::Fail(const std::string& message) const {
  Fatal("kernel " + KernelName(run_->kernel) + ", block " + Text(blockIdx) + ", thread " + Text(threadIdx) + ": " +
        message);
}

}  // namespace

void RunKernel(const KernelRun& run) { Machine().Run(run); }

void WarpRendezvous(const char* name, unsigned mask, void* payload, WarpFunction function, Location where) {
  Machine().ArriveInWarp(name, mask, payload, function, where);
}

int CurrentLane() { return Machine().lane(); }

void FatalInKernel(const std::string& message) {
  if (!Machine().running()) Fatal("device code called outside a kernel: " + message);
  Machine().Fail(message);
}

uint32_t RandomInKernel() { return Machine().RandomNumber(); }

AsyncCopies& CurrentAsyncCopies() { return Machine().async_copies(); }

void* DynamicShared() { return Machine().shared(); }

int BlockBarrier(Count kind, int predicate, Location where) {
  const int threads = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
  return Machine().ArriveAtBarrier("__syncthreads", 0, threads, kind, predicate != 0, true, where);
}

void NamedBarrierSync(int id, int threads, Location where) {
  if (threads <= 0 || threads % kWarpSize != 0) FatalInKernel("a barrier for " + std::to_string(threads) + " threads");
  Machine().ArriveAtBarrier("a named barrier", id, threads, Count::kNone, false, true, where);
}

void NamedBarrierArrive(int id, int threads, Location where) {
  if (threads <= 0 || threads % kWarpSize != 0) FatalInKernel("a barrier for " + std::to_string(threads) + " threads");
  Machine().ArriveAtBarrier("a named barrier", id, threads, Count::kNone, false, false, where);
}

void Trap() { FatalInKernel("__trap"); }

}  // namespace cuda_emulator
