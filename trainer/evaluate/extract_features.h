// Features of a set of images, by all ranks: chunks of consecutive images are dealt out by index, and every rank ends
// up with the features of all images, in order. They do not depend on the number of ranks, nor on what was done before
// an interruption.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/tensor/rank_context.h"
#include "model/feature_extractor.h"
#include "trainer/chunk_store.h"
#include "trainer/evaluate/deal.h"
#include "trainer/evaluate/feature_rows.h"
#include "trainer/evaluate/feature_store.h"
#include "trainer/evaluate/image_source.h"

namespace shardit {

// In host memory, row-major.
struct FeatureSet {
  int64_t count = 0, feature_dim = 0, spatial_dim = 0, classes = 0;
  std::vector<float> features;  // [count, feature_dim]
  std::vector<float> spatial;   // [count, spatial_dim]; empty where not kept
  std::vector<float> logits;    // [count, classes]; empty where not kept

  FeatureRows feature_rows() const { return {features.data(), count, feature_dim}; }
  FeatureRows spatial_rows() const { return {spatial.data(), count, spatial_dim}; }
};

struct ExtractOptions {
  std::string name;     // of the set, for progress and messages
  int64_t batch = 32;   // images a pass
  int64_t chunk = 512;  // images
  bool keep_spatial = false, keep_logits = false;
  // Chunks found there are not extracted again, and new ones are stored. Options as of this set (samples, chunk,
  // dims). Null: none.
  FeatureStore* store = nullptr;
  // Pixels that are wanted beside the features: 1 for each such chunk, equal on all ranks; empty: none. `take_images`
  // is called on rank 0 with those of every such chunk, in order.
  std::vector<uint8_t> wanted;
  std::function<absl::Status(int64_t first, std::span<const uint8_t> pixels)> take_images;
  // Where wanted pixels are kept too, so that after an interruption no image is read (or drawn) twice. Null: images of
  // wanted chunks are read again even where their features are stored.
  ChunkStore* pixel_store = nullptr;
};

// Collective; every rank gets the same status. After every round of chunks, one a rank, the ranks agree on errors and
// on signals: with a signal, what is stored stays, and the status is CheckStop's. Features that are not finite are
// InvalidArgument with exit code 77.
absl::StatusOr<FeatureSet> ExtractFeatures(const Crew& crew, RankContext& context, const FeatureExtractor& extractor,
                                           ImageSource& source, const ExtractOptions& options);

}  // namespace shardit
