#include "trainer/checkpoint/checkpoint_names.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace shardit {
namespace {

constexpr absl::string_view kTempMark = ".tmp-";

bool IsWord(absl::string_view text, bool dash_allowed) {
  if (text.empty() || text.size() > 128) return false;
  return std::all_of(text.begin(), text.end(),
                     [&](unsigned char c) { return absl::ascii_isalnum(c) || c == '_' || (c == '-' && dash_allowed); });
}

}  // namespace

std::string StepFolderName(int64_t step) { return absl::StrFormat("%07d", step); }

std::optional<int64_t> ParseStepFolderName(absl::string_view name) {
  int64_t step = 0;
  if (!std::all_of(name.begin(), name.end(), absl::ascii_isdigit) || !absl::SimpleAtoi(name, &step)) {
    return std::nullopt;
  }
  return StepFolderName(step) == std::string(name) ? std::optional(step) : std::nullopt;
}

bool IsValidRunId(absl::string_view run_id) { return IsWord(run_id, true); }
bool IsValidAttempt(absl::string_view attempt) { return IsWord(attempt, false); }

std::string TempFolderName(int64_t step, absl::string_view run_id, absl::string_view attempt) {
  return absl::StrCat(StepFolderName(step), kTempMark, run_id, "-", attempt);
}

bool IsTempFolderOfRun(absl::string_view name, absl::string_view run_id) {
  const size_t mark = name.find(kTempMark);
  if (mark == absl::string_view::npos || !ParseStepFolderName(name.substr(0, mark))) return false;
  absl::string_view rest = name.substr(mark + kTempMark.size());
  // An attempt holds no '-', so that run "a" does not take "a-b-1", which is run "a-b", for its own.
  return absl::ConsumePrefix(&rest, run_id) && absl::ConsumePrefix(&rest, "-") && IsValidAttempt(rest);
}

std::string AsideFolderName(int64_t step, int64_t k) { return absl::StrCat(StepFolderName(step), ".aside-", k); }

bool IsTempOfLatest(absl::string_view name) {
  return absl::ConsumePrefix(&name, kLatestFile) && absl::ConsumePrefix(&name, kTempMark) && IsWord(name, false);
}

std::string ShardFileName(int64_t rank, int64_t world) {
  return absl::StrFormat("shard-%05d-of-%05d.safetensors", rank, world);
}

}  // namespace shardit
