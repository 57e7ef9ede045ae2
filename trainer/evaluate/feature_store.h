// Extracted features on disk, so that an interrupted evaluation goes on where it stopped. A folder holds one file for
// every chunk of consecutive samples; which samples a chunk holds depends on the chunk size alone, never on the ranks.
//
//   chunk-000012.features    header (FeatureStore::kHeaderBytes), then float32 features [count, feature_dim], spatial
//                            [count, spatial_dim] and logits [count, logit_dim], little-endian
//
// The header names what the features were made of (a key, sizes) and has a CRC32C of itself and of the data. A file
// that is damaged, or whose header says anything else than asked for, counts as absent, with a warning: its chunk is
// extracted again and replaced. Files are written under a temporary name, synced and renamed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/file.h"
#include "core/base/math.h"

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

// Not thread-safe. Ranks share a folder as long as no two write the same chunk at once.
class FeatureStore {
 public:
  static constexpr int64_t kHeaderBytes = 64;

  // Makes the folder where it is missing; reads nothing. `fs` must outlive the store.
  static absl::StatusOr<FeatureStore> Open(FileSystem& fs, const std::string& folder,
                                           const FeatureStoreOptions& options);

  int64_t chunks() const { return CeilDiv(options_.samples, options_.chunk_samples); }
  // The samples of a chunk.
  Range Samples(int64_t chunk) const;

  // Of chunks [chunks.begin, chunks.end), those that are present and whole (1) or must be extracted (0). Reads every
  // byte; ranks take ranges. Logs a warning for every file that is there and not to be trusted.
  std::vector<uint8_t> Present(Range chunks) const;

  // NotFound, or DataLoss with the reason, where Present would say 0.
  absl::StatusOr<FeatureChunk> Read(int64_t chunk) const;
  // Replaces the chunk. Sizes must be those of the options (CHECK).
  absl::Status Write(int64_t chunk, const FeatureChunk& content);

 private:
  FeatureStore(FileSystem& fs, std::string folder, const FeatureStoreOptions& options);
  std::string Path(int64_t chunk) const;
  std::string Header(int64_t chunk, uint32_t data_crc) const;

  FileSystem* fs_;
  std::string folder_;
  FeatureStoreOptions options_;
};

}  // namespace shardit
