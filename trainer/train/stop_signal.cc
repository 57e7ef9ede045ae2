#include "trainer/train/stop_signal.h"

#include <array>
#include <atomic>
#include <csignal>
#include <mutex>

namespace shardit {
namespace {

constexpr std::array<int, 4> kSignals = {SIGUSR1, SIGUSR2, SIGTERM, SIGINT};

// Process-wide because signal dispositions are; counted, so that thread-ranks can each hold a StopSignal.
std::atomic<bool> g_requested{false};
std::mutex g_mutex;
int g_holders = 0;
std::array<struct sigaction, kSignals.size()> g_previous;

void OnSignal(int) { g_requested.store(true, std::memory_order_relaxed); }

}  // namespace

StopSignal::StopSignal() {
  std::lock_guard lock(g_mutex);
  if (g_holders++ > 0) return;
  g_requested.store(false, std::memory_order_relaxed);
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

bool StopSignal::requested() const { return g_requested.load(std::memory_order_relaxed); }

}  // namespace shardit
