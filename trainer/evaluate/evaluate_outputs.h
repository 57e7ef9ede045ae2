// Files that an evaluation leaves on request: features for programs of one's own, and the images that a model drew.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/formats/npz.h"
#include "trainer/evaluate/extract_features.h"
#include "trainer/evaluate/image_source.h"

namespace shardit {

// A set of features and the labels of its images (or none).
struct LabelledFeatures {
  const FeatureSet* set = nullptr;
  std::span<const int32_t> labels;
};

// npz: features [N, dim], spatial, logits (float32) and labels (int64), each where there are any; those of the
// reference, where it is given, with `reference_` before their names. Atomic.
absl::Status WriteFeatures(const std::string& path, const LabelledFeatures& samples, const LabelledFeatures* reference);

// The images that a model draws, taken as they come: into an npz (arr_0 uint8 NHWC, arr_1 the labels), as `sample`
// writes it, and into a grid with a row a class (at most kGridRows of them, and what a
// PNG has room for) of kGridColumns images. For rank 0.
class DrawnImages {
 public:
  static constexpr int64_t kGridColumns = 10, kGridRows = 50;

  // Which chunks of `chunk` images hold some that are wanted (1): all of them for the npz, those that are shown for the
  // grid. Empty where nothing is wanted.
  static std::vector<uint8_t> WantedChunks(const std::string& npz_path, const std::string& grid_path,
                                           const ImageShape& shape, int64_t classes, int64_t chunk);

  // `labels` of the `shape.count` images repeat those of the first `classes`. Paths may be empty.
  static absl::StatusOr<DrawnImages> Create(const std::string& npz_path, const std::string& grid_path,
                                            const ImageShape& shape, const std::vector<int32_t>& labels,
                                            int64_t classes);

  // Images first, first + 1, ...: those of each chunk that is wanted, in order.
  absl::Status Take(int64_t first, std::span<const uint8_t> pixels);
  absl::Status Finish();

 private:
  DrawnImages(std::string grid_path, const ImageShape& shape, const std::vector<int32_t>& labels, int64_t classes);
  absl::Status WriteGrid() const;

  std::optional<NpzWriter> npz_;
  std::string grid_path_;
  ImageShape shape_;
  std::vector<int32_t> labels_;
  int64_t classes_ = 0;
  std::map<int64_t, std::vector<uint8_t>> tiles_;  // by image index: those of the grid
};

}  // namespace shardit
