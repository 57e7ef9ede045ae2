#include "trainer/image_set.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/base/math.h"
#include "model/sampler.h"

namespace shardit {
namespace {

// Maps each of the channels to [-1, 1] by its smallest and largest finite value over the set.
void Stretch(std::vector<float>& channel) {
  float low = std::numeric_limits<float>::infinity(), high = -low;
  for (const float value : channel) {
    if (!std::isfinite(value)) continue;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  const float scale = high > low ? 2.0f / (high - low) : 0.0f;
  for (float& value : channel) value = (value - low) * scale - 1.0f;
}

// Of a grid of the model's samples, without labels.
GridOptions OptionsFor(const DitConfig& config, const std::string& title) {
  GridOptions options{.scale = std::max<int64_t>(1, 64 / config.side), .title = title};
  if (!LatentsAreImages(config)) options.title += (title.empty() ? "" : " - ") + std::string("FALSE COLOUR");
  return options;
}

}  // namespace

PixelSet LatentsToPixels(const std::vector<float>& latents, int64_t count, const DitConfig& config) {
  const int64_t plane = config.side * config.side, channels = config.channels;
  PixelSet set;
  set.false_colour = !LatentsAreImages(config);
  set.channels = channels == 1 ? 1 : 3;
  set.pixels.resize(static_cast<size_t>(count * plane * set.channels));
  std::vector<float> values(static_cast<size_t>(count * plane));
  std::vector<uint8_t> bytes(values.size());
  for (int64_t c = 0; c < set.channels; ++c) {
    const int64_t source = std::min(c, channels - 1);
    for (int64_t n = 0; n < count; ++n) {
      std::copy_n(latents.data() + (n * channels + source) * plane, plane, values.data() + n * plane);
    }
    if (set.false_colour) Stretch(values);
    ToUint8(values.data(), count * plane, bytes.data());
    for (size_t i = 0; i < bytes.size(); ++i) {
      set.pixels[i * static_cast<size_t>(set.channels) + static_cast<size_t>(c)] = bytes[i];
    }
  }
  return set;
}

PixelSet GroupByClass(const PixelSet& set, int64_t count, int64_t classes) {
  const int64_t rows = std::min(classes, count), columns = CeilDiv(count, classes);
  const size_t bytes = set.pixels.size() / static_cast<size_t>(count);
  PixelSet grouped{.channels = set.channels, .false_colour = set.false_colour};
  grouped.pixels.assign(static_cast<size_t>(rows * columns) * bytes, 255);
  for (int64_t i = 0; i < count; ++i) {
    const size_t place = static_cast<size_t>(i % classes * columns + i / classes);
    std::copy_n(set.pixels.data() + static_cast<size_t>(i) * bytes, bytes, grouped.pixels.data() + place * bytes);
  }
  return grouped;
}

GridRoom RoomForClassGrid(const std::vector<int64_t>& classes, const DitConfig& config, const std::string& title) {
  GridOptions options = OptionsFor(config, title);
  for (const int64_t label : classes) options.row_labels.push_back(absl::StrCat(label));
  return RoomForTiles(config.side, config.side, options);
}

Image ClassGrid(const PixelSet& set, int64_t per_class, const std::vector<int64_t>& classes, const DitConfig& config,
                const std::string& title) {
  GridOptions options = OptionsFor(config, title);
  options.columns = per_class;
  const int64_t count = static_cast<int64_t>(set.pixels.size()) / (config.side * config.side * set.channels);
  for (int64_t row = 0; row * per_class < count; ++row) {
    const size_t index = static_cast<size_t>(row);
    options.row_labels.push_back(index < classes.size() ? absl::StrCat(classes[index]) : "");
  }
  return MakeGrid(set.pixels, count, config.side, config.side, set.channels, options);
}

}  // namespace shardit
