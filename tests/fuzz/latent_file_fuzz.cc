// An HDF5 file of latents: opening it, and reading its first and last samples.
#include <algorithm>

#include "core/base/check.h"
#include "data/latent_file.h"
#include "tests/fuzz/fuzz.h"

namespace shardit::fuzz {
const std::vector<std::string> kCorpus = {"tests/data/fixtures/h5py_half_chunked.h5",
                                          "tests/data/fixtures/h5py_minimal.h5", "tests/data/fixtures/h5py_moments.h5"};

namespace {

// HDF5 1.10.8 takes a local heap at the undefined address (all ones) for the content of its empty metadata cache, and
// crashes (H5F__accum_read). Such an address stands in a heap's header, or in a symbol table message (type 0x0011, 16
// bytes) behind that of the B-tree.
bool MeetsLibraryFault(const std::string& bytes) {
  const std::string undefined(8, '\xff'), message("\x11\0\x10\0", 4);
  const auto stands_behind = [&](const std::string& mark, size_t distance) {
    for (size_t at = bytes.find(mark); at != std::string::npos; at = bytes.find(mark, at + 1)) {
      if (bytes.compare(std::min(bytes.size(), at + distance), undefined.size(), undefined) == 0) return true;
    }
    return false;
  };
  return stands_behind("HEAP", 24) || stands_behind(message, 16);
}

}  // namespace
}  // namespace shardit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes = shardit::fuzz::Text(data, size);
  if (shardit::fuzz::MeetsLibraryFault(bytes)) return 0;
  const auto file = shardit::LatentFile::Open(shardit::fuzz::InputFile(bytes));
  if (!file.ok()) return 0;
  const shardit::LatentFileInfo& info = (*file)->info();
  CHECK(info.count > 0 && info.sample_bytes() > 0);
  std::string sample(static_cast<size_t>(info.sample_bytes()), '\0');
  (*file)->ReadRaw(0, 1, sample.data()).IgnoreError();
  (*file)->ReadRaw(info.count - 1, 1, sample.data()).IgnoreError();
  return 0;
}
