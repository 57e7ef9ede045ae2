// Scores of a set of images: Frechet distance (Heusel et al., arXiv 1706.08500), its spatial form (Nash et al., arXiv
// 2103.03841), inception score (Salimans et al., arXiv 1606.03498), precision and recall (Kynkaanniemi et al., arXiv
// 1904.06991), each with a bootstrap interval, on the features of one extractor.
//
// The images are cut into chunks of one fixed size, whatever the number of ranks; chunks are dealt out to the ranks by
// index, their features collected in index order, and everything after that depends on the collected features only: the
// scores are the same, bit for bit, on any number of ranks. Every rank ends up with all features in memory: N x (what
// the metrics need of feature_dim, spatial_dim and classes) x 4 bytes for either set.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "parallel/comm/world.h"
#include "trainer/evaluate/evaluate_report.h"
#include "trainer/run_config/options.h"
#include "trainer/sample.h"

namespace shardit {

struct EvaluateRequest {
  // What is scored: images (trainer/evaluate/image_source.h), a statistics file (npz with mu and sigma), or a
  // checkpoint, run folder or weight file, from which images are drawn as `sampling` says.
  std::string samples;
  std::string reference;  // images or a statistics file; empty where no metric needs one
  std::string extractor;  // extractor file; empty: both sides are statistics files
  bool tf1_resize = false;

  // Metrics: those asked for. `all` instead takes what the inputs allow and says what it leaves out.
  bool all = true;
  bool fid = false, sfid = false, inception_score = false, precision_recall = false;

  int64_t num = 0;            // images of `samples`; 0: all of them (of a model: must be given)
  int64_t reference_num = 0;  // 0: all of them, or the statistics that lie beside them
  int64_t batch = 32;         // images a pass of the extractor
  int64_t neighbours = 3;     // k of precision and recall
  int64_t split = 5000;       // images of a split of the inception score
  int64_t replicates = 200;   // of the bootstrap; 0: no intervals

  // Of drawn samples. Its checkpoint, num and out are not used; device, threads and precision are those of the whole
  // evaluation.
  SampleRequest sampling;

  std::string work;  // folder where features and wanted images are kept, for restarts and reuse; empty: none
  std::string write_statistics;  // statistics of the samples, npz; empty: not written
  std::string write_features;    // features, spatial, logits, labels, and the same of the reference, npz
  std::string write_samples;     // drawn images and their labels, npz
  std::string write_grid;        // the first ten drawn images of every class, png
  std::string report_path;       // where the caller will write the report: checked with the others, before the work
};

// Collective over the world; every rank gets the same status, rank 0 the report. What can be wrong with the request is
// refused before the first image is read or drawn. With `work`, a signal (trainer/train/stop_signal.h) ends it at a
// chunk's boundary with Cancelled (exit code 75), and the same call goes on from the chunks that are there.
absl::StatusOr<EvaluateReport> RunEvaluate(World& world, const EvaluateRequest& request);

}  // namespace shardit
