#include "trainer/faults/skipped_steps.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/file.h"

namespace shardit {
namespace {

std::string JsonNumber(double value) { return std::isfinite(value) ? absl::StrFormat("%.9g", value) : "null"; }

absl::Status AppendLine(const std::string& path, const std::string& line) {
  const int descriptor = open(path.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor < 0) return ErrnoStatus(errno, absl::StrCat("cannot open ", Quoted(path)));
  const std::string text = line + "\n";
  const ssize_t written = write(descriptor, text.data(), text.size());
  const int error = written < 0 ? errno : ENOSPC;
  const bool closed = close(descriptor) == 0;
  if (written != static_cast<ssize_t>(text.size()) || !closed) {
    return ErrnoStatus(error, absl::StrCat("cannot append to ", Quoted(path)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RecordSkippedStep(Communicator& data_axis, const SkippedStep& skipped, std::span<const int64_t> sample_ids,
                               const std::string& path, std::string* line) {
  // Data axis: the ids of the whole global batch, whose ranks hold different samples.
  const std::vector<std::string> ids =
      data_axis.AllGatherBytes(absl::StrJoin(sample_ids, ","), {.tag = "skipped samples", .control = true});
  *line = absl::StrFormat(R"({"step":%d,"reason":"%s","loss":%s,"grad_norm":%s,"sample_ids":[%s]})", skipped.step,
                          skipped.spike ? "spike" : "not finite", JsonNumber(skipped.loss),
                          JsonNumber(skipped.grad_norm), absl::StrJoin(ids, ","));
  return path.empty() ? absl::OkStatus() : AppendLine(path, *line);
}

}  // namespace shardit
