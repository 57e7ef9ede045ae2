// The arrays of tests/golden/image_ops.npz (made by make_image_ops.py there), for tests.
#pragma once

#include <string>
#include <vector>

#include "core/tensor/tensor.h"

namespace shardit {

struct GoldenArray {
  Shape shape;
  std::vector<float> values;
};

// Fails the test, and returns nothing, where there is no such array.
GoldenArray ReadGolden(const std::string& name);

// The same as integers.
std::vector<int32_t> ReadGoldenIntegers(const std::string& name);

}  // namespace shardit
