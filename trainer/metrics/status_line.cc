#include "trainer/metrics/status_line.h"

#include <spdlog/fmt/fmt.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "trainer/metrics/metrics_row.h"

namespace shardit {
namespace {

constexpr char kLinePattern[] = "[%Y-%m-%d %H:%M:%S] %v";
constexpr char kEraseLine[] = "\r\x1b[K";

// Set and not empty, as https://no-color.org defines it.
bool EnvironmentSays(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0';
}

class FileSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FileSink(std::FILE* file) : file_(file) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    std::fwrite(line.data(), 1, line.size(), file_);
    std::fflush(file_);
  }
  void flush_() override { std::fflush(file_); }

 private:
  std::FILE* const file_;
};

}  // namespace

void StatusLineSink::SetStatus(const std::string& status) {
  if (!terminal_) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (status.empty() && status_.empty()) return;
  status_ = status;
  std::fputs(kEraseLine, stream_);
  std::fputs(status_.c_str(), stream_);
  std::fflush(stream_);
}

void StatusLineSink::sink_it_(const spdlog::details::log_msg& message) {
  spdlog::memory_buf_t line;
  formatter_->format(message, line);
  const bool marked = color_ && message.level >= spdlog::level::warn;
  if (!status_.empty()) std::fputs(kEraseLine, stream_);
  if (marked) std::fputs(message.level == spdlog::level::warn ? "\x1b[33m" : "\x1b[31m", stream_);
  std::fwrite(line.data(), 1, line.size(), stream_);
  if (marked) std::fputs("\x1b[0m", stream_);
  std::fputs(status_.c_str(), stream_);
  std::fflush(stream_);
}

void StatusLineSink::flush_() { std::fflush(stream_); }

void InstallLogger(int rank) {
  const bool terminal = rank == 0 && (isatty(STDERR_FILENO) == 1 || EnvironmentSays("SHARDIT_PROGRESS"));
  const bool color = terminal && !EnvironmentSays("NO_COLOR");
  auto logger = std::make_shared<spdlog::logger>("shardit", std::make_shared<StatusLineSink>(stderr, terminal, color));
  logger->set_pattern(rank == 0 ? kLinePattern : fmt::format("[%Y-%m-%d %H:%M:%S] [rank {}] %v", rank));
  logger->set_level(rank == 0 ? spdlog::level::info : spdlog::level::err);
  spdlog::set_default_logger(std::move(logger));
}

std::shared_ptr<StatusLineSink> FindStatusLine() {
  for (const spdlog::sink_ptr& sink : spdlog::default_logger()->sinks()) {
    if (auto line = std::dynamic_pointer_cast<StatusLineSink>(sink)) return line;
  }
  return nullptr;
}

absl::StatusOr<std::unique_ptr<ScopedLogFile>> ScopedLogFile::Open(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "ae");
  if (file == nullptr) return ErrnoStatus(errno, absl::StrCat("cannot open ", Quoted(path), " for appending"));
  return std::unique_ptr<ScopedLogFile>(new ScopedLogFile(file));
}

ScopedLogFile::ScopedLogFile(std::FILE* file) : file_(file), sink_(std::make_shared<FileSink>(file)) {
  sink_->set_pattern(kLinePattern);
  spdlog::default_logger()->sinks().push_back(sink_);
}

ScopedLogFile::~ScopedLogFile() {
  std::vector<spdlog::sink_ptr>& sinks = spdlog::default_logger()->sinks();
  std::erase(sinks, sink_);
  std::fclose(file_);
}

std::string ProgressBar(int64_t step, int64_t steps, double loss, double steps_per_s, double eta_s, int columns) {
  constexpr int64_t kCells = 24;
  const int64_t filled = steps > 0 ? std::clamp<int64_t>(kCells * step / steps, 0, kCells) : 0;
  std::string line =
      fmt::format("[{}{}] {:3d}% {}/{} loss {:.4f}", std::string(filled, '#'), std::string(kCells - filled, '-'),
                  steps > 0 ? 100 * step / steps : 0, step, steps, loss);
  // The first step of a process has no speed yet.
  if (std::isfinite(steps_per_s)) {
    fmt::format_to(std::back_inserter(line), " {:.2f} steps/s ETA {}", steps_per_s, FormatDuration(eta_s));
  }
  return line.substr(0, static_cast<size_t>(std::max(0, columns - 1)));
}

int TerminalColumns() {
  winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const char* columns = std::getenv("COLUMNS");
  const int count = columns == nullptr ? 0 : std::atoi(columns);
  return count > 0 ? count : 80;
}

}  // namespace shardit
