// A file of torch.save, in both its forms: zip directory, pickles, storages, and the elements of every tensor.
#include <algorithm>

#include "core/base/check.h"
#include "data/formats/pth.h"
#include "tests/fuzz/fuzz.h"

namespace shardit::fuzz {
const std::vector<std::string> kCorpus = {
    "tests/data/formats_golden/torch_zip.pth", "tests/data/formats_golden/torch_groups.pth",
    "tests/data/formats_golden/torch_legacy.pth", "tests/data/formats_golden/torch_groups_legacy.pth"};
}  // namespace shardit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto file = shardit::PthReader::Open(shardit::fuzz::InputFile(shardit::fuzz::Text(data, size)));
  if (!file.ok()) return 0;
  for (const shardit::PthTensor& tensor : file->tensors()) {
    // A tensor has no more elements than its file has bytes.
    CHECK(tensor.elements() >= 0 && tensor.elements() <= static_cast<int64_t>(size));
    const auto values = file->ReadAsFloat(tensor);
    if (values.ok()) CHECK_EQ(values->size(), static_cast<size_t>(tensor.elements()));
    CHECK(file->Find(tensor.group, tensor.name) == &tensor);
  }
  file->Verify().IgnoreError();
  return 0;
}
