// Which scores an evaluation computes: what was asked for, against what its inputs allow.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/feature_extractor.h"
#include "trainer/evaluate/evaluate.h"
#include "trainer/evaluate/evaluation_side.h"

namespace shardit {

struct MetricInputs {
  const EvaluateRequest& request;
  bool drawn = false;                        // the samples come from a model
  const ExtractorInfo* extractor = nullptr;  // null: none
  const EvaluationSide& samples;
  const EvaluationSide* reference = nullptr;  // null: none
};

struct ChosenMetrics {
  bool fid = false, spatial = false, inception_score = false, precision_recall = false;
  // A classifier judges the labels of the samples, and of the reference.
  bool agreement = false, reference_accuracy = false;
  bool frechet = false;             // fid or spatial
  bool reference_features = false;  // the reference's images are needed
};

// What can be seen from the request alone. Exit code 64.
absl::Status CheckEvaluateRequest(const EvaluateRequest& request);

// Where statistics of a file meet images that this program resizes as PyTorch does: that they may be of the resizing of
// TensorFlow's graph, which puts pixels elsewhere, as those that are published are. Empty: there is no doubt.
std::string ResizeDoubt(const MetricInputs& inputs);

// Refuses, with exit code 64, inputs that do not fit each other (dims, sizes, channels, too few images, no extractor),
// a metric that was asked for and cannot be had, and that nothing can be had. Where all are taken, logs what is left
// out and why; warns of fewer images than features, and of statistics that may be of another resizing.
absl::StatusOr<ChosenMetrics> ChooseMetrics(const MetricInputs& inputs);

}  // namespace shardit
