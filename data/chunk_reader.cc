#include "data/chunk_reader.h"

#include <errno.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "data/hdf5_util.h"

namespace shardit {
namespace {

constexpr int64_t kCacheBytes = int64_t{64} << 20;
constexpr int64_t kMaxSlots = 4096;
constexpr int64_t kChecksumBytes = 4;

// The checksum of HDF5's filter, over big-endian 16-bit words; an odd last byte is the upper half of one.
uint32_t Fletcher32(const std::byte* data, int64_t bytes) {
  uint32_t sum1 = 0, sum2 = 0;
  const auto fold = [](uint32_t sum) { return (sum & 0xffff) + (sum >> 16); };
  for (int64_t i = 0; i < bytes; i += 2) {
    const uint32_t low = i + 1 < bytes ? std::to_integer<uint32_t>(data[i + 1]) : 0;
    sum1 += std::to_integer<uint32_t>(data[i]) << 8 | low;
    sum2 += sum1;
    if (i % 512 == 510) sum1 = fold(sum1), sum2 = fold(sum2);  // 256 words cannot overflow
  }
  return fold(fold(sum2)) << 16 | fold(fold(sum1));
}

// Byte j of element i was written to j n + i; what does not fill an element follows as it is.
void Unshuffle(const std::byte* from, int64_t bytes, int64_t element, std::byte* to) {
  const int64_t n = bytes / element;
  for (int64_t j = 0; j < element; ++j) {
    for (int64_t i = 0; i < n; ++i) to[i * element + j] = from[j * n + i];
  }
  std::memcpy(to + n * element, from + n * element, static_cast<size_t>(bytes - n * element));
}

bool Has(const std::vector<ChunkFilter>& filters, ChunkFilter filter) {
  return std::find(filters.begin(), filters.end(), filter) != filters.end();
}

}  // namespace

std::array<int64_t, 4> ChunkedArray::grid() const {
  std::array<int64_t, 4> grid;
  for (size_t i = 0; i < 4; ++i) grid[i] = (dims[i] - 1) / chunk[i] + 1;
  return grid;
}

bool ChunkedArray::Plausible(int64_t bytes) const {
  const int64_t most = chunk_bytes() + (Has(filters, ChunkFilter::kFletcher32) ? kChecksumBytes : 0);
  if (!Has(filters, ChunkFilter::kDeflate)) return bytes == most;
  // What does not compress grows by far less than this.
  return bytes >= most / kMaxDeflateRatio && bytes <= 2 * most + 1024;
}

std::string ChunkedArray::where() const { return absl::StrCat(EscapeForMessage(path), ": ", name); }

ChunkReader::ChunkReader(ChunkedArray array) : array_(std::move(array)) {
  const auto chunks = static_cast<int64_t>(array_.places.size());
  slots_.resize(static_cast<size_t>(
      std::clamp<int64_t>(kCacheBytes / array_.chunk_bytes(), 1, std::min<int64_t>(chunks, kMaxSlots))));
}

absl::Status ChunkReader::Damaged(int64_t index, const std::string& what) const {
  return absl::DataLossError(
      absl::StrCat(array_.where(), ": chunk ", index, ": ", what, "; the file is damaged: write or copy it again"));
}

// Undoes the filters, last first: each takes `bytes` bytes of `from` and leaves its result there.
absl::Status ChunkReader::Load(int fd, int64_t index, std::byte* out) const {
  const ChunkPlace& place = array_.places[static_cast<size_t>(index)];
  if (array_.filters.empty()) return ReadBytesAt(fd, place.offset, place.bytes, array_.path, out);
  using Buffer = AlignedBuffer<std::byte>;
  ASSIGN_OR_RETURN(Buffer from, Buffer::Make(place.bytes, "a stored chunk"));
  RETURN_IF_ERROR(ReadBytesAt(fd, place.offset, place.bytes, array_.path, from.data()));
  int64_t bytes = place.bytes;
  for (size_t i = array_.filters.size(); i-- > 0;) {
    const ChunkFilter filter = array_.filters[i];
    if (filter == ChunkFilter::kFletcher32) {
      if (bytes < kChecksumBytes) return Damaged(index, "has no checksum");
      bytes -= kChecksumBytes;
      uint32_t stored = 0;
      std::memcpy(&stored, from.data() + bytes, kChecksumBytes);
      if (stored != Fletcher32(from.data(), bytes)) return Damaged(index, "has another checksum than its bytes");
    } else if (filter == ChunkFilter::kShuffle) {
      ASSIGN_OR_RETURN(Buffer to, Buffer::Make(bytes, "a chunk"));
      Unshuffle(from.data(), bytes, array_.shuffle_bytes, to.data());
      from = std::move(to);
    } else {
      const auto end = array_.filters.begin() + static_cast<ptrdiff_t>(i);
      const bool sum_inside = std::find(array_.filters.begin(), end, ChunkFilter::kFletcher32) != end;
      const int64_t expected = array_.chunk_bytes() + (sum_inside ? kChecksumBytes : 0);
      ASSIGN_OR_RETURN(Buffer to, Buffer::Make(expected, "a chunk"));
      auto made = static_cast<uLongf>(expected);
      const int result = uncompress(reinterpret_cast<Bytef*>(to.data()), &made,
                                    reinterpret_cast<const Bytef*>(from.data()), static_cast<uLong>(bytes));
      if (result != Z_OK || made != static_cast<uLongf>(expected)) {
        return Damaged(index, absl::StrCat("does not inflate to its ", expected, " bytes"));
      }
      from = std::move(to);
      bytes = expected;
    }
  }
  if (bytes != array_.chunk_bytes()) {
    return Damaged(index, absl::StrCat("has ", bytes, " bytes, expected ", array_.chunk_bytes()));
  }
  std::memcpy(out, from.data(), static_cast<size_t>(bytes));
  return absl::OkStatus();
}

absl::StatusOr<const std::byte*> ChunkReader::Chunk(int fd, int64_t index) {
  Slot& slot = slots_[static_cast<size_t>(index) % slots_.size()];
  if (slot.index == index) return slot.bytes.data();
  slot.index = -1;  // until it is read whole
  if (slot.bytes.data() == nullptr) {
    ASSIGN_OR_RETURN(slot.bytes, AlignedBuffer<std::byte>::Make(array_.chunk_bytes(), "a chunk"));
  }
  RETURN_IF_ERROR(Load(fd, index, slot.bytes.data()));
  slot.index = index;
  return slot.bytes.data();
}

// What the chunk that begins at element `begin` holds of the rows [first, first + count).
void ChunkReader::Copy(const std::byte* chunk, const std::array<int64_t, 4>& begin, int64_t first, int64_t count,
                       std::byte* out) const {
  const std::array<int64_t, 4>&dims = array_.dims, &size = array_.chunk;
  std::array<int64_t, 4> from = begin, end;
  for (size_t i = 0; i < 4; ++i) end[i] = std::min(begin[i] + size[i], dims[i]);
  from[0] = std::max(begin[0], first);
  end[0] = std::min(end[0], first + count);
  const auto bytes = static_cast<size_t>((end[3] - begin[3]) * array_.value_bytes);
  for (int64_t n = from[0]; n < end[0]; ++n) {
    for (int64_t c = begin[1]; c < end[1]; ++c) {
      for (int64_t y = begin[2]; y < end[2]; ++y) {
        const int64_t to = (((n - first) * dims[1] + c) * dims[2] + y) * dims[3] + begin[3];
        const int64_t at = (((n - begin[0]) * size[1] + c - begin[1]) * size[2] + y - begin[2]) * size[3];
        std::memcpy(out + to * array_.value_bytes, chunk + at * array_.value_bytes, bytes);
      }
    }
  }
}

absl::Status ChunkReader::Read(int fd, int64_t first, int64_t count, std::byte* out) {
  if (count == 0) return absl::OkStatus();
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::array<int64_t, 4> grid = array_.grid(), size = array_.chunk;
  const int64_t chunks_of_row = grid[1] * grid[2] * grid[3];
  const int64_t begin = first / size[0] * chunks_of_row, end = ((first + count - 1) / size[0] + 1) * chunks_of_row;
  for (int64_t index = begin; index < end; ++index) {
    ASSIGN_OR_RETURN(const std::byte* const chunk, Chunk(fd, index));
    Copy(chunk,
         {index / chunks_of_row * size[0], index / (grid[2] * grid[3]) % grid[1] * size[1],
          index / grid[3] % grid[2] * size[2], index % grid[3] * size[3]},
         first, count, out);
  }
  return absl::OkStatus();
}

absl::Status ReadBytesAt(int fd, int64_t offset, int64_t bytes, const std::string& path, std::byte* out) {
  while (bytes > 0) {
    const ssize_t got = pread(fd, out, static_cast<size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      return absl::DataLossError(absl::StrCat(EscapeForMessage(path), ": ", bytes, " bytes at offset ", offset,
                                              " cannot be read (", got < 0 ? std::strerror(errno) : "the file shrank",
                                              "); check the disk, or write or copy the file again"));
    }
    out += got;
    offset += got;
    bytes -= got;
  }
  return absl::OkStatus();
}

}  // namespace shardit
