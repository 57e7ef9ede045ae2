#include "launch/report/study.h"

namespace shardit {

const char* Evaluation::score_name() const {
  return metrics.contains("fid") ? "fid" : metrics.contains("fd") ? "fd" : "";
}

const Measured* Evaluation::score() const {
  const auto found = metrics.find(score_name());
  return found == metrics.end() ? nullptr : &found->second;
}

const Evaluation* StudyRun::final_evaluation() const {
  if (evaluations.empty()) return nullptr;
  const Evaluation& last = evaluations.back();
  return (last.step == steps || steps == 0) && last.score() != nullptr ? &last : nullptr;
}

std::string DesignName(const std::string& conditioning) {
  if (conditioning == "adaln_zero") return "adaLN-Zero";
  if (conditioning == "adaln") return "adaLN";
  if (conditioning == "cross_attention") return "cross-attention";
  if (conditioning == "in_context") return "in-context";
  return conditioning;
}

std::string MetricName(const std::string& key) {
  if (key == "fid") return "FID";
  if (key == "fd") return "FD";
  if (key == "sfid") return "sFID";
  if (key == "sfd") return "sFD";
  if (key == "is") return "IS";
  if (key == "class_agreement") return "class agreement";
  return key;
}

}  // namespace shardit
