#include "trainer/evaluate/evaluate_outputs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "data/formats/png.h"

namespace shardit {
namespace {

template <class T>
absl::Status WriteArray(NpzWriter& npz, const std::string& name, NpyType type, std::vector<int64_t> shape,
                        const std::vector<T>& values) {
  if (values.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(npz.BeginArray(name, type, shape));
  return npz.Append(values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
}

absl::Status WriteSet(NpzWriter& npz, const std::string& prefix, const LabelledFeatures& side) {
  const FeatureSet& set = *side.set;
  const int64_t n = set.count;
  RETURN_IF_ERROR(WriteArray(npz, prefix + "features", NpyType::kF32, {n, set.feature_dim}, set.features));
  RETURN_IF_ERROR(WriteArray(npz, prefix + "spatial", NpyType::kF32, {n, set.spatial_dim}, set.spatial));
  RETURN_IF_ERROR(WriteArray(npz, prefix + "logits", NpyType::kF32, {n, set.classes}, set.logits));
  const std::vector<int64_t> labels(side.labels.begin(), side.labels.end());
  return WriteArray(npz, prefix + "labels", NpyType::kI64, {static_cast<int64_t>(labels.size())}, labels);
}

GridOptions OptionsFor(const ImageShape& shape) { return {.scale = std::max<int64_t>(1, 64 / shape.height)}; }

int64_t GridRows(const ImageShape& shape, int64_t classes) {
  const int64_t room = RoomForTiles(shape.height, shape.width, OptionsFor(shape)).rows;
  return std::min({classes, shape.count, DrawnImages::kGridRows, room});
}

}  // namespace

absl::Status WriteFeatures(const std::string& path, const LabelledFeatures& samples,
                           const LabelledFeatures* reference) {
  ASSIGN_OR_RETURN(NpzWriter npz, NpzWriter::Create(PosixFileSystem(), path));
  RETURN_IF_ERROR(WriteSet(npz, "", samples));
  if (reference != nullptr) RETURN_IF_ERROR(WriteSet(npz, "reference_", *reference));
  return npz.Finish();
}

std::vector<uint8_t> DrawnImages::WantedChunks(const std::string& npz_path, const std::string& grid_path,
                                               const ImageShape& shape, int64_t classes, int64_t chunk) {
  std::vector<uint8_t> wanted;
  if (npz_path.empty() && grid_path.empty()) return wanted;
  wanted.assign(static_cast<size_t>(CeilDiv(shape.count, chunk)), npz_path.empty() ? 0 : 1);
  if (grid_path.empty()) return wanted;
  // Image i is in row i mod classes.
  for (int64_t column = 0; column < kGridColumns; ++column) {
    for (int64_t row = 0; row < GridRows(shape, classes) && column * classes + row < shape.count; ++row) {
      wanted[static_cast<size_t>((column * classes + row) / chunk)] = 1;
    }
  }
  return wanted;
}

DrawnImages::DrawnImages(std::string grid_path, const ImageShape& shape, const std::vector<int32_t>& labels,
                         int64_t classes)
    : grid_path_(std::move(grid_path)), shape_(shape), labels_(labels), classes_(classes) {}

absl::StatusOr<DrawnImages> DrawnImages::Create(const std::string& npz_path, const std::string& grid_path,
                                                const ImageShape& shape, const std::vector<int32_t>& labels,
                                                int64_t classes) {
  DrawnImages images(grid_path, shape, labels, classes);
  if (npz_path.empty()) return images;
  ASSIGN_OR_RETURN(NpzWriter npz, NpzWriter::Create(PosixFileSystem(), npz_path));
  images.npz_.emplace(std::move(npz));
  const std::vector<int64_t> dims = {shape.count, shape.height, shape.width, shape.channels};
  RETURN_IF_ERROR(images.npz_->BeginArray("arr_0", NpyType::kU8, dims));
  return images;
}

absl::Status DrawnImages::Take(int64_t first, std::span<const uint8_t> pixels) {
  const size_t bytes = static_cast<size_t>(shape_.bytes() / shape_.count);
  const int64_t tiles = grid_path_.empty() ? 0 : kGridColumns * classes_;
  for (int64_t i = first; i < tiles && (i - first) * static_cast<int64_t>(bytes) < std::ssize(pixels); ++i) {
    if (i % classes_ >= GridRows(shape_, classes_)) continue;
    const auto tile = pixels.subspan(static_cast<size_t>(i - first) * bytes, bytes);
    tiles_[i].assign(tile.begin(), tile.end());
  }
  return npz_.has_value() ? npz_->Append(pixels.data(), std::ssize(pixels)) : absl::OkStatus();
}

absl::Status DrawnImages::Finish() {
  if (npz_.has_value()) {
    const std::vector<int64_t> labels(labels_.begin(), labels_.end());
    RETURN_IF_ERROR(WriteArray(*npz_, "arr_1", NpyType::kI64, {shape_.count}, labels));
    RETURN_IF_ERROR(npz_->Finish());
  }
  return grid_path_.empty() ? absl::OkStatus() : WriteGrid();
}

// The grid has a row a class, but image i is of class i mod classes: transposes.
absl::Status DrawnImages::WriteGrid() const {
  const int64_t rows = GridRows(shape_, classes_);
  const int64_t columns = std::min(kGridColumns, CeilDiv(shape_.count, classes_));
  const size_t bytes = static_cast<size_t>(shape_.bytes() / shape_.count);
  std::vector<uint8_t> pixels(static_cast<size_t>(rows * columns) * bytes, 255);
  GridOptions options = OptionsFor(shape_);
  options.columns = columns;
  for (int64_t row = 0; row < rows; ++row)
    options.row_labels.push_back(absl::StrCat(labels_[static_cast<size_t>(row)]));
  for (const auto& [i, tile] : tiles_) {
    const size_t place = static_cast<size_t>(i % classes_ * columns + i / classes_);
    std::copy(tile.begin(), tile.end(), pixels.begin() + static_cast<std::ptrdiff_t>(place * bytes));
  }
  if (rows < classes_) LOG_INFO("the grid shows the first {} of {} classes", rows, classes_);
  return WritePng(PosixFileSystem(), grid_path_,
                  MakeGrid(pixels, rows * columns, shape_.height, shape_.width, shape_.channels, options));
}

}  // namespace shardit
