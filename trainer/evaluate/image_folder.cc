#include "trainer/evaluate/image_folder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "data/formats/png.h"

namespace shardit {
namespace {

absl::Status OtherSize(const std::string& path, int64_t height, int64_t width, const std::string& first,
                       const ImageShape& expected) {
  return absl::InvalidArgumentError(absl::StrCat(Quoted(path), ": images of ", height, " x ", width, "; expected ",
                                                 expected.height, " x ", expected.width, " as in ", Quoted(first)));
}

class PngFolder : public ImageSource {
 public:
  static absl::StatusOr<std::unique_ptr<ImageSource>> Open(std::vector<std::string> files) {
    ImageShape shape{static_cast<int64_t>(files.size()), 0, 0, 1};
    for (const std::string& file : files) {
      ASSIGN_OR_RETURN(const PngHeader header, ReadPngHeader(file));
      if (shape.height == 0) shape.height = header.height, shape.width = header.width;
      if (header.height != shape.height || header.width != shape.width) {
        return OtherSize(file, header.height, header.width, files.front(), shape);
      }
      shape.channels = std::max(shape.channels, header.channels);
    }
    return std::unique_ptr<ImageSource>(new PngFolder(std::move(files), shape));
  }

  const ImageShape& shape() const override { return shape_; }
  const std::vector<int32_t>& labels() const override { return labels_; }

  absl::Status Read(int64_t first, std::span<uint8_t> pixels) override {
    const size_t bytes = static_cast<size_t>(shape_.bytes() / shape_.count);
    CHECK(pixels.size() % bytes == 0) << "[PngFolder] " << pixels.size() << " bytes";
    for (size_t at = 0; at < pixels.size(); at += bytes) {
      const std::string& path = files_.at(static_cast<size_t>(first++));
      ASSIGN_OR_RETURN(const Image image, ReadPng(path));
      if (image.height != shape_.height || image.width != shape_.width || image.channels > shape_.channels) {
        return absl::DataLossError(absl::StrCat(Quoted(path), ": has changed since it was first read"));
      }
      const size_t repeat = static_cast<size_t>(shape_.channels / image.channels);
      for (size_t i = 0; i < bytes; ++i) pixels[at + i] = image.pixels[i / repeat];
    }
    return absl::OkStatus();
  }

 private:
  PngFolder(std::vector<std::string> files, ImageShape shape) : files_(std::move(files)), shape_(shape) {}

  std::vector<std::string> files_;
  ImageShape shape_;
  std::vector<int32_t> labels_;  // PNG files have none
};

// Sets of one size, one after the other.
class Joined : public ImageSource {
 public:
  static absl::StatusOr<std::unique_ptr<ImageSource>> Open(const std::vector<std::string>& files) {
    auto joined = std::make_unique<Joined>();
    ImageShape& shape = joined->shape_;
    bool labelled = true;
    for (const std::string& file : files) {
      ASSIGN_OR_RETURN(std::unique_ptr<ImageSource> part, OpenImageSource(file));
      const ImageShape& own = part->shape();
      if (shape.count == 0) shape = {0, own.height, own.width, own.channels};
      if (own.height != shape.height || own.width != shape.width) {
        return OtherSize(file, own.height, own.width, files.front(), shape);
      }
      if (own.channels != shape.channels) {
        return absl::InvalidArgumentError(absl::StrCat(Quoted(file), ": images with ", own.channels,
                                                       " channels; expected ", shape.channels, " as in ",
                                                       Quoted(files.front())));
      }
      labelled = labelled && !part->labels().empty();
      joined->labels_.insert(joined->labels_.end(), part->labels().begin(), part->labels().end());
      shape.count += own.count;
      joined->parts_.push_back(std::move(part));
    }
    if (!labelled) joined->labels_.clear();
    return joined;
  }

  const ImageShape& shape() const override { return shape_; }
  const std::vector<int32_t>& labels() const override { return labels_; }

  absl::Status Read(int64_t first, std::span<uint8_t> pixels) override {
    const int64_t bytes = shape_.bytes() / shape_.count;
    for (const auto& part : parts_) {
      const int64_t count = part->shape().count;
      const int64_t here = std::min(count - first, static_cast<int64_t>(pixels.size()) / bytes);
      if (here > 0) {
        RETURN_IF_ERROR(part->Read(first, pixels.first(static_cast<size_t>(here * bytes))));
        pixels = pixels.subspan(static_cast<size_t>(here * bytes));
        first += here;
      }
      if (pixels.empty()) return absl::OkStatus();
      first -= count;
    }
    CHECK(false) << "[Joined] images beyond the set";
    return absl::OkStatus();
  }

 private:
  std::vector<std::unique_ptr<ImageSource>> parts_;
  ImageShape shape_;
  std::vector<int32_t> labels_;
};

}  // namespace

absl::StatusOr<std::vector<std::string>> ImageFolderFiles(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::vector<FolderEntry> entries, ListFolder(folder));
  std::vector<std::string> png, npz;
  for (const FolderEntry& entry : entries) {
    if (absl::EndsWith(entry.name, ".png")) png.push_back(JoinPath(folder, entry.name));
    if (absl::EndsWith(entry.name, ".npz")) npz.push_back(JoinPath(folder, entry.name));
  }
  if (png.empty() != npz.empty()) return png.empty() ? npz : png;
  return absl::InvalidArgumentError(absl::StrCat(Quoted(folder), ": expected a folder of .png or of .npz files, got ",
                                                 png.size(), " and ", npz.size(), " of them"));
}

absl::StatusOr<std::unique_ptr<ImageSource>> OpenImageFolder(const std::string& folder) {
  ASSIGN_OR_RETURN(std::vector<std::string> files, ImageFolderFiles(folder));
  return absl::EndsWith(files.front(), ".png") ? PngFolder::Open(std::move(files)) : Joined::Open(files);
}

}  // namespace shardit
