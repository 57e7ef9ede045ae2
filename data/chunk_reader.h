// Chunked arrays of HDF5 files, read without HDF5. The library (1.10.8) takes for granted that a chunk, inflated or
// not, is as long as the array's chunks are, and reads whatever lies in memory behind a shorter one; here a chunk of
// another length is an error. Where the chunks lie is found once, when the file is opened (hdf5_source.h).
//
// Source: HDF5 File Format Specification 3.0, VI.A.2.l (the filter pipeline) and III.A.1 (chunked storage).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/aligned_buffer.h"

namespace shardit {

// Deflate cannot expand further than this (zlib's documentation), so stored bytes bound the size of the data.
inline constexpr int64_t kMaxDeflateRatio = 1032;

enum class ChunkFilter { kShuffle, kDeflate, kFletcher32 };

struct ChunkPlace {
  int64_t offset = 0;  // in the file, bytes
  int64_t bytes = 0;   // as stored
};

struct ChunkedArray {
  std::string path, name;                      // of file and array, for messages
  std::array<int64_t, 4> dims = {1, 1, 1, 1};  // elements; arrays of lower rank end in ones
  std::array<int64_t, 4> chunk = {1, 1, 1, 1};
  int64_t value_bytes = 0;
  std::vector<ChunkFilter> filters;  // in the order of writing; each at most once
  int64_t shuffle_bytes = 1;         // what the shuffle filter takes for one element
  std::vector<ChunkPlace> places;    // row-major

  // Chunks that cover each dim.
  std::array<int64_t, 4> grid() const;
  int64_t chunk_bytes() const { return chunk[0] * chunk[1] * chunk[2] * chunk[3] * value_bytes; }
  // Whether a chunk of this array can be stored in `bytes` bytes.
  bool Plausible(int64_t bytes) const;
  std::string where() const;  // "path: name", to print
};

// Reads rows (indices of the first dim). Keeps the chunks read last, 64 MiB of them or one. Thread-safe: one reader at
// a time.
class ChunkReader {
 public:
  // Every place lies in the file and is plausible.
  explicit ChunkReader(ChunkedArray array);

  // Rows [first, first + count) in row-major order, as stored. `fd` is the file. DataLoss where it is damaged.
  absl::Status Read(int fd, int64_t first, int64_t count, std::byte* out);

 private:
  struct Slot {
    int64_t index = -1;
    AlignedBuffer<std::byte> bytes;
  };

  absl::StatusOr<const std::byte*> Chunk(int fd, int64_t index);
  absl::Status Load(int fd, int64_t index, std::byte* out) const;
  absl::Status Damaged(int64_t index, const std::string& what) const;
  void Copy(const std::byte* chunk, const std::array<int64_t, 4>& begin, int64_t first, int64_t count,
            std::byte* out) const;

  const ChunkedArray array_;
  std::mutex mutex_;
  std::vector<Slot> slots_;  // chunk i is kept in slot i modulo their number
};

// Exactly `bytes` bytes at `offset`; `path` is for messages. Blocks on the disk; a file that shrank is DataLoss.
absl::Status ReadBytesAt(int fd, int64_t offset, int64_t bytes, const std::string& path, std::byte* out);

}  // namespace shardit
