// The manifest of a checkpoint, as it is and with its frame put right, so that mutations reach the payload.
#include <cstring>

#include "core/base/check.h"
#include "core/base/crc32c.h"
#include "tests/fuzz/fuzz.h"
#include "trainer/checkpoint/manifest.h"

namespace shardit::fuzz {

const std::vector<std::string> kCorpus = {"tests/golden/checkpoint_v1/0000400/MANIFEST"};

namespace {

// What is accepted keeps every rule, and survives being written.
void Check(const std::string& file) {
  const auto manifest = DecodeManifest(file);
  if (!manifest.ok()) return;
  CHECK(CheckManifest(*manifest).ok());
  const auto again = DecodeManifest(EncodeManifest(*manifest));
  CHECK(again.ok()) << again.status();
  CHECK_EQ(again->tensors.size(), manifest->tensors.size());
}

}  // namespace
}  // namespace shardit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string file = shardit::fuzz::Text(data, size);
  shardit::fuzz::Check(file);
  constexpr size_t kFrame = 20;  // magic, length, CRC
  if (size < kFrame) return 0;
  const uint64_t length = size - kFrame;
  file.replace(0, 8, "SHRDITCK");
  file.replace(8, 8, reinterpret_cast<const char*>(&length), 8);
  const uint32_t crc = shardit::Crc32c(file.data(), file.size() - 4);
  file.replace(file.size() - 4, 4, reinterpret_cast<const char*>(&crc), 4);
  shardit::fuzz::Check(file);
  return 0;
}
