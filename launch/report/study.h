// A study as the report sees it: what its files say, nothing computed. Numbers that a file lacks are absent, and every
// text is clean (launch/report/text.h). Score names are the evaluation's keys: "fid", or "fd" where the extractor is
// not the one that FID is defined by.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/report/statistics.h"

namespace shardit {

struct Measured {
  double value = 0;
  std::optional<Interval> interval;  // 95%
};

// One evaluation of one run.
struct Evaluation {
  int64_t step = 0;
  int64_t images = 0;  // seen by the run up to this step
  // "fid" or "fd", "sfid" or "sfd", "is", "precision", "recall", "class_agreement": those that were measured.
  std::map<std::string, Measured> metrics;
  int64_t n = 0, n_reference = 0;
  // Everything that an evaluation must share with another for their scores to be compared, as one text.
  std::string identity;
  std::string grid_png;      // the picture's bytes; empty: none
  std::string grid_problem;  // why there is no picture, where one was named

  const char* score_name() const;  // "fid", "fd" or "" (neither)
  const Measured* score() const;   // null: neither
};

struct LossCurve {
  std::vector<double> images, loss;
};

struct StudyRun {
  std::string name, model, conditioning;  // conditioning in lower case: "adaln_zero"
  int64_t depth = 0, width = 0, heads = 0, patch = 0, seed = 0;
  int64_t parameters = 0;
  std::optional<double> gmacs_forward;  // per image: the paper's Gflops
  int64_t steps = 0, steps_done = 0, images = 0, attempts = 0;
  std::string state;  // "finished", "running", "interrupted", "failed", "missing", or what the file says
  std::optional<int64_t> exit_code;
  std::string message;
  std::string folder;  // as the document states it: for reading, not clean
  std::optional<double> train_seconds, final_loss, validation_loss;
  std::vector<Evaluation> evaluations;  // by step
  LossCurve curve;

  // At the last step that was planned, if that was evaluated: what runs are compared by. Null: none.
  const Evaluation* final_evaluation() const;
  // The main grid of a study varies size and patch under one design.
  bool in_main_grid() const { return conditioning == "adaln_zero"; }
};

struct Sweep {
  std::string name, folder;
  std::vector<std::pair<std::string, std::string>> settings;  // "extractor.sha256" and its value, in the file's order
  std::vector<StudyRun> runs;
};

struct ScalingPoint {
  std::string name, mode;  // "weak" or "strong"
  std::string series;      // one layout on growing worlds: what a curve joins
  int64_t world = 0, dp = 0, tp = 0, pp = 0, zero_stage = 0, global_batch = 0, attempts = 0;
  bool sequence_parallel = false;
  std::string schedule, state, message;
  std::optional<Measured> step_ms;
  std::optional<double> images_per_s, efficiency, speedup, exposed_comm_ms, peak_bytes, bytes_sent;
  std::optional<double> planned_step_ms, planned_images_per_s, planned_bytes_sent, planned_peak_bytes;
};

struct Scaling {
  std::string name, folder;
  std::vector<std::pair<std::string, std::string>> settings;
  std::vector<ScalingPoint> points;
};

struct Study {
  std::string folder;
  std::vector<Sweep> sweeps;
  std::vector<Scaling> scalings;
  std::vector<std::string> problems;  // files that could not be used, and why
};

// Names as the paper writes them: "adaLN-Zero" for "adaln_zero"; others as they are.
std::string DesignName(const std::string& conditioning);
// "FD", "FID", "sFD", "IS", ... for an evaluation's key.
std::string MetricName(const std::string& key);

}  // namespace shardit
