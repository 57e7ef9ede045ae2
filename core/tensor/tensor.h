// Tensor: a strided view of shared storage. Copying a Tensor copies the view, not the elements. Storage returns to its
// allocator when the last view goes. Tensors are not thread-safe handles: one owner thread at a time; elements may be
// read and written from the threads of a parallel region.
//
// Its memory belongs to the owner that the allocator is set to (MemoryOwnerScope).
//
// A meta tensor has dtype and shape and no storage: models are built on it, narrowed by a shard plan and only then
// given memory.
#pragma once

#include <cstdint>
#include <memory>

#include "core/tensor/allocator.h"
#include "core/tensor/dtype.h"
#include "core/tensor/elements.h"
#include "core/tensor/shape.h"

namespace shardit {

class Tensor {
 public:
  Tensor() = default;

  // Uninitialised dense tensor in `allocator`, which must outlive it.
  static Tensor Empty(Allocator& allocator, Shape shape, DType dtype = DType::kF32);
  static Tensor Zeros(Allocator& allocator, Shape shape, DType dtype = DType::kF32);
  static Tensor Meta(Shape shape, DType dtype = DType::kF32);
  // A view of memory that the caller owns and keeps alive.
  static Tensor Borrow(void* data, Shape shape, DType dtype = DType::kF32);

  bool defined() const { return dtype_set_; }
  bool is_meta() const { return defined() && storage_ == nullptr; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }  // elements
  int ndim() const { return shape_.ndim(); }
  int64_t dim(int index) const { return shape_[index]; }
  int64_t stride(int index) const { return strides_[index]; }
  int64_t elements() const { return shape_.elements(); }
  int64_t bytes() const { return elements() * SizeOf(dtype_); }
  bool is_dense() const;

  // First element. T must match dtype().
  template <class T = float>
  T* data() const {
    CHECK(storage_ != nullptr) << "tensor " << shape_ << " has no storage";
    CHECK(DTypeOf<T>() == dtype_) << "tensor is " << Name(dtype_) << ", asked for " << Name(DTypeOf<T>());
    return reinterpret_cast<T*>(static_cast<char*>(storage_->data)) + offset_;
  }
  // The first element, with its type: an operand of a kernel.
  Elements ref() const {
    CHECK(storage_ != nullptr) << "tensor " << shape_ << " has no storage";
    return {raw(), dtype_};
  }
  void* raw() const { return static_cast<char*>(storage_->data) + offset_ * SizeOf(dtype_); }

  // Views. Reshape needs a dense tensor and the same number of elements.
  Tensor Reshape(Shape shape) const;
  // Elements [begin, begin + size) along `dim`.
  Tensor Narrow(int dim, int64_t begin, int64_t size) const;

  // Where the elements lie: borrowed memory is the host's.
  Device device() const {
    return storage_ != nullptr && storage_->allocator != nullptr ? storage_->allocator->device() : Device::Cpu();
  }
  // Not null where the storage is a planning allocator's: its elements are not there, and whoever would read or write
  // them records the cost here instead.
  CostRecorder* plan() const {
    return storage_ != nullptr && storage_->allocator != nullptr ? storage_->allocator->plan() : nullptr;
  }

  // Identity and size of the storage: for counting what is kept alive.
  const void* storage_id() const { return storage_.get(); }
  int64_t storage_bytes() const { return storage_ ? storage_->bytes : 0; }

  // Sets every element to zero; dense tensors, and rows ([N, D] whose last dim is contiguous). On a GPU in the order of
  // the allocator's stream.
  void Zero() const;
  // Copies the elements of a dense tensor of the same shape and dtype into this dense tensor. With one of them on a
  // GPU, in the order of its allocator's stream: host memory that it reads or writes must stay until that is done,
  // unless it is pageable and read, which is then done when the call returns.
  void CopyFrom(const Tensor& source) const;
  // All elements of a dense tensor to, or from, host memory of the caller; done on return (waits for a GPU).
  void ToHost(void* out) const;
  void FromHost(const void* elements) const;

 private:
  struct Storage {
    void* data = nullptr;
    int64_t bytes = 0;
    Allocator* allocator = nullptr;  // null: borrowed
    MemoryOwner owner = MemoryOwner::kActivations;
    ~Storage();
  };

  std::shared_ptr<Storage> storage_;
  int64_t offset_ = 0;  // elements
  Shape shape_;
  Shape strides_;
  DType dtype_ = DType::kF32;
  bool dtype_set_ = false;
};

}  // namespace shardit
