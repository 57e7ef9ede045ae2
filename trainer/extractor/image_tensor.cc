#include "trainer/extractor/image_tensor.h"

#include "core/base/check.h"

namespace shardit {

Tensor ImagesToTensor(RankContext& context, std::span<const uint8_t> pixels, const ImageShape& shape, int64_t channels,
                      float divisor, float shift) {
  CHECK_EQ(static_cast<int64_t>(pixels.size()), shape.bytes()) << "[extract] bytes of pixels";
  CHECK(shape.channels == channels || shape.channels == 1) << "[extract] channels " << shape.channels;
  const int64_t copies = channels / shape.channels;
  std::vector<float> values;
  values.reserve(pixels.size() * static_cast<size_t>(copies));
  for (const uint8_t pixel : pixels) {
    values.insert(values.end(), static_cast<size_t>(copies), static_cast<float>(pixel) / divisor + shift);
  }
  Tensor x = Tensor::Empty(context.allocator(), {shape.count, shape.height, shape.width, channels});
  x.FromHost(values.data());
  return x;
}

std::vector<float> ToHostVector(const Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  tensor.ToHost(values.data());
  return values;
}

}  // namespace shardit
