// One HDF5 file of latents, opened for reading. Schema (all at the root of the file):
//
//   latents [N, C, H, W]    float32 or float16, little-endian: the samples; or
//   moments [N, 2C, H, W]   the same types: channels 0..C-1 are means, C..2C-1 standard deviations of a posterior
//   labels  [N]             integers of 1 to 8 bytes, either byte order, in [0, classes)
//   attributes, all optional: scale (number; samples are multiplied by it), classes (integer), source (a string of
//   fixed length; one of variable length is not read), flipped (0 or 1, or a boolean: the file already holds mirrored
//   copies, so a loader must not mirror again)
//
// Files are untrusted. Open refuses, with one line that says file, place, expected, got and fix: files that are not
// regular or not whole, external or soft links, external storage, virtual layout, filters other than shuffle, deflate
// and fletcher32, chunks that are missing, of a size that cannot be, or written without their filters, any type not
// named above (other byte orders and float64 are refused, not converted: conversion would cost every read), shapes that
// disagree, sizes that the stored bytes cannot hold, labels out of range. Sizes are
// checked before memory is taken for them. Error kinds: NotFound (no such file), DataLoss (truncated or unreadable),
// InvalidArgument (the schema is broken), ResourceExhausted (memory, descriptors).
//
// HDF5 is called in Open only. Contiguous data, which is what h5py writes by default and what LatentFileWriter writes,
// is read by pread at one offset found then. It is never mapped: a file that shrinks would be a SIGBUS. Chunked data is
// read chunk by chunk at places found then (chunk_reader.h), with a cache of at least one chunk: right for sequential
// reading; for random order keep the file in memory (LoadIntoMemory) or rewrite it contiguous. Compact data (at most 64
// KiB) is copied at Open.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/aligned_buffer.h"

namespace shardit {

class ChunkReader;

// Labels and the `classes` attribute stay below this, so that a histogram by class is always affordable.
inline constexpr int64_t kMaxClasses = 1'000'000;

struct LatentShape {
  int64_t channels = 0;  // C, also for moments
  int64_t height = 0;
  int64_t width = 0;
  int64_t elements() const { return channels * height * width; }
  friend bool operator==(const LatentShape&, const LatentShape&) = default;
};

enum class LatentKind { kLatents, kMoments };
enum class LatentType { kFloat32, kFloat16 };
enum class LatentLayout { kContiguous, kChunked, kCompact };

struct LatentFileInfo {
  std::string path;
  int64_t file_bytes = 0;
  int64_t count = 0;  // N
  LatentShape shape;
  LatentKind kind = LatentKind::kLatents;
  LatentType type = LatentType::kFloat32;
  LatentLayout layout = LatentLayout::kContiguous;
  float scale = 1.0f;
  int64_t classes = 0;  // 0: the file does not say
  std::string source;   // as stored: escape before printing
  bool flipped = false;

  // Bytes of one sample as stored: C H W (times 2 for moments) elements.
  int64_t sample_bytes() const {
    return shape.elements() * (kind == LatentKind::kMoments ? 2 : 1) * (type == LatentType::kFloat16 ? 2 : 4);
  }
};

class LatentFile {
 public:
  // Labels must be below `classes` and below the file's own attribute, each where it is not 0.
  static absl::StatusOr<std::unique_ptr<LatentFile>> Open(const std::string& path, int64_t classes = 0);
  ~LatentFile();
  LatentFile(const LatentFile&) = delete;
  LatentFile& operator=(const LatentFile&) = delete;

  const LatentFileInfo& info() const { return info_; }
  const std::vector<int32_t>& labels() const { return labels_; }

  // Copies samples [first, first + count) as stored (count * sample_bytes() bytes). Thread-safe; blocks on the disk.
  // A file that shrank since Open is DataLoss.
  absl::Status ReadRaw(int64_t first, int64_t count, void* out) const;

  // Reads every sample into memory once; ReadRaw then copies from there and the file is closed. Not thread-safe.
  absl::Status LoadIntoMemory();

  // The stored bytes of a sample when LoadIntoMemory was called or the layout is compact, else null.
  const std::byte* InMemory(int64_t sample) const {
    return memory_.data() == nullptr ? nullptr : memory_.data() + sample * info_.sample_bytes();
  }

 private:
  LatentFile();

  LatentFileInfo info_;
  std::vector<int32_t> labels_;
  int fd_ = -1;
  int64_t offset_ = 0;                   // of sample 0 in the file, bytes; contiguous layout only
  std::unique_ptr<ChunkReader> chunks_;  // chunked layout only
  AlignedBuffer<std::byte> memory_;

  friend class LatentFileOpener;
};

}  // namespace shardit
