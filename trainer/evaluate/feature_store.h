// Extracted features on disk (trainer/chunk_store.h): chunk-000012.features holds float32 features [count,
// feature_dim], spatial [count, spatial_dim] and logits [count, logit_dim], little-endian.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/file.h"
#include "core/base/math.h"
#include "trainer/chunk_store.h"

namespace shardit {

// What a store is to hold.
struct FeatureStoreOptions {
  // A hash (HashBytes) of everything that determines the features: extractor and its hash, source, preprocessing.
  uint64_t key = 0;
  int64_t samples = 0;          // in the whole set, >= 0
  int64_t chunk_samples = 512;  // >= 1; the last chunk may be shorter
  // Floats a sample; 0: the extractor has none.
  int64_t feature_dim = 0, spatial_dim = 0, logit_dim = 0;
};

// A chunk in memory: [count, dim] each, row-major.
struct FeatureChunk {
  std::vector<float> features, spatial, logits;
};

// As ChunkStore. A chunk of other dims counts as absent.
class FeatureStore {
 public:
  static absl::StatusOr<FeatureStore> Open(FileSystem& fs, const std::string& folder,
                                           const FeatureStoreOptions& options);

  int64_t chunks() const { return store_.chunks(); }
  Range Samples(int64_t chunk) const { return store_.Items(chunk); }
  std::vector<uint8_t> Present(Range chunks) const { return store_.Present(chunks); }
  absl::StatusOr<FeatureChunk> Read(int64_t chunk) const;
  // Sizes must be those of the options (CHECK).
  absl::Status Write(int64_t chunk, const FeatureChunk& content);

 private:
  FeatureStore(ChunkStore store, const FeatureStoreOptions& options);

  ChunkStore store_;
  FeatureStoreOptions options_;
};

}  // namespace shardit
