#include "trainer/evaluate/image_source.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/check.h"
#include "core/base/file.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "data/dataset.h"
#include "data/formats/npz.h"
#include "model/sampler.h"
#include "trainer/evaluate/image_folder.h"
#include "trainer/extractor/file_hash.h"

namespace shardit {
namespace {

// Latents of [-1, 1] may have been rounded on their way.
constexpr float kLatentSlack = 1e-3f;

void CheckRange(const ImageShape& shape, int64_t first, size_t bytes) {
  const int64_t image = shape.bytes() / shape.count, size = static_cast<int64_t>(bytes);
  CHECK(size % image == 0 && first >= 0 && size / image <= shape.count - first)
      << "[ImageSource] " << size << " bytes from image " << first << " of " << shape.count << " of " << image;
}

bool IsInteger(NpyType type) {
  return type != NpyType::kBool && type != NpyType::kF16 && type != NpyType::kF32 && type != NpyType::kF64;
}

// Labels of `count` images in `arr_1`; none where that is something else.
absl::StatusOr<std::vector<int32_t>> ReadLabels(const NpzReader& npz, const std::string& path, int64_t count) {
  std::vector<int32_t> labels;
  absl::StatusOr<NpyArray> array = npz.Array("arr_1");
  if (absl::IsNotFound(array.status())) return labels;
  RETURN_IF_ERROR(array.status());
  if (!IsInteger(array->type()) || array->shape() != std::vector<int64_t>{count}) return labels;
  std::vector<double> values(static_cast<size_t>(count));
  RETURN_IF_ERROR(array->ReadAsDouble(0, count, values.data()));
  labels.reserve(values.size());
  for (const double value : values) {
    if (value < 0 || value >= static_cast<double>(kMaxClasses)) {
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted(path), ", array 'arr_1': label ", value, "; expected 0 to ", kMaxClasses - 1));
    }
    labels.push_back(static_cast<int32_t>(value));
  }
  return labels;
}

class NpzImages : public ImageSource {
 public:
  static absl::StatusOr<std::unique_ptr<ImageSource>> Open(const std::string& path) {
    ASSIGN_OR_RETURN(const NpzReader npz, NpzReader::Open(path));
    ASSIGN_OR_RETURN(NpyArray images, npz.Array("arr_0"));
    const std::vector<int64_t>& dims = images.shape();
    if (images.type() != NpyType::kU8 || dims.size() != 4 || (dims[3] != 1 && dims[3] != 3) ||
        images.header().data_bytes == 0) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(path), ", array 'arr_0': expected images, |u1 of shape ",
                                                     "(N, height, width, 1 or 3), got ", TypeName(images.type()),
                                                     " of shape (", absl::StrJoin(dims, ", "), ")"));
    }
    ASSIGN_OR_RETURN(std::vector<int32_t> labels, ReadLabels(npz, path, dims[0]));
    return std::unique_ptr<ImageSource>(
        new NpzImages(std::move(images), {dims[0], dims[1], dims[2], dims[3]}, std::move(labels)));
  }

  const ImageShape& shape() const override { return shape_; }
  const std::vector<int32_t>& labels() const override { return labels_; }

  absl::Status Read(int64_t first, std::span<uint8_t> pixels) override {
    CheckRange(shape_, first, pixels.size());
    return images_.Read(first * (shape_.bytes() / shape_.count), static_cast<int64_t>(pixels.size()), pixels.data());
  }

 private:
  NpzImages(NpyArray images, ImageShape shape, std::vector<int32_t> labels)
      : images_(std::move(images)), shape_(shape), labels_(std::move(labels)) {}

  NpyArray images_;
  ImageShape shape_;
  std::vector<int32_t> labels_;
};

