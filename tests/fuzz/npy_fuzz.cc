// The header of a .npy file.
#include "core/base/check.h"
#include "data/formats/npy.h"
#include "tests/fuzz/fuzz.h"

namespace shardit::fuzz {
const std::vector<std::string> kCorpus = {"tests/data/formats_golden/numpy.npy"};
}  // namespace shardit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes = shardit::fuzz::Text(data, size);
  const auto header = shardit::ParseNpyHeader(bytes);
  if (!header.ok()) return 0;
  CHECK(header->header_bytes <= static_cast<int64_t>(size) && header->data_bytes >= 0);
  const auto again = shardit::ParseNpyHeader(shardit::FormatNpyHeader(header->type, header->shape));
  CHECK(again.ok()) << again.status();
  CHECK(again->shape == header->shape && again->type == header->type);
  return 0;
}
