// IDX files, plain or gzip: as the images of good labels, and as the labels of good images.
#include "data/import_idx.h"
#include "tests/fuzz/fuzz.h"

namespace shardit::fuzz {

const std::vector<std::string> kCorpus = {"tests/fuzz/corpus/idx"};

namespace {

const std::string kLabels("\0\0\x08\x01\0\0\0\x02\x03\x04", 10);

std::string Images() {
  std::string bytes("\0\0\x08\x03\0\0\0\x02\0\0\0\x05\0\0\0\x05", 16);
  for (int i = 0; i < 2 * 5 * 5; ++i) bytes.push_back(static_cast<char>(i * 5));
  return bytes;
}

void Import(const std::string& images, const std::string& labels) {
  IdxImportOptions options;
  options.images_path = InputFile(images, 0);
  options.labels_path = InputFile(labels, 1);
  options.out_path = OutputPath();
  options.side = 8;
  ImportIdx(options).status().IgnoreError();
}

}  // namespace
}  // namespace shardit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes = shardit::fuzz::Text(data, size);
  shardit::fuzz::Import(bytes, shardit::fuzz::kLabels);
  shardit::fuzz::Import(shardit::fuzz::Images(), bytes);
  return 0;
}
