// A safetensors file: as it is, and with its length field put right, so that mutations reach the JSON.
#include <algorithm>
#include <cstring>

#include "core/base/check.h"
#include "data/formats/safetensors.h"
#include "tests/fuzz/fuzz.h"

namespace shardit::fuzz {

const std::vector<std::string> kCorpus = {"tests/golden/checkpoint_v1/0000400/shard-00000-of-00002.safetensors",
                                          "tests/golden/checkpoint_v1/0000400/shard-00001-of-00002.safetensors"};

namespace {

void Check(const std::string& bytes) {
  const auto file = SafetensorsReader::Open(InputFile(bytes));
  if (!file.ok()) return;
  int64_t covered = file->header_bytes();
  for (const SafetensorsEntry& entry : file->entries()) {
    CHECK_EQ(entry.begin, covered) << entry.name;
    covered += entry.bytes;
    CHECK_EQ(file->Find(entry.name), &entry);
    std::string raw(static_cast<size_t>(entry.bytes), '\0');
    CHECK(file->Read(entry, 0, entry.bytes, raw.data()).ok());
    std::vector<float> values(static_cast<size_t>(entry.elements()));
    file->ReadAsFloat(entry, 0, entry.elements(), values.data()).IgnoreError();  // integers have no floats
  }
  CHECK_EQ(covered, static_cast<int64_t>(bytes.size()));
}

}  // namespace
}  // namespace shardit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes = shardit::fuzz::Text(data, size);
  shardit::fuzz::Check(bytes);
  const size_t end = bytes.rfind('}');
  if (size < 8 || end == std::string::npos || end < 8) return 0;
  const uint64_t length = end + 1 - 8;
  bytes.replace(0, 8, reinterpret_cast<const char*>(&length), 8);
  shardit::fuzz::Check(bytes);
  return 0;
}
