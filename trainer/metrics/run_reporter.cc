#include "trainer/metrics/run_reporter.h"

#include <limits>
#include <utility>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"

namespace shardit {
namespace {

double Seconds(std::chrono::steady_clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

std::vector<std::pair<std::string, double>> Scalars(const MetricsRow& row) {
  std::vector<std::pair<std::string, double>> out = {{"loss/total", row.loss},
                                                     {"loss/mse", row.mse},
                                                     {"loss/vb", row.vb},
                                                     {"optimizer/grad_norm", row.grad_norm},
                                                     {"optimizer/learning_rate", row.learning_rate},
                                                     {"speed/images_per_s", row.images_per_s},
                                                     {"speed/step_ms", row.step_ms},
                                                     {"speed/tflops", row.tflops},
                                                     {"speed/data_wait_ms", row.data_wait_ms},
                                                     {"speed/exposed_comm_ms", row.exposed_comm_ms},
                                                     {"memory/peak_bytes", static_cast<double>(row.peak_bytes)}};
  if (row.validation_loss.has_value()) out.emplace_back("loss/validation", *row.validation_loss);
  return out;
}

}  // namespace

RunReporter::RunReporter(const ReporterOptions& options, std::unique_ptr<ScopedLogFile> log, MetricsFile metrics,
                         std::optional<EventFile> events)
    : options_(options),
      log_(std::move(log)),
      metrics_(std::move(metrics)),
      events_(std::move(events)),
      status_line_(FindStatusLine()) {}

RunReporter::~RunReporter() {
  if (status_line_ != nullptr) status_line_->SetStatus("");
}

absl::StatusOr<std::unique_ptr<RunReporter>> RunReporter::Open(const ReporterOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<ScopedLogFile> log, ScopedLogFile::Open(JoinPath(options.run_folder, "log.txt")));
  ASSIGN_OR_RETURN(MetricsFile metrics,
                   MetricsFile::Open(JoinPath(options.run_folder, "metrics.jsonl"), options.resumed_step));
  std::optional<EventFile> events;
  if (options.tensorboard) {
    const std::string folder = JoinPath(options.run_folder, "tensorboard");
    RETURN_IF_ERROR(MakeFolders(PosixFileSystem(), folder));
    ASSIGN_OR_RETURN(events, EventFile::Create(folder, options.resumed_step));
  }
  return std::unique_ptr<RunReporter>(new RunReporter(options, std::move(log), std::move(metrics), std::move(events)));
}

double RunReporter::StepsPerSecond(int64_t step) const {
  if (first_step_ == 0 || step <= first_step_) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(step - first_step_) / Seconds(Clock::now() - first_step_done_);
}

void RunReporter::StepDone(int64_t step, double loss) {
  const Clock::time_point now = Clock::now();
  if (first_step_ == 0) {
    first_step_ = step;
    first_step_done_ = last_log_ = now;
    last_logged_step_ = step;
  }
  constexpr std::chrono::milliseconds kRedraw(100);
  if (status_line_ == nullptr || (now - bar_drawn_ < kRedraw && step < options_.steps)) return;
  bar_drawn_ = now;
  const double speed = StepsPerSecond(step);
  const double left = static_cast<double>(options_.steps - step) / speed;
  status_line_->SetStatus(ProgressBar(step, options_.steps, loss, speed, left, TerminalColumns()));
}

absl::Status RunReporter::Log(const MetricsRow& row) {
  const Clock::time_point now = Clock::now();
  const int64_t steps = row.step - last_logged_step_;
  // The first line of a process has no interval behind it but the step itself.
  const double speed = steps > 0 ? static_cast<double>(steps) / Seconds(now - last_log_) : 1e3 / row.step_ms;
  last_log_ = now;
  last_logged_step_ = row.step;
  LOG_INFO("{}", ToLogLine(row, speed, static_cast<double>(options_.steps - row.step) / speed));
  if (events_.has_value()) RETURN_IF_ERROR(events_->AddScalars(row.step, Scalars(row)));
  return metrics_.Append(row);
}

absl::Status RunReporter::AddImage(int64_t step, const std::string& tag, const std::string& png, int width, int height,
                                   int channels) {
  if (!events_.has_value()) return absl::OkStatus();
  return events_->AddImage(step, tag, png, width, height, channels);
}

}  // namespace shardit
