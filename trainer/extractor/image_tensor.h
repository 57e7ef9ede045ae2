// Between images and tensors: what extractors do before and after their networks.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor/rank_context.h"
#include "core/tensor/tensor.h"
#include "model/feature_extractor.h"

namespace shardit {

// Images as a dense fp32 [N, H, W, channels] where the context computes: every value p becomes p / divisor + shift, in
// fp32; a grey image fills all channels. CHECKs that the pixels fill the shape.
Tensor ImagesToTensor(RankContext& context, std::span<const uint8_t> pixels, const ImageShape& shape, int64_t channels,
                      float divisor, float shift);

// All elements of a dense tensor.
std::vector<float> ToHostVector(const Tensor& tensor);

}  // namespace shardit
