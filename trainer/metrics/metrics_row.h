// One row of metrics.jsonl: what a run says about one optimizer step. docs/formats.md describes the file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace shardit {

struct MetricsRow {
  int64_t step = 0;    // completed optimizer steps, from 1
  int64_t images = 0;  // samples seen by the run
  double epoch = 0.0;  // images over the size of the data set
  double loss = 0.0;   // of this step, mean over the global batch; mse and vb are its parts
  double mse = 0.0;
  double vb = 0.0;
  double grad_norm = 0.0;  // before clipping
  double learning_rate = 0.0;
  double step_ms = 0.0;
  double images_per_s = 0.0;
  double tflops = 0.0;  // model floating-point operations per second, over all ranks, 1e12
  double mfu = 0.0;     // of the peak of all ranks' devices, 0 to 1; not a number where no peak is known
  double data_wait_ms = 0.0;
  double exposed_comm_ms = 0.0;  // compute thread of rank 0 blocked: on reductions, gathers, seams, other stages
  int64_t bytes_sent_dp = 0;     // this step, rank 0, by mesh axis
  int64_t bytes_sent_tp = 0;
  int64_t bytes_sent_pp = 0;
  int64_t overlapped_bytes = 0;           // the part of bytes_sent_dp that left before backward ended
  int64_t peak_bytes = 0;                 // high-water mark of rank 0's allocator
  int64_t skipped = 0;                    // steps skipped so far for a non-finite loss or gradient
  std::optional<double> validation_loss;  // at steps where it was measured
};

// One JSON object without a newline. Numbers in shortest round-trip form, non-finite ones null.
std::string ToJson(const MetricsRow& row);

// "(step=0000100) Train Loss: 0.1234, Train Steps/Sec: 5.67, Grad Norm: 0.1000, MFU: 12.3%, ETA: 0:12:34"; MFU is left
// out where it is not known. `steps_per_s` is over the interval since the last line.
std::string ToLogLine(const MetricsRow& row, double steps_per_s, double eta_s);

// "1:02:03" (h:mm:ss); "?" when not finite or negative.
std::string FormatDuration(double seconds);

}  // namespace shardit
