#include "trainer/faults/fault_point.h"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/base/check.h"

namespace shardit {
namespace {

constexpr absl::string_view kPhaseFaults[] = {"stop", "block", "exit"};
constexpr char kSlow[] = "slow";
constexpr auto kSlowness = std::chrono::milliseconds(20);
constexpr auto kBeforeStrike = std::chrono::milliseconds(1200);  // longer than a watchdog's tick

bool TakeNumber(absl::string_view text, absl::string_view prefix, int64_t* number) {
  return absl::ConsumePrefix(&text, prefix) && absl::SimpleAtoi(text, number) && *number >= 0;
}

bool IsKnown(absl::string_view what, absl::string_view where) {
  if (what == "poison") return where == "gradient";
  if (what == "flip") return where == "parameter";
  return what == kSlow || std::find(std::begin(kPhaseFaults), std::end(kPhaseFaults), what) != std::end(kPhaseFaults);
}

}  // namespace

absl::StatusOr<FaultPlan> FaultPlan::Parse(absl::string_view text, int rank) {
  FaultPlan plan;
  for (const absl::string_view entry : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::vector<std::string> words = absl::StrSplit(entry, ':');
    int64_t fault_rank = 0, step = 0;
    if (words.size() != 4 || !IsKnown(words[0], words[1]) || !TakeNumber(words[2], "rank", &fault_rank) ||
        !TakeNumber(words[3], "step", &step)) {
      return absl::InvalidArgumentError(
          absl::StrCat("SHARDIT_FAULT: expected <what>:<where>:rank<r>:step<s>, got '", entry, "'"));
    }
    if (fault_rank == rank) plan.faults_.push_back({words[0], words[1], step});
  }
  return plan;
}

FaultPlan FaultPlan::FromEnvironment(int rank) {
  const char* text = std::getenv("SHARDIT_FAULT");
  if (text == nullptr) return {};
  absl::StatusOr<FaultPlan> plan = Parse(text, rank);
  CHECK(plan.ok()) << plan.status().message();
  return *std::move(plan);
}

bool FaultPlan::Take(absl::string_view what, absl::string_view where, int64_t step) {
  for (auto fault = faults_.begin(); fault != faults_.end(); ++fault) {
    if (fault->what != what || fault->where != where || fault->step != step) continue;
    faults_.erase(fault);
    return true;
  }
  return false;
}

void FaultPlan::Strike(absl::string_view phase, int64_t step) {
  if (faults_.empty()) return;
  for (const absl::string_view what : kPhaseFaults) {
    if (!Take(what, phase, step)) continue;
    std::this_thread::sleep_for(kBeforeStrike);
    if (what == "stop") raise(SIGSTOP);
    if (what == "exit") raise(SIGKILL);
    while (what == "block") std::this_thread::sleep_for(std::chrono::hours(1));
  }
  for (const Fault& fault : faults_) {
    if (fault.what == kSlow && fault.where == phase && fault.step <= step) std::this_thread::sleep_for(kSlowness);
  }
}

bool FaultPlan::PoisonGradient(int64_t step, const Tensor& gradients) {
  if (faults_.empty() || gradients.elements() == 0 || !Take("poison", "gradient", step)) return false;
  const int64_t count = gradients.elements();
  const float poison = std::numeric_limits<float>::quiet_NaN();
  gradients.Reshape({count}).Narrow(0, count / 2, 1).FromHost(&poison);
  return true;
}

bool FaultPlan::FlipParameter(int64_t step, const Tensor& parameters) {
  if (faults_.empty() || parameters.elements() == 0 || !Take("flip", "parameter", step)) return false;
  const Tensor victim = parameters.Reshape({parameters.elements()}).Narrow(0, 0, 1);  // never padding
  uint32_t bits = 0;
  victim.ToHost(&bits);
  bits ^= 1u << 3;
  victim.FromHost(&bits);
  return true;
}

}  // namespace shardit
