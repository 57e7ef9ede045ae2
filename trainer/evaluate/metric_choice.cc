#include "trainer/evaluate/metric_choice.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "model/inception.h"
#include "trainer/extractor/extractor_file.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

absl::Status Usage(const std::string& message) {
  return WithExitCode(absl::InvalidArgumentError(message), ExitCode::kUsage);
}

std::string PathOf(const EvaluationSide& side) { return Quoted(side.description.value("path", "")); }

int64_t CountOf(const EvaluationSide& side) { return side.images == nullptr ? 0 : side.images->shape().count; }

// Images of the two sides are compared only where they are of one size.
absl::Status CheckShapes(const MetricInputs& inputs) {
  if (inputs.reference == nullptr || inputs.samples.images == nullptr || inputs.reference->images == nullptr) {
    return absl::OkStatus();
  }
  const ImageShape &a = inputs.samples.images->shape(), &b = inputs.reference->images->shape();
  if (a.height == b.height && a.width == b.width && a.channels == b.channels) return absl::OkStatus();
  return Usage(absl::StrCat("samples ", PathOf(inputs.samples), " are ", a.height, " x ", a.width, " x ", a.channels,
                            ", the reference ", PathOf(*inputs.reference), " is ", b.height, " x ", b.width, " x ",
                            b.channels, "; expected images of one size and number of channels"));
}

absl::Status CheckDim(const EvaluationSide& side, const char* what, int64_t dim, int64_t expected) {
  if (dim == expected) return absl::OkStatus();
  return Usage(absl::StrCat("statistics ", PathOf(side), " have ", dim, what, "; expected ", expected,
                            ": they come from another extractor"));
}

absl::Status CheckStatistics(const MetricInputs& inputs, const EvaluationSide& side) {
  if (!side.statistics.has_value()) return absl::OkStatus();
  int64_t dim = 0, spatial_dim = 0;
  if (inputs.extractor != nullptr) {
    dim = inputs.extractor->feature_dim;
    spatial_dim = inputs.extractor->spatial_dim;
  } else {
    dim = inputs.samples.statistics->features.dim();
    if (inputs.samples.statistics->spatial.has_value()) spatial_dim = inputs.samples.statistics->spatial->dim();
  }
  RETURN_IF_ERROR(CheckDim(side, " features", side.statistics->features.dim(), dim));
  if (!side.statistics->spatial.has_value() || spatial_dim == 0) return absl::OkStatus();
  return CheckDim(side, " spatial features", side.statistics->spatial->dim(), spatial_dim);
}

absl::Status CheckSides(const MetricInputs& inputs) {
  const bool images =
      inputs.samples.images != nullptr || (inputs.reference != nullptr && inputs.reference->images != nullptr);
  if (images && inputs.extractor == nullptr) {
    return Usage("--extractor is needed: images have no features without one; make one with shardit extractor");
  }
  if (!images && inputs.extractor != nullptr) {
    return Usage("--extractor: two statistics files need none, and nothing shows that they come from it; leave it out");
  }
  RETURN_IF_ERROR(CheckShapes(inputs));
  RETURN_IF_ERROR(CheckStatistics(inputs, inputs.samples));
  if (inputs.reference != nullptr) RETURN_IF_ERROR(CheckStatistics(inputs, *inputs.reference));
  for (const EvaluationSide* side : {&inputs.samples, inputs.reference}) {
    if (side == nullptr || side->images == nullptr) continue;
    if (CountOf(*side) < 2) return Usage(absl::StrCat(PathOf(*side), ": expected two images or more, got one"));
  }
  const EvaluateRequest& request = inputs.request;
  if (inputs.samples.images == nullptr && !(request.write_statistics + request.write_features).empty()) {
    return Usage(absl::StrCat("--write-statistics and --write-features need images, got statistics as --samples"));
  }
  if (!inputs.drawn && !(request.write_samples + request.write_grid).empty()) {
    return Usage("--write-samples and --grid keep what a model draws; --samples holds images already");
  }
  return absl::OkStatus();
}

bool HasSpatial(const EvaluationSide& side, const ExtractorInfo* extractor) {
  if (side.statistics.has_value()) return side.statistics->spatial.has_value();
  return extractor != nullptr && extractor->spatial_dim > 0;
}

// Why a metric cannot be had; empty: it can.
std::string NoFid(const MetricInputs& inputs) { return inputs.reference == nullptr ? "there is no --reference" : ""; }

std::string NoSpatial(const MetricInputs& inputs) {
  if (inputs.reference == nullptr) return "there is no --reference";
  if (inputs.extractor != nullptr && inputs.extractor->spatial_dim == 0) return "the extractor has no spatial features";
  for (const EvaluationSide* side : {&inputs.samples, inputs.reference}) {
    if (!HasSpatial(*side, inputs.extractor)) return absl::StrCat(PathOf(*side), " has no mu_s and sigma_s");
  }
  return "";
}

std::string NoInceptionScore(const MetricInputs& inputs) {
  if (inputs.samples.images == nullptr) return "statistics of samples hold no class probabilities";
  return inputs.extractor->classes < 2 ? "the extractor has no classes" : "";
}

