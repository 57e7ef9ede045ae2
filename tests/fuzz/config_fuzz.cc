// A run's configuration in text format.
#include "core/base/check.h"
#include "tests/fuzz/fuzz.h"
#include "trainer/run_config/run_config.h"

namespace shardit::fuzz {
const std::vector<std::string> kCorpus = {"configs/fashion_mnist.textproto", "configs/dit_s_8.textproto"};
}  // namespace shardit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text = shardit::fuzz::Text(data, size);
  for (const auto use : {shardit::ConfigUse::kModel, shardit::ConfigUse::kTrain}) {
    const auto config = shardit::ParseRunConfig(text, "fuzz", use, 1);
    if (!config.ok()) {
      CHECK_EQ(config.status().message().find('\n'), absl::string_view::npos) << config.status();
      continue;
    }
    // What was resolved means what was read.
    const auto again = shardit::ParseRunConfig(config->text, "fuzz", use, 1);
    CHECK(again.ok()) << again.status();
    CHECK_EQ(again->hash, config->hash);
    CHECK_EQ(again->text, config->text);
  }
  return 0;
}
