// Shape: the extents of a tensor, or its strides in elements; up to kMaxDims dims, stored inline.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <span>
#include <string>

#include "core/base/check.h"

namespace shardit {

class Shape {
 public:
  static constexpr int kMaxDims = 6;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const int64_t> dims) : ndim_(static_cast<int>(dims.size())) {
    CHECK_LE(ndim_, kMaxDims);
    for (int i = 0; i < ndim_; ++i) dims_[i] = dims[i];
  }

  int ndim() const { return ndim_; }
  int64_t operator[](int dim) const { return dims_[Index(dim)]; }
  int64_t& operator[](int dim) { return dims_[Index(dim)]; }
  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + ndim_; }

  // Product of the extents; 1 for a scalar (no dims).
  int64_t elements() const {
    int64_t product = 1;
    for (const int64_t dim : *this) product *= dim;
    return product;
  }

  // Row-major strides of a dense tensor of this shape, in elements.
  Shape DenseStrides() const {
    Shape strides = *this;
    int64_t stride = 1;
    for (int i = ndim_ - 1; i >= 0; --i) {
      strides.dims_[i] = stride;
      stride *= dims_[i];
    }
    return strides;
  }

  std::string ToString() const {
    std::string text = "[";
    for (int i = 0; i < ndim_; ++i) text += (i ? ", " : "") + std::to_string(dims_[i]);
    return text + "]";
  }

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.ndim_ != b.ndim_) return false;
    for (int i = 0; i < a.ndim_; ++i) {
      if (a.dims_[i] != b.dims_[i]) return false;
    }
    return true;
  }
  friend std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.ToString(); }

 private:
  // Negative dims count from the end.
  int Index(int dim) const {
    const int index = dim < 0 ? dim + ndim_ : dim;
    CHECK(index >= 0 && index < ndim_) << "dim " << dim << " of " << ToString();
    return index;
  }

  std::array<int64_t, kMaxDims> dims_{};
  int ndim_ = 0;
};

}  // namespace shardit
