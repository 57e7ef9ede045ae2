// Sets of images to be scored, wherever they come from: one interface over npz archives, folders of PNG or npz files
// and latent files whose latents are images (images that a model draws as they are read: sampled_images.h).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/feature_extractor.h"

namespace shardit {

class ImageSource {
 public:
  virtual ~ImageSource() = default;

  // All images of the set: their number, and the one size that they share.
  virtual const ImageShape& shape() const = 0;
  // One label an image, each >= 0; empty where the set has none.
  virtual const std::vector<int32_t>& labels() const = 0;
  // What the labels are below, as the set states it; 0: it does not.
  virtual int64_t classes() const { return 0; }

  // Images first, first + 1, ... as uint8 NHWC: as many as fill `pixels` (whole images inside the set: CHECK). Memory
  // does not grow with the set. Reading forward is cheapest. Not thread-safe.
  virtual absl::Status Read(int64_t first, std::span<uint8_t> pixels) = 0;
};

// Opens, by what lies at `path`:
//   X.npz          `arr_0`, uint8 [N, H, W, C], C 1 or 3; labels from `arr_1` where it is integers [N]
//   X.h5, a glob   latents in [-1, 1] with 1 or 3 channels (data/dataset.h), made bytes by the sampler's rule
//                  (model/sampler.h, ToUint8); a value outside is an error when it is read
//   a folder       every *.png in it, or every *.npz, in name order (bytes); all of one size, each mode grey or RGB
// Everything is untrusted: sizes are checked against stored bytes before memory is taken. Opening reads headers only.
absl::StatusOr<std::unique_ptr<ImageSource>> OpenImageSource(const std::string& path);

// SHA-256 of the bytes that OpenImageSource(path) would read, 64 lower-case hexadecimal digits: of the file, or, of
// several files, of their hashes in order. Reads all of it, and compares the checksums that npz archives carry.
absl::StatusOr<std::string> ImageSourceSha256(const std::string& path);

// The first `count` images of another set.
std::unique_ptr<ImageSource> FirstImages(std::unique_ptr<ImageSource> source, int64_t count);

}  // namespace shardit