class LatentImages : public ImageSource {
 public:
  static absl::StatusOr<std::unique_ptr<ImageSource>> Open(const std::string& path) {
    ASSIGN_OR_RETURN(std::shared_ptr<const Dataset> dataset, Dataset::Open({.path = path}));
    const LatentShape& dims = dataset->shape();
    const auto refuse = [&](const std::string& got) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(path), ": expected latents that are images, ",
                                                     "with 1 or 3 channels, got ", got,
                                                     "; decode them and give the images as npz"));
    };
    for (const auto& file : dataset->files()) {
      if (file->info().kind == LatentKind::kMoments) return refuse("moments of a posterior");
    }
    if (dims.channels != 1 && dims.channels != 3) return refuse(absl::StrCat(dims.channels, " channels"));
    if (dataset->size() == 0) return refuse("no sample");
    auto images = std::unique_ptr<LatentImages>(new LatentImages(path, std::move(dataset)));
    ASSIGN_OR_RETURN(SampleReader reader, SampleReader::Make(*images->dataset_));
    images->reader_.emplace(std::move(reader));
    return images;
  }

  const ImageShape& shape() const override { return shape_; }
  const std::vector<int32_t>& labels() const override { return labels_; }
  int64_t classes() const override { return dataset_->classes(); }

  absl::Status Read(int64_t first, std::span<uint8_t> pixels) override {
    CheckRange(shape_, first, pixels.size());
    const size_t plane = static_cast<size_t>(shape_.height * shape_.width),
                 channels = static_cast<size_t>(shape_.channels);
    std::vector<float> latent(plane * channels);
    std::vector<uint8_t> bytes(latent.size());
    for (size_t at = 0; at < pixels.size(); at += bytes.size(), ++first) {
      RETURN_IF_ERROR(reader_->Read(first, {}, latent.data()));
      RETURN_IF_ERROR(CheckValues(first, latent));
      ToUint8(latent.data(), static_cast<int64_t>(latent.size()), bytes.data());
      for (size_t i = 0; i < bytes.size(); ++i) pixels[at + i] = bytes[i % channels * plane + i / channels];
    }
    return absl::OkStatus();
  }

 private:
  LatentImages(std::string path, std::shared_ptr<const Dataset> dataset)
      : path_(std::move(path)), dataset_(std::move(dataset)) {
    const LatentShape& dims = dataset_->shape();
    shape_ = {dataset_->size(), dims.height, dims.width, dims.channels};
    for (int64_t i = 0; i < dataset_->size(); ++i) labels_.push_back(dataset_->label(i));
  }

  absl::Status CheckValues(int64_t sample, const std::vector<float>& latent) const {
    for (const float value : latent) {
      if (std::abs(value) <= 1.0f + kLatentSlack) continue;  // false for NaN too
      return absl::InvalidArgumentError(absl::StrCat(Quoted(path_), ": sample ", sample, " holds ", value,
                                                     "; expected images, with values in [-1, 1]"));
    }
    return absl::OkStatus();
  }

  std::string path_;
  std::shared_ptr<const Dataset> dataset_;
  std::optional<SampleReader> reader_;
  ImageShape shape_;
  std::vector<int32_t> labels_;
};

absl::Status VerifyArrays(const std::string& path) {
  ASSIGN_OR_RETURN(const NpzReader npz, NpzReader::Open(path));
  for (const std::string& name : npz.names()) {
    ASSIGN_OR_RETURN(NpyArray array, npz.Array(name));
    RETURN_IF_ERROR(array.Verify());
  }
  return absl::OkStatus();
}

std::string Sha256Of(const std::string& bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  CHECK(EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr) == 1) << "[Sha256Of]";
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest), size});
}

class FirstOf : public ImageSource {
 public:
  FirstOf(std::unique_ptr<ImageSource> source, int64_t count) : source_(std::move(source)), shape_(source_->shape()) {
    CHECK(count > 0 && count <= shape_.count) << "[FirstImages] " << count << " of " << shape_.count;
    shape_.count = count;
    labels_ = source_->labels();
    if (!labels_.empty()) labels_.resize(static_cast<size_t>(count));
  }

  const ImageShape& shape() const override { return shape_; }
  const std::vector<int32_t>& labels() const override { return labels_; }
  int64_t classes() const override { return source_->classes(); }
  absl::Status Read(int64_t first, std::span<uint8_t> pixels) override {
    CheckRange(shape_, first, pixels.size());
    return source_->Read(first, pixels);
  }

 private:
  std::unique_ptr<ImageSource> source_;
  ImageShape shape_;
  std::vector<int32_t> labels_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ImageSource>> OpenImageSource(const std::string& path) {
  if (KindOfPath(path) == PathKind::kFolder) return OpenImageFolder(path);
  if (absl::EndsWith(path, ".npz") || absl::EndsWith(path, ".npy")) return NpzImages::Open(path);
  if (absl::EndsWith(path, ".h5") || absl::EndsWith(path, ".hdf5")) return LatentImages::Open(path);
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(path), ": expected images as .npz, .h5, or a folder of .png or .npz files"));
}

absl::StatusOr<std::string> ImageSourceSha256(const std::string& path) {
  std::vector<std::string> files = {path};
  if (KindOfPath(path) == PathKind::kFolder) {
    ASSIGN_OR_RETURN(files, ImageFolderFiles(path));
  } else if (!absl::EndsWith(path, ".npz")) {
    ASSIGN_OR_RETURN(files, MatchFiles(path));
  }
  std::string hashes;
  for (const std::string& file : files) {
    if (absl::EndsWith(file, ".npz")) RETURN_IF_ERROR(VerifyArrays(file));
    ASSIGN_OR_RETURN(const std::string hash, Sha256OfFile(file));
    hashes += hash;
  }
  return files.size() == 1 ? hashes : Sha256Of(hashes);
}

std::unique_ptr<ImageSource> FirstImages(std::unique_ptr<ImageSource> source, int64_t count) {
  return std::make_unique<FirstOf>(std::move(source), count);
}

}  // namespace shardit
