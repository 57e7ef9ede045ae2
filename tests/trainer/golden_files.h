// The files of tests/golden/cases, as the tests that compare with them read them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/base/check.h"
#include "data/formats/safetensors.h"
#include "trainer/run_config/run_config.h"

namespace shardit {

// With a slash at its end. Elsewhere than where the tests were built, SHARDIT_GOLDEN_CASES names it.
inline std::string GoldenCases() {
  const char* const folder = std::getenv("SHARDIT_GOLDEN_CASES");
  return (folder != nullptr ? std::string(folder) : std::string(SHARDIT_SOURCE_DIR) + "/tests/golden/cases") + "/";
}

inline RunOptions LoadGoldenOptions(const std::string& name) {
  const auto config = LoadRunConfig({.files = {GoldenCases() + name + "/config.textproto"}}, ConfigUse::kModel, 1);
  CHECK(config.ok()) << config.status().message();
  return config->options;
}

inline SafetensorsReader OpenTensors(const std::string& path) {
  auto reader = SafetensorsReader::Open(path);
  CHECK(reader.ok()) << reader.status().message();
  return *std::move(reader);
}

inline std::vector<float> ReadTensor(const SafetensorsReader& file, const std::string& name) {
  const auto entry = file.Require(name);
  CHECK(entry.ok()) << entry.status().message();
  std::vector<float> values(static_cast<size_t>((*entry)->elements()));
  CHECK(file.ReadAsFloat(**entry, 0, (*entry)->elements(), values.data()).ok());
  return values;
}

inline std::vector<int64_t> ReadIntegers(const SafetensorsReader& file, const std::string& name) {
  const auto entry = file.Require(name);
  CHECK(entry.ok()) << entry.status().message();
  std::vector<int64_t> values(static_cast<size_t>((*entry)->elements()));
  CHECK(file.ReadAsInt64(**entry, 0, (*entry)->elements(), values.data()).ok());
  return values;
}

// max |a - b| / max |b|; where the reference is all zero, max |a|. Infinity where a is not finite.
inline double RelativeError(const float* actual, const std::vector<float>& expected) {
  double error = 0.0, size = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!std::isfinite(actual[i])) return INFINITY;
    error = std::max(error, std::abs(static_cast<double>(actual[i]) - static_cast<double>(expected[i])));
    size = std::max(size, std::abs(static_cast<double>(expected[i])));
  }
  return size > 0.0 ? error / size : error;
}
inline double RelativeError(const std::vector<float>& actual, const std::vector<float>& expected) {
  CHECK_EQ(actual.size(), expected.size());
  return RelativeError(actual.data(), expected);
}

}  // namespace shardit
