// A fixed-size array of plain values on 64-byte alignment (one cache line, one AVX-512 register), zeroed when it is
// made, so that its pages exist before the first step. Allocation failure is a Status: sizes follow from files.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace shardit {

template <class T>
class AlignedBuffer {
 public:
  static_assert(std::is_trivially_copyable_v<T>);
  static constexpr std::align_val_t kAlignment{64};

  AlignedBuffer() = default;

  // `count` >= 0; `what` names the buffer in the error message.
  static absl::StatusOr<AlignedBuffer> Make(int64_t count, const std::string& what) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    void* memory = ::operator new(bytes, kAlignment, std::nothrow);
    if (memory == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat("out of memory: ", what, " needs ", bytes, " bytes"));
    }
    std::memset(memory, 0, bytes);
    AlignedBuffer buffer;
    buffer.memory_.reset(static_cast<T*>(memory));
    buffer.count_ = count;
    return buffer;
  }

  T* data() { return memory_.get(); }
  const T* data() const { return memory_.get(); }
  int64_t size() const { return count_; }

 private:
  struct Delete {
    void operator()(T* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<T, Delete> memory_;
  int64_t count_ = 0;
};

}  // namespace shardit
