// Elements: a pointer to elements of a type that travels with it: how a kernel's plain argument structs name operands
// that are fp32 in one run and bf16 in another. It owns nothing.
//
// CPU kernels are fp32 and use it as a float*: what they get is checked where the operation is issued (a rank on the
// CPU has fp32 tensors only), and by an assertion here in debug builds.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>

#include "core/tensor/dtype.h"

namespace shardit {

class ConstElements {
 public:
  constexpr ConstElements() = default;
  constexpr ConstElements(std::nullptr_t) {}
  constexpr ConstElements(const float* data) : data_(data) {}
  constexpr ConstElements(const BFloat16* data) : data_(data), dtype_(DType::kBF16) {}
  constexpr ConstElements(const void* data, DType dtype) : data_(data), dtype_(dtype) {}

  const void* raw() const { return data_; }
  DType dtype() const { return dtype_; }
  // The element `offset` further on.
  ConstElements At(int64_t offset) const { return {static_cast<const char*>(data_) + offset * SizeOf(dtype_), dtype_}; }
  operator const float*() const {
    assert(data_ == nullptr || dtype_ == DType::kF32);
    return static_cast<const float*>(data_);
  }

 private:
  const void* data_ = nullptr;
  DType dtype_ = DType::kF32;
};

class Elements {
 public:
  constexpr Elements() = default;
  constexpr Elements(std::nullptr_t) {}
  constexpr Elements(float* data) : data_(data) {}
  constexpr Elements(BFloat16* data) : data_(data), dtype_(DType::kBF16) {}
  constexpr Elements(void* data, DType dtype) : data_(data), dtype_(dtype) {}

  void* raw() const { return data_; }
  DType dtype() const { return dtype_; }
  Elements At(int64_t offset) const { return {static_cast<char*>(data_) + offset * SizeOf(dtype_), dtype_}; }
  operator float*() const {
    assert(data_ == nullptr || dtype_ == DType::kF32);
    return static_cast<float*>(data_);
  }
  operator ConstElements() const { return {data_, dtype_}; }

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
};

}  // namespace shardit
