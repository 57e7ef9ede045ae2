// safetensors: 8 bytes little-endian header length N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then the
// tensors' bytes, row-major, without hole or overlap (https://github.com/huggingface/safetensors, "Format").
// The reader takes hostile files: memory is bounded by the file's size, every product is checked, nothing outside the
// file is touched, and an error names file, tensor, rule and what was found. Byte order is little-endian on both sides.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/file.h"

namespace shardit {

enum class SafetensorsType { kF64, kF32, kF16, kBF16, kI64, kI32, kU8, kBool };

int64_t ItemBytes(SafetensorsType type);
absl::string_view TypeName(SafetensorsType type);  // "F32"

// One tensor of a file. `begin` counts bytes from the start of the file.
struct SafetensorsEntry {
  std::string name;
  SafetensorsType type = SafetensorsType::kF32;
  std::vector<int64_t> shape;
  int64_t begin = 0;
  int64_t bytes = 0;

  int64_t elements() const { return bytes / ItemBytes(type); }
};

constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;
constexpr size_t kMaxSafetensorsRank = 32;

// Thread-safe after Open. Move-only.
class SafetensorsReader {
 public:
  // Checks the whole header: length <= 100 MB and <= file - 8; only the known fields and dtypes; no key twice; sizes
  // that follow from shape and dtype; data_offsets that cover the data exactly once, up to the last byte of the file.
  static absl::StatusOr<SafetensorsReader> Open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // in file order
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  int64_t header_bytes() const { return header_bytes_; }  // length field included: where the data begins

  // nullptr where there is no such tensor.
  const SafetensorsEntry* Find(absl::string_view name) const;
  // As Find, but an error that names the file and the tensor.
  absl::StatusOr<const SafetensorsEntry*> Require(absl::string_view name) const;

  // Raw bytes [offset, offset + bytes) of a tensor; the range must lie inside it (CHECK).
  absl::Status Read(const SafetensorsEntry& entry, int64_t offset, int64_t bytes, void* out) const;
  // Elements [first, first + count) converted to float: F64 (rounded), F32, F16, BF16. Other types are an error.
  absl::Status ReadAsFloat(const SafetensorsEntry& entry, int64_t first, int64_t count, float* out) const;
  // Elements [first, first + count) of an I64, I32 or U8 tensor. Other types are an error.
  absl::Status ReadAsInt64(const SafetensorsEntry& entry, int64_t first, int64_t count, int64_t* out) const;

 private:
  explicit SafetensorsReader(RandomAccessFile file) : file_(std::move(file)) {}
  RandomAccessFile file_;
  int64_t header_bytes_ = 0;
  std::vector<SafetensorsEntry> entries_;
  std::vector<size_t> by_name_;  // indices into entries_, in name order
  std::map<std::string, std::string> metadata_;
};

// What a writer announces about a tensor before any data.
struct SafetensorsSpec {
  std::string name;
  SafetensorsType type = SafetensorsType::kF32;
  std::vector<int64_t> shape;
};

// Writes header, then tensors in the order announced, at exactly `path` (use WriteSafetensors for an atomic file). The
// same announcement and data give the same bytes: metadata in key order, tensors in the order given, header padded
// with spaces to a multiple of 8. Not thread-safe. CHECKs that the bytes appended are the bytes announced.
class SafetensorsWriter {
 public:
  // Names must be valid UTF-8, different, and not "__metadata__"; else InvalidArgument before anything is created.
  static absl::StatusOr<SafetensorsWriter> Create(FileSystem& fs, const std::string& path,
                                                  const std::vector<SafetensorsSpec>& tensors,
                                                  const std::map<std::string, std::string>& metadata);

  // Appends the next bytes of the data section, in pieces of any size.
  absl::Status Append(const void* data, int64_t bytes);
  // Makes what was appended durable.
  absl::Status Sync() { return file_->Sync(); }
  // All announced bytes must be there. Syncs and closes.
  absl::Status Finish();

  int64_t header_bytes() const { return static_cast<int64_t>(header_.size()); }
  const std::string& header() const { return header_; }  // length field and JSON, as written
  int64_t file_bytes() const { return file_bytes_; }
  int64_t begin(size_t tensor) const { return begins_[tensor]; }  // of a tensor, bytes from the start of the file

 private:
  SafetensorsWriter() = default;
  std::unique_ptr<WritableFile> file_;
  std::string header_;
  std::vector<int64_t> begins_;
  int64_t cursor_ = 0;
  int64_t file_bytes_ = 0;
};

// A tensor in memory, for WriteSafetensors. `data` holds the row-major elements of `spec`.
struct SafetensorsTensor {
  SafetensorsSpec spec;
  const void* data = nullptr;
};

// Writes a whole file atomically (temporary name, fsync, rename). Tensors are ordered by item size, largest first, then
// by name, so that every tensor is aligned to its items and the bytes do not depend on the caller's order.
absl::Status WriteSafetensors(FileSystem& fs, const std::string& path, std::vector<SafetensorsTensor> tensors,
                              const std::map<std::string, std::string>& metadata);

}  // namespace shardit
