// Initial values of parameters, drawn by parameter name and global element index, so that a rank which holds any part
// of a parameter fills in just that part and every layout starts from the same model.
#pragma once

#include <cstdint>
#include <string_view>

namespace shardit {

struct Init {
  enum class Kind { kZero, kOne, kUniform, kNormal };
  Kind kind = Kind::kZero;
  double scale = 0.0;  // kUniform: the half-width; kNormal: the standard deviation

  static Init Zero() { return {Kind::kZero, 0.0}; }
  static Init One() { return {Kind::kOne, 0.0}; }
  static Init Normal(double standard_deviation) { return {Kind::kNormal, standard_deviation}; }
  // Uniform on +-sqrt(6 / (fan_in + fan_out)); Glorot and Bengio, AISTATS 2010.
  static Init XavierUniform(int64_t fan_in, int64_t fan_out);
};

// Fills out[0, count) with elements first .. first + count - 1 of parameter `name` (global, row-major).
void FillInitial(const Init& init, uint64_t seed, std::string_view name, int64_t first, int64_t count, float* out);

}  // namespace shardit
