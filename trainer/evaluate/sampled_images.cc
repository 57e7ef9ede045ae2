#include "trainer/evaluate/sampled_images.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "trainer/image_set.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

class SampledImages : public ImageSource {
 public:
  SampledImages(ModelSampler sampler, int64_t num) : sampler_(std::move(sampler)) {
    const DitConfig& config = sampler_.config();
    shape_ = {num, config.side, config.side, config.channels};
    for (int64_t i = 0; i < num; ++i) labels_.push_back(sampler_.LabelOf(i));
  }

  const ImageShape& shape() const override { return shape_; }
  const std::vector<int32_t>& labels() const override { return labels_; }
  int64_t classes() const override { return sampler_.config().classes; }

  absl::Status Read(int64_t first, std::span<uint8_t> pixels) override {
    const int64_t bytes = shape_.bytes() / shape_.count, count = static_cast<int64_t>(pixels.size()) / bytes;
    CHECK(count * bytes == static_cast<int64_t>(pixels.size()) && first >= 0 && count <= shape_.count - first)
        << "[SampledImages] " << pixels.size() << " bytes from sample " << first;
    ASSIGN_OR_RETURN(const std::vector<float> latents, sampler_.Draw(first, count));
    const PixelSet set = LatentsToPixels(latents, count, sampler_.config());
    std::copy(set.pixels.begin(), set.pixels.end(), pixels.begin());
    return absl::OkStatus();
  }

 private:
  ModelSampler sampler_;
  ImageShape shape_;
  std::vector<int32_t> labels_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ImageSource>> MakeSampledImages(ModelSampler sampler, int64_t num) {
  if (!LatentsAreImages(sampler.config())) {
    return WithExitCode(absl::InvalidArgumentError(
                            absl::StrCat("the model's latents have ", sampler.config().channels,
                                         " channels; expected images, with 1 or 3: draw with ",
                                         "shardit sample --out X.npz, decode its latents, and give the images as npz")),
                        ExitCode::kUsage);
  }
  return std::make_unique<SampledImages>(std::move(sampler), num);
}

}  // namespace shardit
