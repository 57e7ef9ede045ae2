// Finished pieces of a long command on disk, so that an interrupted one goes on where it stopped. A folder holds one
// file for every chunk of consecutive items (samples, images); which items a chunk holds depends on the chunk size
// alone, never on the ranks.
//
//   chunk-000012.<kind>    header (ChunkStore::kHeaderBytes), then the bytes of the items
//
// The header names what the content was made of (a key, the items, their size) and has a CRC32C of itself and of the
// data. A file that is damaged, or whose header says anything else than asked for, counts as absent, with a warning:
// its chunk is made again and replaced. Files are written under a temporary name, synced and renamed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/file.h"
#include "core/base/math.h"

namespace shardit {

// What a store is to hold.
struct ChunkStoreOptions {
  std::string kind;  // ends the names of its files: several kinds may share a folder
  // A hash (HashBytes) of everything that determines the content, but not of the number of items: more of them go on
  // from those there.
  uint64_t key = 0;
  int64_t items = 0;        // in the whole set, >= 0
  int64_t chunk_items = 1;  // >= 1; the last chunk may be shorter
  int64_t item_bytes = 0;   // >= 0
};

// Not thread-safe. Ranks share a folder as long as no two write the same chunk at once.
class ChunkStore {
 public:
  static constexpr int64_t kHeaderBytes = 48;

  // Makes the folder where it is missing; reads nothing. `fs` must outlive the store.
  static absl::StatusOr<ChunkStore> Open(FileSystem& fs, const std::string& folder, const ChunkStoreOptions& options);

  int64_t chunks() const { return CeilDiv(options_.items, options_.chunk_items); }
  // The items of a chunk.
  Range Items(int64_t chunk) const;

  // Of chunks [chunks.begin, chunks.end), those that are present and whole (1) or must be made (0). Reads every byte.
  // Warns of files that are there and not to be trusted: of the first, and of how many more.
  std::vector<uint8_t> Present(Range chunks) const;

  // The bytes of the chunk's items. NotFound, or DataLoss with the reason, where Present would say 0.
  absl::StatusOr<std::string> Read(int64_t chunk) const;
  // Replaces the chunk. The bytes are those of its items (CHECK).
  absl::Status Write(int64_t chunk, std::string_view bytes);

 private:
  ChunkStore(FileSystem& fs, std::string folder, ChunkStoreOptions options);
  std::string Path(int64_t chunk) const;
  std::string Header(int64_t chunk, uint32_t data_crc) const;

  FileSystem* fs_;
  std::string folder_;
  ChunkStoreOptions options_;
};

}  // namespace shardit
