// What an evaluation found, as a document and as text.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "model/feature_extractor.h"

namespace shardit {

// A value with the 95% interval of its bootstrap. low > high: there is no interval.
struct Score {
  double value = 0;
  double low = 1, high = 0;

  bool has_interval() const { return low <= high; }
};

struct EvaluateReport {
  // Not there: not asked for, or not to be had from the inputs.
  std::optional<Score> frechet;          // FID where extractor.is_fid
  std::optional<Score> spatial_frechet;  // sFID where extractor.is_fid
  std::optional<Score> inception_score;
  double inception_score_std = 0;  // over the splits
  std::optional<Score> precision, recall;
  std::optional<Score> class_agreement;      // part of the samples that the classifier labels as they are labelled
  std::optional<double> reference_accuracy;  // the same of the reference

  std::optional<int64_t> n, n_reference;  // images that a Frechet distance is of; not known of statistics
  int64_t replicates = 0, neighbours = 0, split = 0;

  bool has_extractor = false;
  std::string extractor_path;
  ExtractorInfo extractor;
  // What they are: path, kind, sha256 and, of drawn samples, the sampling settings.
  nlohmann::ordered_json samples, reference;
  double seconds = 0;
};

// One object. Keys, where there is a value: fid and sfid where the extractor is the FID one, else fd and sfd; is,
// is_std, precision, recall, class_agreement, reference_accuracy; <key>_interval [low, high]; n, n_reference (null
// where not known); bootstrap, k, is_split; extractor {path, architecture, sha256, source_sha256, resize, feature_dim,
// spatial_dim, classes} or null; samples and reference {path, kind, sha256, ...} (reference null where there is none;
// of images height, width, channels; of a model those of DescribeSampling; of statistics that lie beside images, which
// precision and recall are taken of, their number `images`);
// version; seconds.
nlohmann::ordered_json ReportJson(const EvaluateReport& report, const std::string& version);

// A table of the scores under one line on extractor, resize and sizes.
std::string ReportText(const EvaluateReport& report);

}  // namespace shardit
