#include "trainer/train/stop_signal.h"

#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <ctime>
#include <mutex>

namespace shardit {
namespace {

constexpr std::array<int, 4> kSignals = {SIGUSR1, SIGUSR2, SIGTERM, SIGINT};

// Process-wide because signal dispositions are; counted, so that thread-ranks can each hold a StopSignal.
std::atomic<int> g_first_signal{0};
std::atomic<int64_t> g_first_interrupt{0};  // CLOCK_MONOTONIC in ms, from 1; 0: none
std::mutex g_mutex;
int g_holders = 0;
std::array<struct sigaction, kSignals.size()> g_previous;

static_assert(std::atomic<int>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);

// Only what may be called in a handler: lock-free atomics, clock_gettime, sigaction, raise.
void OnSignal(int number) {
  int none = 0;
  g_first_signal.compare_exchange_strong(none, number, std::memory_order_relaxed);
  if (number != SIGINT) return;
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t now_ms = int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000 + 1;
  int64_t first_ms = 0;
  if (g_first_interrupt.compare_exchange_strong(first_ms, now_ms, std::memory_order_relaxed)) return;
  if (now_ms - first_ms < StopSignal::kInsistSeconds * 1000) return;
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  sigaction(SIGINT, &standard, nullptr);
  raise(SIGINT);  // blocked here, so it takes effect when the handler returns
}

}  // namespace

StopSignal::StopSignal() {
  std::lock_guard lock(g_mutex);
  if (g_holders++ > 0) return;
  g_first_signal.store(0, std::memory_order_relaxed);
  g_first_interrupt.store(0, std::memory_order_relaxed);
  struct sigaction action {};
  action.sa_handler = &OnSignal;
  action.sa_flags = SA_RESTART;
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &g_previous[i]);
}

StopSignal::~StopSignal() {
  std::lock_guard lock(g_mutex);
  if (--g_holders > 0) return;
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &g_previous[i], nullptr);
}

bool StopSignal::requested() const { return g_first_signal.load(std::memory_order_relaxed) != 0; }

std::string_view StopSignal::name() const {
  switch (g_first_signal.load(std::memory_order_relaxed)) {
    case SIGUSR1:
      return "SIGUSR1";
    case SIGUSR2:
      return "SIGUSR2";
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
  }
  return "";
}

}  // namespace shardit
