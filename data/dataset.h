// Several latent files as one index space: sample i of the data set is sample i - start of the file that covers it,
// files in name order (by bytes, whatever the locale). Immutable once open; reading is thread-safe, each thread with a
// SampleReader of its own. Opening reads labels only: about 5 bytes a sample, no table of offsets.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/aligned_buffer.h"
#include "data/latent_file.h"

namespace shardit {

struct DatasetOptions {
  std::string path;        // a file, or a pattern for glob(7)
  bool in_memory = false;  // read everything at Open; for chunked files and slow disks
  int64_t classes = 0;     // the model's: labels must be below; 0: not checked
};

// Expands a path or pattern to files in name order. NotFound when nothing matches.
absl::StatusOr<std::vector<std::string>> MatchFiles(const std::string& pattern);

class Dataset {
 public:
  // Opens every file (see LatentFile for what is refused). All files must have one latent shape and, where they state
  // it, one number of classes; kind, type, scale and flipped may differ from file to file.
  static absl::StatusOr<std::shared_ptr<const Dataset>> Open(const DatasetOptions& options);

  int64_t size() const { return starts_.back(); }
  const LatentShape& shape() const { return files_.front()->info().shape; }
  int64_t classes() const { return classes_; }  // as the files state it; 0: none does
  int32_t label(int64_t sample) const;
  const std::vector<std::unique_ptr<LatentFile>>& files() const { return files_; }

  struct Place {
    const LatentFile* file;
    int64_t sample;  // within the file
  };
  Place Find(int64_t sample) const;

  // A hash of sizes, shapes, types, attributes and labels, equal on every host that sees the same data wherever it is
  // mounted: for ranks to compare at start-up. It does not read the samples.
  uint64_t Fingerprint() const;

 private:
  Dataset() = default;
  std::vector<std::unique_ptr<LatentFile>> files_;
  std::vector<int64_t> starts_;  // files + 1 entries; the last is the size
  int64_t classes_ = 0;
};

// How one use of a sample is drawn.
struct SampleDraw {
  uint64_t seed = 0;
  uint64_t stream = 0;  // the global position in the sample stream: the posterior draw's stream
  bool mirror = false;  // flip along the width; ignored for files that hold mirrored copies already
};

// Reads samples as the model wants them. Not thread-safe; keeps scratch for one stored sample. The data set must
// outlive it.
class SampleReader {
 public:
  static absl::StatusOr<SampleReader> Make(const Dataset& dataset);

  // Writes sample `sample` as C x H x W float32 into x: stored latents, or mean + deviation * normal(seed, kPosterior,
  // stream), times the file's scale, then mirrored. The draw is made before the mirror, element by stored element.
  absl::Status Read(int64_t sample, const SampleDraw& draw, float* x);

 private:
  explicit SampleReader(const Dataset& dataset) : dataset_(&dataset) {}
  absl::StatusOr<const std::byte*> Stored(const Dataset::Place& place);
  const Dataset* dataset_;
  AlignedBuffer<std::byte> raw_;  // one sample as stored
  AlignedBuffer<float> moments_;  // the same as float32, where it is stored as float16
};

// Reads samples [first, first + count) in order, never mirrored, with posterior draws keyed by the sample's own index,
// so that validation sees the same values at every step and on every layout. x is count x C x H x W, y is count labels.
absl::Status ReadRange(const Dataset& dataset, SampleReader& reader, uint64_t seed, int64_t first, int64_t count,
                       std::span<float> x, std::span<int32_t> y);

}  // namespace shardit
