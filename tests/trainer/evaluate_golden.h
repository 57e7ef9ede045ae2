// The inputs of tests/golden/make_evaluate_golden.py, which are formulas, and what it computed from them.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/base/check.h"
#include "data/formats/npz.h"
#include "trainer/evaluate/feature_rows.h"

namespace shardit {

// [-0.5, 0.5) in steps of 2^-16.
inline float GoldenUniform(uint32_t seed, uint32_t index) {
  uint32_t u = index * 0x9E3779B1u + seed * 0x85EBCA77u;
  u ^= u >> 15;
  u *= 0x2C1B3C6Du;
  u ^= u >> 12;
  u *= 0x297A2D39u;
  u ^= u >> 15;
  return static_cast<float>(u >> 16) / 65536.0f - 0.5f;
}

// Rows that own themselves.
struct OwnedRows {
  int64_t count = 0, dim = 0;
  std::vector<float> values;

  FeatureRows view() const { return {values.data(), count, dim}; }
};

// Columns of unlike scale and mean.
inline OwnedRows GoldenFeatures(uint32_t seed, int64_t count, int64_t dim) {
  OwnedRows rows{count, dim, {}};
  for (int64_t i = 0; i < count * dim; ++i) {
    const int64_t column = i % dim;
    rows.values.push_back(GoldenUniform(seed, static_cast<uint32_t>(i)) * static_cast<float>(1 + column % 4) +
                          0.125f * static_cast<float>(seed * static_cast<uint32_t>(column % 3)));
  }
  return rows;
}

// Small integers: many equal distances, and equal vectors.
inline OwnedRows GoldenGrid(uint32_t seed, int64_t count, int64_t dim) {
  OwnedRows rows{count, dim, {}};
  for (int64_t i = 0; i < count * dim; ++i) {
    rows.values.push_back(std::floor((GoldenUniform(seed, static_cast<uint32_t>(i)) + 0.5f) * 4.0f));
  }
  return rows;
}

inline std::string GoldenFile(const std::string& name) {
  return std::string(SHARDIT_SOURCE_DIR "/tests/golden/") + name;
}

// An array of evaluate.npz.
inline std::vector<double> GoldenNumbers(const std::string& name) {
  const auto reader = NpzReader::Open(GoldenFile("evaluate.npz"));
  CHECK(reader.ok()) << reader.status().message();
  auto array = reader->Array(name);
  CHECK(array.ok()) << array.status().message();
  std::vector<double> values(static_cast<size_t>(array->header().elements()));
  CHECK(array->ReadAsDouble(0, array->header().elements(), values.data()).ok());
  return values;
}

}  // namespace shardit
