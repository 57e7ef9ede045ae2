// What every use of the HDF5 library here goes through: the lock, owned handles, and its errors as one line.
#pragma once

#include <hdf5.h>

#include <mutex>
#include <string>
#include <utility>

namespace shardit {

// Hold one around every call into HDF5, closing of handles included. The library keeps process-wide state and may be
// built without thread safety, and ranks can be threads of one process: one lock for the process, not for the file.
// It also switches plugins off (a file must not choose code to load) and the library's own error printing.
class Hdf5Lock {
 public:
  Hdf5Lock();
  Hdf5Lock(const Hdf5Lock&) = delete;
  Hdf5Lock& operator=(const Hdf5Lock&) = delete;

 private:
  std::unique_lock<std::mutex> lock_;
};

// Owns one HDF5 identifier. Negative identifiers mean failure and are not closed.
class Hdf5Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Hdf5Handle() = default;
  Hdf5Handle(hid_t id, Close close) : id_(id), close_(close) {}
  Hdf5Handle(Hdf5Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Hdf5Handle() { Reset(); }

  bool valid() const { return id_ >= 0; }
  hid_t get() const { return id_; }

  // Closes now; the result says whether the library could (a failed close of a written file is a lost file).
  herr_t Reset() { return id_ >= 0 ? close_(std::exchange(id_, -1)) : 0; }

 private:
  hid_t id_ = -1;
  Close close_ = nullptr;
};

// The library's most specific message about the calling thread's last failure, on one line and escaped.
std::string Hdf5ErrorText();

// Text from a file or a file name, safe to print: control characters escaped, at most 256 characters kept.
std::string EscapeForMessage(const std::string& text);

// IEEE 754 binary16, little-endian: the library has no name for it.
Hdf5Handle MakeHalfType();

}  // namespace shardit
