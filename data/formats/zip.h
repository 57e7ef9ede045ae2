// The part of the zip format that npz files use (APPNOTE.TXT 6.3): entries stored or deflated, with zip64 sizes. No
// encryption, no multi-disk archives. The reader takes hostile files: everything is checked against the file's size
// before it is allocated, and a deflated entry may not claim more than deflate can produce.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/file.h"

namespace shardit {

enum class ZipMethod { kStored, kDeflated };

struct ZipEntry {
  std::string name;
  ZipMethod method = ZipMethod::kStored;
  int64_t header_begin = 0;  // of its local header, from the start of the file
  int64_t begin = 0;         // of the stored or compressed bytes, from the start of the file
  int64_t stored_bytes = 0;  // in the file
  int64_t bytes = 0;         // after inflation
  uint32_t crc32 = 0;        // of the inflated bytes (zlib's crc32)
};

// The directory of an archive in the order of its central directory. Names are different, and no two
// entries share bytes.
absl::StatusOr<std::vector<ZipEntry>> ReadZipDirectory(const RandomAccessFile& file);

// Positioned reads of one entry. Stored entries read in place; deflated ones inflate forward from the last position
// and start over when asked for earlier bytes, so read them in order. Not thread-safe. Move-only.
class ZipEntryReader {
 public:
  ZipEntryReader(std::shared_ptr<const RandomAccessFile> file, ZipEntry entry);
  ~ZipEntryReader();
  ZipEntryReader(ZipEntryReader&&) noexcept;
  ZipEntryReader& operator=(ZipEntryReader&&) noexcept;

  const ZipEntry& entry() const { return entry_; }
  const std::string& path() const { return file_->path(); }

  // Inflated bytes [offset, offset + bytes); the range must lie inside the entry (CHECK).
  absl::Status ReadAt(int64_t offset, int64_t bytes, void* out);
  // Reads the whole entry and compares its CRC-32 with the directory's.
  absl::Status VerifyCrc();

 private:
  struct Inflater;
  absl::Status Inflate(int64_t bytes, void* out);

  std::shared_ptr<const RandomAccessFile> file_;
  ZipEntry entry_;
  std::unique_ptr<Inflater> inflater_;  // while a deflated entry is being read
};

// Writes stored entries one after the other; every size and offset is in its zip64 form, so that files above 4 GiB need
// no other path. Deterministic: the date is 1980-01-01. Not thread-safe.
class ZipWriter {
 public:
  static absl::StatusOr<ZipWriter> Create(FileSystem& fs, const std::string& path);

  // `name` is ASCII; `bytes` is the exact size of what Append will bring until EndEntry.
  absl::Status BeginEntry(absl::string_view name, int64_t bytes);
  absl::Status Append(const void* data, int64_t bytes);
  absl::Status EndEntry();
  // Writes the directory, syncs, closes.
  absl::Status Finish();

 private:
  struct Written {
    std::string name;
    int64_t bytes = 0;
    int64_t header_begin = 0;
    uint32_t crc32 = 0;
  };
  ZipWriter() = default;
  absl::Status Put(const std::string& bytes);

  std::unique_ptr<WritableFile> file_;
  std::vector<Written> entries_;
  int64_t cursor_ = 0;
  int64_t missing_ = 0;  // bytes of the open entry not yet appended
  bool open_ = false;
};

}  // namespace shardit
