#include "trainer/chunk_store.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/check.h"
#include "core/base/crc32c.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"

namespace shardit {
namespace {

// The header as it lies on disk, little-endian and without padding.
struct StoredHeader {
  char magic[8] = {'S', 'D', 'C', 'H', 'U', 'N', 'K', '1'};
  uint64_t key = 0;
  int64_t first = 0, count = 0, item_bytes = 0;
  uint32_t data_crc = 0;
  uint32_t header_crc = 0;  // of all before
};
static_assert(sizeof(StoredHeader) == ChunkStore::kHeaderBytes);
constexpr size_t kCheckedBytes = offsetof(StoredHeader, header_crc);

}  // namespace

absl::StatusOr<ChunkStore> ChunkStore::Open(FileSystem& fs, const std::string& folder,
                                            const ChunkStoreOptions& options) {
  CHECK(options.items >= 0 && options.chunk_items >= 1 && options.item_bytes >= 0)
      << "[ChunkStore] " << options.items << " items of " << options.item_bytes << " bytes in chunks of "
      << options.chunk_items;
  RETURN_IF_ERROR(MakeFolders(fs, folder));
  return ChunkStore(fs, folder, options);
}

ChunkStore::ChunkStore(FileSystem& fs, std::string folder, ChunkStoreOptions options)
    : fs_(&fs), folder_(std::move(folder)), options_(std::move(options)) {}

Range ChunkStore::Items(int64_t chunk) const {
  CHECK(chunk >= 0 && chunk < chunks()) << "[ChunkStore] chunk " << chunk << " of " << chunks();
  const int64_t begin = chunk * options_.chunk_items;
  return {begin, std::min(begin + options_.chunk_items, options_.items)};
}

std::string ChunkStore::Path(int64_t chunk) const {
  return JoinPath(folder_, absl::StrFormat("chunk-%06d.%s", chunk, options_.kind));
}

std::string ChunkStore::Header(int64_t chunk, uint32_t data_crc) const {
  const Range items = Items(chunk);
  StoredHeader header;
  header.key = options_.key;
  header.first = items.begin;
  header.count = items.size();
  header.item_bytes = options_.item_bytes;
  header.data_crc = data_crc;
  header.header_crc = Crc32c(&header, kCheckedBytes);
  return std::string(reinterpret_cast<const char*>(&header), sizeof(header));
}

std::vector<uint8_t> ChunkStore::Present(Range chunks) const {
  std::vector<uint8_t> present;
  int64_t bad = 0;
  for (int64_t chunk = chunks.begin; chunk < chunks.end; ++chunk) {
    const absl::Status status = Read(chunk).status();
    present.push_back(status.ok() ? 1 : 0);
    if (status.ok() || absl::IsNotFound(status)) continue;
    if (++bad == 1) LOG_WARN("{}; it is made again", std::string(status.message()));
  }
  if (bad > 1) LOG_WARN("{} more chunks in {} are not used and made again", bad - 1, Quoted(folder_));
  return present;
}

absl::StatusOr<std::string> ChunkStore::Read(int64_t chunk) const {
  ASSIGN_OR_RETURN(const RandomAccessFile file, RandomAccessFile::Open(Path(chunk), RandomAccessFile::Links::kRefuse));
  const auto refused = [&](absl::string_view reason) {
    return absl::DataLossError(absl::StrCat("chunk ", Quoted(file.path()), " is not used: ", reason));
  };
  const int64_t bytes = Items(chunk).size() * options_.item_bytes, expected = kHeaderBytes + bytes;
  if (file.size() != expected) return refused(absl::StrCat("expected ", expected, " bytes, got ", file.size()));
  std::string header(kHeaderBytes, '\0'), content(static_cast<size_t>(bytes), '\0');
  RETURN_IF_ERROR(file.ReadAt(0, header.data(), kHeaderBytes));
  RETURN_IF_ERROR(file.ReadAt(kHeaderBytes, content.data(), bytes));
  // One comparison says all: key, items, size and checksum are what they would be, written now with this data.
  const uint32_t crc = Crc32c(content.data(), content.size());
  if (header == Header(chunk, crc)) return content;
  StoredHeader stored;
  std::memcpy(&stored, header.data(), sizeof(stored));
  const bool whole = stored.header_crc == Crc32c(&stored, kCheckedBytes) && stored.data_crc == crc;
  return refused(whole ? "it was made with other settings" : "checksums do not match");
}

absl::Status ChunkStore::Write(int64_t chunk, std::string_view bytes) {
  const int64_t size = static_cast<int64_t>(bytes.size());
  CHECK_EQ(size, Items(chunk).size() * options_.item_bytes) << "[ChunkStore] chunk " << chunk;
  const std::string header = Header(chunk, Crc32c(bytes.data(), bytes.size()));
  return ReplaceFile(*fs_, Path(chunk), [&](const std::string& temporary) -> absl::Status {
    ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, fs_->Create(temporary));
    RETURN_IF_ERROR(file->WriteAt(0, header.data(), kHeaderBytes));
    RETURN_IF_ERROR(file->WriteAt(kHeaderBytes, bytes.data(), size));
    RETURN_IF_ERROR(file->Sync());
    return file->Close();
  });
}

}  // namespace shardit
