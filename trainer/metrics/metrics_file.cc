#include "trainer/metrics/metrics_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace shardit {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 33;

std::optional<int64_t> StepOf(const std::string& line) {
  const nlohmann::json row = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!row.is_object()) return std::nullopt;
  const auto step = row.find("step");
  if (step == row.end() || !step->is_number_integer()) return std::nullopt;
  return step->get<int64_t>();
}

struct Kept {
  size_t bytes = 0;  // prefix of the file to keep
  int64_t last_step = 0;
};

absl::StatusOr<Kept> FindKept(const std::string& text, int64_t resumed_step, const std::string& path) {
  Kept kept;
  int64_t line_number = 0, first_damaged = 0;
  for (size_t begin = 0; begin < text.size();) {
    ++line_number;
    const size_t newline = text.find('\n', begin);
    if (newline == std::string::npos) break;  // torn
    const std::optional<int64_t> step = StepOf(text.substr(begin, newline - begin));
    begin = newline + 1;
    if (!step.has_value()) {
      if (first_damaged == 0) first_damaged = line_number;
    } else if (*step <= resumed_step) {
      if (first_damaged != 0) {
        return absl::DataLossError(absl::StrCat(Quoted(path), " line ", first_damaged,
                                                ": expected a JSON object with an integer step, got something else; "
                                                "repair or delete that line, or start anew with another --out"));
      }
      kept = {begin, *step};
    }
  }
  return kept;
}

}  // namespace

MetricsFile::MetricsFile(std::string path, int descriptor, int64_t last_step)
    : path_(std::move(path)), descriptor_(descriptor), last_step_(last_step) {}

MetricsFile::~MetricsFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

MetricsFile::MetricsFile(MetricsFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)), last_step_(other.last_step_) {}

MetricsFile& MetricsFile::operator=(MetricsFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(last_step_, other.last_step_);
  return *this;
}

absl::StatusOr<MetricsFile> MetricsFile::Open(const std::string& path, int64_t resumed_step) {
  Kept kept;
  if (KindOfPath(path) != PathKind::kMissing) {
    ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path, kMaxBytes));
    ASSIGN_OR_RETURN(kept, FindKept(text, resumed_step, path));
    if (kept.bytes < text.size()) {
      RETURN_IF_ERROR(AtomicWriteFile(PosixFileSystem(), path, text.substr(0, kept.bytes)));
    }
  }
  const int descriptor = open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0) return ErrnoStatus(errno, absl::StrCat("cannot open ", Quoted(path), " for appending"));
  return MetricsFile(path, descriptor, kept.last_step);
}

absl::Status MetricsFile::Append(const MetricsRow& row) { return Append(row.step, ToJson(row)); }

absl::Status MetricsFile::Append(int64_t step, const std::string& json) {
  CHECK_GT(step, last_step_) << "[metrics] rows are written in order, once a step";
  const std::string line = json + "\n";
  for (size_t written = 0; written < line.size();) {
    const ssize_t count = write(descriptor_, line.data() + written, line.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, absl::StrCat("cannot append to ", Quoted(path_)));
    written += static_cast<size_t>(count);
  }
  last_step_ = step;
  return absl::OkStatus();
}

absl::Status MetricsFile::Sync() {
  if (fsync(descriptor_) != 0) return ErrnoStatus(errno, absl::StrCat("cannot sync ", Quoted(path_)));
  return absl::OkStatus();
}

}  // namespace shardit
