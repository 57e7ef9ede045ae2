#include "core/tensor/tensor.h"

#include <cstring>
#include <utility>

#include "core/tensor/device_memory.h"

namespace shardit {

Tensor::Storage::~Storage() {
  if (allocator != nullptr) allocator->Free(data, bytes, owner);
}

Tensor Tensor::Meta(Shape shape, DType dtype) {
  Tensor tensor;
  tensor.shape_ = shape;
  tensor.strides_ = shape.DenseStrides();
  tensor.dtype_ = dtype;
  tensor.dtype_set_ = true;
  return tensor;
}

Tensor Tensor::Empty(Allocator& allocator, Shape shape, DType dtype) {
  Tensor tensor = Meta(shape, dtype);
  tensor.storage_ = std::make_shared<Storage>();
  tensor.storage_->bytes = tensor.bytes();
  tensor.storage_->owner = allocator.owner();
  tensor.storage_->data = allocator.Allocate(tensor.bytes(), tensor.storage_->owner);
  tensor.storage_->allocator = &allocator;
  return tensor;
}

Tensor Tensor::Zeros(Allocator& allocator, Shape shape, DType dtype) {
  Tensor tensor = Empty(allocator, shape, dtype);
  tensor.Zero();
  return tensor;
}

Tensor Tensor::Borrow(void* data, Shape shape, DType dtype) {
  Tensor tensor = Meta(shape, dtype);
  tensor.storage_ = std::make_shared<Storage>();
  tensor.storage_->bytes = tensor.bytes();
  tensor.storage_->data = data;
  return tensor;
}

bool Tensor::is_dense() const {
  int64_t expected = 1;
  for (int i = ndim() - 1; i >= 0; --i) {
    if (shape_[i] != 1 && strides_[i] != expected) return false;
    expected *= shape_[i];
  }
  return true;
}

Tensor Tensor::Reshape(Shape shape) const {
  CHECK(is_dense()) << "[reshape] " << shape_ << " with strides " << strides_ << " to " << shape;
  CHECK(shape.elements() == elements()) << "[reshape] " << shape_ << " to " << shape;
  Tensor view = *this;
  view.shape_ = shape;
  view.strides_ = shape.DenseStrides();
  return view;
}

Tensor Tensor::Narrow(int dim, int64_t begin, int64_t size) const {
  CHECK(begin >= 0 && size >= 0 && begin + size <= shape_[dim])
      << "[narrow] dim " << dim << " of " << shape_ << " to [" << begin << ", " << begin + size << ")";
  Tensor view = *this;
  view.offset_ += begin * strides_[dim];
  view.shape_[dim] = size;
  return view;
}

void Tensor::Zero() const {
  const bool dense = is_dense();
  CHECK(dense || (ndim() == 2 && strides_[1] == 1)) << "[zero] " << shape_ << " with strides " << strides_;
  if (CostRecorder* planned = plan()) return planned->Add({"zero", 0, static_cast<double>(bytes())});
  const int64_t rows = dense ? 1 : shape_[0], row_bytes = rows == 0 ? 0 : bytes() / rows;
  const int64_t pitch = dense ? row_bytes : strides_[0] * SizeOf(dtype_);
  if (!device().is_cpu()) {
    return cuda::Zero2dAsync(raw(), pitch, row_bytes, rows, storage_->allocator->stream());
  }
  for (int64_t row = 0; row < rows; ++row) {
    std::memset(static_cast<char*>(raw()) + row * pitch, 0, static_cast<size_t>(row_bytes));
  }
}

void Tensor::CopyFrom(const Tensor& source) const {
  CHECK(is_dense() && source.is_dense() && shape_ == source.shape_ && dtype_ == source.dtype_)
      << "[copy] " << source.shape_ << " " << Name(source.dtype_) << " to " << shape_ << " " << Name(dtype_);
  CostRecorder* planned = plan() != nullptr ? plan() : source.plan();
  if (planned != nullptr) return planned->Add({"copy", 0, 2.0 * static_cast<double>(bytes())});
  const Allocator* on_device = !device().is_cpu()          ? storage_->allocator
                               : !source.device().is_cpu() ? source.storage_->allocator
                                                           : nullptr;
  if (on_device != nullptr) return cuda::CopyAsync(raw(), source.raw(), bytes(), on_device->stream());
  std::memcpy(raw(), source.raw(), static_cast<size_t>(bytes()));
}

void Tensor::ToHost(void* out) const {
  CHECK(is_dense() && plan() == nullptr) << "[to_host] " << shape_ << " with strides " << strides_;
  if (device().is_cpu()) {
    std::memcpy(out, raw(), static_cast<size_t>(bytes()));
    return;
  }
  cuda::CopyAsync(out, raw(), bytes(), storage_->allocator->stream());
  cuda::Synchronize(storage_->allocator->stream());
}

void Tensor::FromHost(const void* elements) const {
  CHECK(is_dense() && plan() == nullptr) << "[from_host] " << shape_ << " with strides " << strides_;
  if (device().is_cpu()) {
    std::memcpy(raw(), elements, static_cast<size_t>(bytes()));
    return;
  }
  cuda::CopyAsync(raw(), elements, bytes(), storage_->allocator->stream());
  cuda::Synchronize(storage_->allocator->stream());
}

}  // namespace shardit
