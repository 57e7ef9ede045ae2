// PNG files: headers and pixels.
#include "core/base/check.h"
#include "data/formats/png.h"
#include "tests/fuzz/fuzz.h"

namespace shardit::fuzz {
const std::vector<std::string> kCorpus = {
    "tests/data/formats_golden/png_grey.png",          "tests/data/formats_golden/png_rgb_srgb_gamma.png",
    "tests/data/formats_golden/png_palette.png",       "tests/data/formats_golden/png_grey_1_bit.png",
    "tests/data/formats_golden/png_refused_alpha.png", "tests/data/formats_golden/png_refused_huge.png"};
}  // namespace shardit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string file = shardit::fuzz::Text(data, size);
  const auto header = shardit::ParsePngHeader(file, static_cast<int64_t>(size));
  const auto image = shardit::DecodePng(file);
  if (!image.ok()) return 0;
  CHECK(header.ok() && image->height == header->height && image->width == header->width);
  CHECK_EQ(static_cast<int64_t>(image->pixels.size()), header->height * header->width * header->channels);
  return 0;
}
