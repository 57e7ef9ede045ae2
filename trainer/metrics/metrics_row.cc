#include "trainer/metrics/metrics_row.h"

#include <spdlog/fmt/fmt.h>

#include <charconv>
#include <cmath>

namespace shardit {
namespace {

void Append(std::string* out, const char* key, double value) {
  fmt::format_to(std::back_inserter(*out), "{}\"{}\":", out->back() == '{' ? "" : ",", key);
  if (!std::isfinite(value)) {
    *out += "null";
    return;
  }
  char text[64];
  out->append(text, std::to_chars(text, text + sizeof(text), value).ptr);
}

void Append(std::string* out, const char* key, int64_t value) {
  fmt::format_to(std::back_inserter(*out), "{}\"{}\":{}", out->back() == '{' ? "" : ",", key, value);
}

}  // namespace

std::string ToJson(const MetricsRow& row) {
  std::string out = "{";
  Append(&out, "step", row.step);
  Append(&out, "images", row.images);
  Append(&out, "epoch", row.epoch);
  Append(&out, "loss", row.loss);
  Append(&out, "mse", row.mse);
  Append(&out, "vb", row.vb);
  Append(&out, "grad_norm", row.grad_norm);
  Append(&out, "lr", row.learning_rate);
  Append(&out, "step_ms", row.step_ms);
  Append(&out, "images_per_s", row.images_per_s);
  Append(&out, "tflops", row.tflops);
  Append(&out, "mfu", row.mfu);
  Append(&out, "data_wait_ms", row.data_wait_ms);
  Append(&out, "exposed_comm_ms", row.exposed_comm_ms);
  out += ",\"bytes_sent\":{";
  Append(&out, "dp", row.bytes_sent_dp);
  Append(&out, "tp", row.bytes_sent_tp);
  Append(&out, "pp", row.bytes_sent_pp);
  out += "}";
  Append(&out, "overlapped_bytes", row.overlapped_bytes);
  Append(&out, "peak_bytes", row.peak_bytes);
  Append(&out, "skipped", row.skipped);
  if (row.validation_loss.has_value()) Append(&out, "validation_loss", *row.validation_loss);
  out += "}";
  return out;
}

std::string ToLogLine(const MetricsRow& row, double steps_per_s, double eta_s) {
  std::string out = fmt::format("(step={:07d}) Train Loss: {:.4f}, Train Steps/Sec: {:.2f}, Grad Norm: {:.4f}",
                                row.step, row.loss, steps_per_s, row.grad_norm);
  if (std::isfinite(row.mfu)) fmt::format_to(std::back_inserter(out), ", MFU: {:.1f}%", 100.0 * row.mfu);
  fmt::format_to(std::back_inserter(out), ", ETA: {}", FormatDuration(eta_s));
  return out;
}

std::string FormatDuration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0.0 || seconds > 1e12) return "?";
  const int64_t total = std::llround(seconds);
  return fmt::format("{}:{:02d}:{:02d}", total / 3600, total / 60 % 60, total % 60);
}

}  // namespace shardit