std::string NoPrecisionRecall(const MetricInputs& inputs) {
  if (inputs.reference == nullptr) return "there is no --reference";
  for (const EvaluationSide* side : {&inputs.samples, inputs.reference}) {
    if (side->images == nullptr) return absl::StrCat(PathOf(*side), " holds statistics, not images");
    if (CountOf(*side) <= inputs.request.neighbours) {
      return absl::StrCat(PathOf(*side), " has ", CountOf(*side), " images, and --k ", inputs.request.neighbours,
                          " needs more");
    }
  }
  return "";
}

// Labels that a classifier can be held to: those of its own classes.
bool Judged(const MetricInputs& inputs, const EvaluationSide& side) {
  if (inputs.extractor == nullptr || inputs.extractor->architecture != kClassifierArchitecture) return false;
  if (side.images == nullptr || side.images->labels().empty()) return false;
  const std::vector<int32_t>& labels = side.images->labels();
  const int64_t classes = side.images->classes();
  return (classes == 0 || classes == inputs.extractor->classes) &&
         *std::max_element(labels.begin(), labels.end()) < inputs.extractor->classes;
}

void WarnOfRank(const MetricInputs& inputs) {
  if (inputs.extractor == nullptr) return;
  for (const EvaluationSide* side : {&inputs.samples, inputs.reference}) {
    if (side == nullptr || side->images == nullptr || CountOf(*side) > inputs.extractor->feature_dim) continue;
    LOG_WARN(
        "{} images of {} give a covariance of {} features that is rank-deficient: the Frechet distance is far from "
        "its limit for many images",
        CountOf(*side), PathOf(*side), inputs.extractor->feature_dim);
  }
}

}  // namespace

absl::Status CheckEvaluateRequest(const EvaluateRequest& request) {
  if (request.samples.empty()) return Usage("--samples is needed: images, statistics or a checkpoint");
  if (request.num == 1 || request.reference_num == 1) return Usage("--num: expected 2 images or more, got 1");
  if (!request.all && !request.fid && !request.sfid && !request.inception_score && !request.precision_recall) {
    return Usage("--metrics: expected one or more of fid, sfid, is, pr, got none");
  }
  return absl::OkStatus();
}

std::string ResizeDoubt(const MetricInputs& inputs) {
  const ExtractorInfo* extractor = inputs.extractor;
  if (extractor == nullptr || extractor->architecture != kInceptionArchitecture || inputs.request.tf1_resize) return "";
  const auto is_resized = [](const EvaluationSide* side) {
    if (side == nullptr || side->images == nullptr) return false;
    const ImageShape& shape = side->images->shape();
    return shape.height != InceptionV3::kSide || shape.width != InceptionV3::kSide;
  };
  const EvaluationSide *samples = &inputs.samples, *reference = inputs.reference;
  for (const auto& [statistics, images] : {std::pair{reference, samples}, {samples, reference}}) {
    if (statistics == nullptr || !statistics->statistics.has_value() || !is_resized(images)) continue;
    return absl::StrCat("statistics ", PathOf(*statistics), " do not say how their images were resized: published ",
                        "ones, of TensorFlow's graph, need --resize tf1");
  }
  return "";
}

absl::StatusOr<ChosenMetrics> ChooseMetrics(const MetricInputs& inputs) {
  RETURN_IF_ERROR(CheckSides(inputs));
  const EvaluateRequest& request = inputs.request;
  ChosenMetrics chosen;
  struct Row {
    const char* name;
    bool asked;
    std::string why_not;
    bool* take;
  };
  const Row rows[] = {{"fid", request.fid, NoFid(inputs), &chosen.fid},
                      {"sfid", request.sfid, NoSpatial(inputs), &chosen.spatial},
                      {"is", request.inception_score, NoInceptionScore(inputs), &chosen.inception_score},
                      {"pr", request.precision_recall, NoPrecisionRecall(inputs), &chosen.precision_recall}};
  for (const Row& row : rows) {
    *row.take = (request.all || row.asked) && row.why_not.empty();
    if (row.why_not.empty()) continue;
    if (request.all) LOG_INFO("{} is left out: {}", row.name, row.why_not);
    if (!request.all && row.asked) return Usage(absl::StrCat("--metrics ", row.name, ": ", row.why_not));
  }
  const bool any = chosen.fid || chosen.spatial || chosen.inception_score || chosen.precision_recall;
  if (!any) return Usage("nothing can be computed: give --reference");
  chosen.frechet = chosen.fid || chosen.spatial;
  chosen.agreement = Judged(inputs, inputs.samples);
  if (inputs.reference != nullptr) {
    const bool needed = chosen.frechet && !inputs.reference->statistics.has_value();
    chosen.reference_features = inputs.reference->images != nullptr && (needed || chosen.precision_recall);
    chosen.reference_accuracy = chosen.reference_features && Judged(inputs, *inputs.reference);
  }
  if (chosen.frechet) {
    WarnOfRank(inputs);
    if (const std::string doubt = ResizeDoubt(inputs); !doubt.empty()) LOG_WARN("{}", doubt);
  }
  return chosen;
}

}  // namespace shardit
