// Training of a classifier whose features judge samples (model/classifier.h), on one CPU rank, in a minute or two.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "core/tensor/rank_context.h"
#include "model/classifier.h"

namespace shardit {

struct ClassifierTraining {
  std::string data;        // HDF5 file or glob of images: latents of 1 or 3 channels in [-1, 1], with labels
  std::string validation;  // the same, held out; empty: accuracy is not measured
  std::string out;         // extractor file to write
  int64_t epochs = 5;
  int64_t batch = 128;
  uint64_t seed = 0;
  double learning_rate = 2e-3;
  double weight_decay = 0.01;
  int64_t first_channels = 16;
  bool flip = false;  // mirror half of the images: not for digits and letters
};

struct ClassifierReport {
  ClassifierConfig config;
  int64_t parameters = 0;  // elements
  int64_t images = 0;
  int64_t steps = 0;
  double loss = 0;                 // mean of the last epoch
  std::optional<double> accuracy;  // on the held-out images
  double seconds = 0;              // training and measuring
  std::string sha256;              // of the file
};

// Trains from initial values drawn from the seed: AdamW, a linear warm-up over the first twentieth, then half a cosine
// down to 0; every image shifted by up to two pixels each way, edges repeated. The same data, settings and instruction
// set give the same weights, whatever the number of threads. Logs a line an epoch, and writes the file at the end, with
// the data's fingerprints and the held-out accuracy in its metadata. A setting that makes no sense is an error of
// usage, a loss that is not finite one of numerics, and an output that cannot be written is found first (code 73).
absl::StatusOr<ClassifierReport> TrainClassifier(RankContext& context, const ClassifierTraining& training);

}  // namespace shardit
