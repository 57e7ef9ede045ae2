// npz archives: a zip file with one .npy file per array. Samples leave as `arr_0`, uint8 NHWC; reference statistics
// come in as `mu`, `sigma`. The reader takes hostile files (see zip.h and npy.h); compressed archives are read too.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/file.h"
#include "data/formats/npy.h"
#include "data/formats/zip.h"

namespace shardit {

// One array of an open archive. Reads in order are cheapest where the archive is compressed. Not thread-safe.
class NpyArray {
 public:
  const NpyHeader& header() const { return header_; }
  NpyType type() const { return header_.type; }
  const std::vector<int64_t>& shape() const { return header_.shape; }

  // Raw bytes [offset, offset + bytes) of the data; the range must lie inside (CHECK).
  absl::Status Read(int64_t offset, int64_t bytes, void* out);
  // Elements [first, first + count) of any type, converted.
  absl::Status ReadAsDouble(int64_t first, int64_t count, double* out);
  // Compares the archive's checksum of the whole array. A plain .npy file has none: Ok.
  absl::Status Verify();

 private:
  friend class NpzReader;
  NpyArray(ZipEntryReader source, bool has_crc) : source_(std::move(source)), has_crc_(has_crc) {}
  absl::Status ParseHeader();

  ZipEntryReader source_;
  NpyHeader header_;
  bool has_crc_;
};

class NpzReader {
 public:
  // An .npz file, or a single .npy file, which looks like an archive with the one array `arr_0`.
  static absl::StatusOr<NpzReader> Open(const std::string& path);

  // Array names, without ".npy".
  std::vector<std::string> names() const;
  // Checks header and size of the array. NotFound names the arrays that there are.
  absl::StatusOr<NpyArray> Array(absl::string_view name) const;

 private:
  std::shared_ptr<const RandomAccessFile> file_;
  std::vector<ZipEntry> entries_;
  bool is_archive_ = true;
};

// Streams arrays into an archive that appears under its name only when Finish returns Ok; otherwise the destructor
// removes the temporary file. Entries are stored, not compressed. Not thread-safe; `fs` must outlive it.
class NpzWriter {
 public:
  static absl::StatusOr<NpzWriter> Create(FileSystem& fs, const std::string& path);
  ~NpzWriter();
  NpzWriter(NpzWriter&&) noexcept;
  NpzWriter& operator=(NpzWriter&&) = delete;

  // All bytes of an array are appended, in pieces of any size, before the next array begins.
  absl::Status BeginArray(absl::string_view name, NpyType type, const std::vector<int64_t>& shape);
  absl::Status Append(const void* data, int64_t bytes);
  absl::Status Finish();

 private:
  NpzWriter(FileSystem& fs, std::string path, std::string temporary, ZipWriter zip);
  FileSystem* fs_;  // nullptr once finished or moved from
  std::string path_, temporary_;
  ZipWriter zip_;
  bool in_array_ = false;
};

}  // namespace shardit
