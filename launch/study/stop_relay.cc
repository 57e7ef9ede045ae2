#include "launch/study/stop_relay.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kInsist{1};    // an INT that comes sooner is an echo of the first
constexpr std::chrono::seconds kPatience{5};  // between TERM and KILL

sigset_t StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGUSR1, SIGUSR2, SIGTERM, SIGINT}) sigaddset(&set, number);
  return set;
}

}  // namespace

struct StopRelay::State {
  sigset_t signals = StopSignals(), earlier_mask;
  std::atomic<bool> requested{false}, ending{false};
  std::mutex mutex;
  std::set<ChildProcess*> children;  // guarded by mutex; running
  std::thread thread;

  void SignalAll(int number) {
    std::lock_guard<std::mutex> lock(mutex);
    for (ChildProcess* child : children) child->Signal(number);
  }

  void Listen();
};

// Waits for signals; between TERM and KILL, with a deadline.
void StopRelay::State::Listen() {
  Clock::time_point first{};
  std::optional<Clock::time_point> kill_at;
  for (;;) {
    const timespec second{.tv_sec = 1, .tv_nsec = 0};
    siginfo_t info;
    const int number = kill_at.has_value() ? sigtimedwait(&signals, &info, &second) : sigwaitinfo(&signals, &info);
    if (ending) return;
    if (kill_at.has_value() && Clock::now() >= *kill_at) SignalAll(SIGKILL);
    if (number <= 0) continue;
    if (!requested.exchange(true)) {
      first = Clock::now();
      LOG_INFO("stopping: what runs is told to save (Ctrl-C again ends it at once)");
      SignalAll(SIGUSR1);
    } else if (number == SIGINT && Clock::now() - first >= kInsist && !kill_at.has_value()) {
      LOG_WARN("ending what runs");
      kill_at = Clock::now() + kPatience;
      SignalAll(SIGTERM);
    }
  }
}

StopRelay::StopRelay() : state_(std::make_unique<State>()) {
  pthread_sigmask(SIG_BLOCK, &state_->signals, &state_->earlier_mask);
  state_->thread = std::thread([state = state_.get()] { state->Listen(); });
}

StopRelay::~StopRelay() {
  state_->ending = true;
  pthread_kill(state_->thread.native_handle(), SIGUSR2);
  state_->thread.join();
  pthread_sigmask(SIG_SETMASK, &state_->earlier_mask, nullptr);
}

bool StopRelay::requested() const { return state_->requested; }

absl::StatusOr<ChildResult> StopRelay::Run(const ChildCommand& command) {
  if (requested()) return WithExitCode(absl::AbortedError("stopped before it began"), ExitCode::kRequeue);
  ASSIGN_OR_RETURN(const std::unique_ptr<ChildProcess> child, ChildProcess::Start(command));
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->children.insert(child.get());
  }
  if (requested()) child->Signal(SIGUSR1);  // it came while the child began
  const ChildResult result = child->Wait();
  std::lock_guard<std::mutex> lock(state_->mutex);
  state_->children.erase(child.get());
  return result;
}

}  // namespace shardit
