// Images that a model draws as they are read.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "trainer/evaluate/image_source.h"
#include "trainer/model_sampler.h"

namespace shardit {

// The first `num` samples of the model, with their classes as labels. InvalidArgument (exit code 64) where the model's
// latents are not images, with neither 1 nor 3 channels. Errors of reading: those of ModelSampler::Draw.
absl::StatusOr<std::unique_ptr<ImageSource>> MakeSampledImages(ModelSampler sampler, int64_t num);

}  // namespace shardit
