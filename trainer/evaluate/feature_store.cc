#include "trainer/evaluate/feature_store.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/hash.h"
#include "core/base/status_macros.h"

namespace shardit {

absl::StatusOr<FeatureStore> FeatureStore::Open(FileSystem& fs, const std::string& folder,
                                                const FeatureStoreOptions& options) {
  CHECK(options.feature_dim >= 0 && options.spatial_dim >= 0 && options.logit_dim >= 0) << "[FeatureStore] dims";
  const std::string dims = absl::StrCat(options.feature_dim, " ", options.spatial_dim, " ", options.logit_dim);
  const int64_t floats = options.feature_dim + options.spatial_dim + options.logit_dim;
  ASSIGN_OR_RETURN(ChunkStore store, ChunkStore::Open(fs, folder,
                                                      {.kind = "features",
                                                       .key = HashBytes(dims, options.key),
                                                       .items = options.samples,
                                                       .chunk_items = options.chunk_samples,
                                                       .item_bytes = floats * static_cast<int64_t>(sizeof(float))}));
  return FeatureStore(std::move(store), options);
}

FeatureStore::FeatureStore(ChunkStore store, const FeatureStoreOptions& options)
    : store_(std::move(store)), options_(options) {}

absl::StatusOr<FeatureChunk> FeatureStore::Read(int64_t chunk) const {
  ASSIGN_OR_RETURN(const std::string bytes, store_.Read(chunk));
  const char* from = bytes.data();
  const auto take = [&](int64_t dim) {
    std::vector<float> values(static_cast<size_t>(Samples(chunk).size() * dim));
    std::memcpy(values.data(), from, values.size() * sizeof(float));
    from += values.size() * sizeof(float);
    return values;
  };
  FeatureChunk content;
  content.features = take(options_.feature_dim);
  content.spatial = take(options_.spatial_dim);
  content.logits = take(options_.logit_dim);
  return content;
}

absl::Status FeatureStore::Write(int64_t chunk, const FeatureChunk& content) {
  const size_t count = static_cast<size_t>(Samples(chunk).size());
  CHECK_EQ(content.features.size(), count * options_.feature_dim);
  CHECK_EQ(content.spatial.size(), count * options_.spatial_dim);
  CHECK_EQ(content.logits.size(), count * options_.logit_dim);
  std::string bytes;
  for (const std::vector<float>* part : {&content.features, &content.spatial, &content.logits}) {
    bytes.append(reinterpret_cast<const char*>(part->data()), part->size() * sizeof(float));
  }
  return store_.Write(chunk, bytes);
}

}  // namespace shardit
