// A set of feature vectors in memory: rows [count, dim], row-major float. A view; the rows must outlive it.
#pragma once

#include <cstdint>

namespace shardit {

struct FeatureRows {
  const float* data = nullptr;
  int64_t count = 0;
  int64_t dim = 0;

  const float* row(int64_t i) const { return data + i * dim; }
};

}  // namespace shardit
