// An HDF5 file of latents: opening it, and reading its first and last samples.
#include "core/base/check.h"
#include "data/latent_file.h"
#include "tests/fuzz/fuzz.h"

namespace shardit::fuzz {
const std::vector<std::string> kCorpus = {"tests/data/fixtures/h5py_half_chunked.h5",
                                          "tests/data/fixtures/h5py_minimal.h5", "tests/data/fixtures/h5py_moments.h5"};
}  // namespace shardit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = shardit::LatentFile::Open(shardit::fuzz::InputFile(shardit::fuzz::Text(data, size)));
  if (!file.ok()) return 0;
  const shardit::LatentFileInfo& info = (*file)->info();
  CHECK(info.count > 0 && info.sample_bytes() > 0);
  std::string sample(static_cast<size_t>(info.sample_bytes()), '\0');
  (*file)->ReadRaw(0, 1, sample.data()).IgnoreError();
  (*file)->ReadRaw(info.count - 1, 1, sample.data()).IgnoreError();
  return 0;
}
