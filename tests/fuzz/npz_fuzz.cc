// An .npz archive or a plain .npy file: the zip directory, every array's header, and data, stored or deflated.
#include <algorithm>

#include "core/base/check.h"
#include "data/formats/npz.h"
#include "tests/fuzz/fuzz.h"

namespace shardit::fuzz {
const std::vector<std::string> kCorpus = {
    "tests/data/formats_golden/numpy_stored.npz", "tests/data/formats_golden/numpy_deflated.npz",
    "tests/data/formats_golden/numpy_refused.npz", "tests/data/formats_golden/numpy.npy"};
}  // namespace shardit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr int64_t kMaxElements = 1 << 14;
  const auto file = shardit::NpzReader::Open(shardit::fuzz::InputFile(shardit::fuzz::Text(data, size)));
  if (!file.ok()) return 0;
  for (const std::string& name : file->names()) {
    auto array = file->Array(name);
    if (!array.ok()) continue;
    CHECK_GE(array->header().data_bytes, 0);
    const int64_t count = std::min(array->header().elements(), kMaxElements);
    std::vector<double> values(static_cast<size_t>(count));
    array->ReadAsDouble(0, count, values.data()).IgnoreError();
    array->Verify().IgnoreError();
  }
  return 0;
}
