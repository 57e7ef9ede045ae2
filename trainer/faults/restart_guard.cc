#include "trainer/faults/restart_guard.h"

#include <cstdlib>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/file.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

constexpr int64_t kMaxFileBytes = 4096;

struct Record {
  bool known = false;  // an earlier start left it
  int64_t step = 0, stalled = 0;
};

// "step 400 stalled 2"
Record ReadRecord(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadWholeFile(path, kMaxFileBytes);
  if (!text.ok()) return {};
  const std::vector<std::string> words = absl::StrSplit(*text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
  Record record;
  record.known = words.size() == 4 && words[0] == "step" && absl::SimpleAtoi(words[1], &record.step) &&
                 words[2] == "stalled" && absl::SimpleAtoi(words[3], &record.stalled);
  return record.known ? record : Record{};
}

}  // namespace

RestartOptions RestartOptionsFromEnvironment(int64_t max_stalled_restarts) {
  RestartOptions options;
  int64_t restarts = 0;
  const char* text = std::getenv("SLURM_RESTART_COUNT");
  options.by_scheduler = text != nullptr && absl::SimpleAtoi(text, &restarts) && restarts > 0;
  if (max_stalled_restarts > 0) {
    options.limit = max_stalled_restarts;
    options.by_scheduler = true;
  }
  return options;
}

absl::Status CountStart(const std::string& run_folder, int64_t newest_step, const RestartOptions& options) {
  const std::string path = JoinPath(run_folder, "restarts");
  const Record before = ReadRecord(path);
  int64_t stalled = 0;
  if (before.known && options.by_scheduler && before.step == newest_step) {
    if (before.stalled >= options.limit) {
      return WithExitCode(
          absl::FailedPreconditionError(absl::StrCat(
              before.stalled, " restarts by the scheduler committed no checkpoint beyond step ", newest_step,
              ": not starting again; find out why (log.txt, hang_report.txt), then start the run by hand")),
          ExitCode::kDoNotRequeue);
    }
    stalled = before.stalled + 1;
  }
  return AtomicWriteFile(PosixFileSystem(), path, absl::StrCat("step ", newest_step, " stalled ", stalled, "\n"));
}

}  // namespace shardit
