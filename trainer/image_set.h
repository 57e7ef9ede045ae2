// From latents to pictures: what a person sees of samples whose latents are images, or stand for them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/formats/png.h"
#include "model/dit_config.h"

namespace shardit {

// Whether the model's latents are pictures themselves: grey or RGB in [-1, 1].
inline bool LatentsAreImages(const DitConfig& config) { return config.channels == 1 || config.channels == 3; }

// Images of `count` latents [count, C, H, W] as uint8 NHWC with 1 or 3 channels. One and three channels are taken as
// grey and RGB in [-1, 1]. Any other number has no colours of its own: the first three channels (the last repeated)
// become red, green and blue, each stretched to its range over the set, and `false_colour` is set.
struct PixelSet {
  int64_t channels = 1;
  bool false_colour = false;
  std::vector<uint8_t> pixels;
};
PixelSet LatentsToPixels(const std::vector<float>& latents, int64_t count, const DitConfig& config);

// The same images, of which number i is of class i mod `classes`, put together by class: CeilDiv(count, classes) in a
// row for each of the classes that are there, white ones where a row is short.
PixelSet GroupByClass(const PixelSet& set, int64_t count, int64_t classes);

// The most rows and columns that ClassGrid has room for in a PNG.
GridRoom RoomForClassGrid(const std::vector<int64_t>& classes, const DitConfig& config, const std::string& title);

// A grid with one row a class, `per_class` columns, class names as row labels. Image i is row i / per_class.
Image ClassGrid(const PixelSet& set, int64_t per_class, const std::vector<int64_t>& classes, const DitConfig& config,
                const std::string& title);

}  // namespace shardit
