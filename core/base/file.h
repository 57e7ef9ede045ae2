// Files, with their failures: reads, and the one interface through which everything that must survive a crash is
// written. Every function returns absl::Status (or StatusOr) that names the operation, the path and the reason:
// NotFound, AlreadyExists, PermissionDenied, ResourceExhausted (disk or quota full), Unavailable (the device failed),
// DataLoss (a file shorter than it claimed). Paths are plain byte strings; messages escape them. Little-endian only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shardit {

// Status for errno value `error`; `what` says operation and path: "cannot open 'a/b'".
absl::Status ErrnoStatus(int error, absl::string_view what);

// 'path' in quotes with control bytes escaped, for messages: names from disks and files are not trusted.
std::string Quoted(absl::string_view path);

std::string JoinPath(absl::string_view folder, absl::string_view name);
// "a/b" -> "a", "/b" -> "/", "b" -> ".".
std::string ParentFolder(absl::string_view path);

// A regular file open for positioned reads. Move-only; ReadAt may be called from many threads.
class RandomAccessFile {
 public:
  enum class Links { kFollow, kRefuse };

  // Refuses what is not a regular file; with Links::kRefuse also a symbolic link in the last component (for names that
  // come from files).
  static absl::StatusOr<RandomAccessFile> Open(const std::string& path, Links links = Links::kFollow);
  ~RandomAccessFile();
  RandomAccessFile(RandomAccessFile&& other) noexcept;
  RandomAccessFile& operator=(RandomAccessFile&& other) noexcept;

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }  // bytes, when opened

  // Reads exactly `bytes` bytes at `offset`; a file that ends earlier is DataLoss.
  absl::Status ReadAt(int64_t offset, void* out, int64_t bytes) const;

 private:
  RandomAccessFile(std::string path, int descriptor, int64_t size);
  std::string path_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

// The whole file; one above `max_bytes` is InvalidArgument and is not read.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path, int64_t max_bytes,
                                          RandomAccessFile::Links links = RandomAccessFile::Links::kFollow);

enum class PathKind { kMissing, kFile, kFolder, kOther };
// Does not follow a link in the last component (a link is kOther). Unreadable counts as kMissing.
PathKind KindOfPath(const std::string& path);

struct FolderEntry {
  std::string name;
  PathKind kind;
};
// Entries of a folder in byte order of their names, without "." and "..". One that cannot be looked at is kOther.
absl::StatusOr<std::vector<FolderEntry>> ListFolder(const std::string& path);

// Bytes that an unprivileged writer may still add to the file system that holds `path`.
absl::StatusOr<int64_t> FreeBytes(const std::string& path);

// A file being written. Not thread-safe. The destructor closes without syncing.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  // Writes all of it, or says how far it came.
  virtual absl::Status WriteAt(int64_t offset, const void* data, int64_t bytes) = 0;
  // fsync. After a failure the file's content is unknown: never retry, write a new file.
  virtual absl::Status Sync() = 0;
  virtual absl::Status Close() = 0;
};

// Every change to the disk that a commit protocol makes. Tests put their own implementation here: to record the
// operations and replay them up to a power cut, or to fail them. Implementations are thread-safe.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // Creates the file, or empties it.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) = 0;
  // Atomic; replaces a file (or an empty folder) at `to`.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  // Swaps two names atomically; Unimplemented where the file system cannot.
  virtual absl::Status Exchange(const std::string& a, const std::string& b) = 0;
  // fsync of a folder: makes creations, renames and removals in it durable.
  virtual absl::Status SyncFolder(const std::string& path) = 0;
  virtual absl::Status MakeFolder(const std::string& path) = 0;
  virtual absl::Status RemoveFile(const std::string& path) = 0;
  virtual absl::Status RemoveEmptyFolder(const std::string& path) = 0;
};

// The real one: stateless, lives for ever.
FileSystem& PosixFileSystem();

// Calls write(temporary) with a name in the folder of `path`; `write` creates, syncs and closes that file. Then renames
// it to `path` and syncs the folder: a reader sees the old file or the new one. After a failure nothing is left.
absl::Status ReplaceFile(FileSystem& fs, const std::string& path,
                         absl::FunctionRef<absl::Status(const std::string& temporary)> write);

// ReplaceFile with `content`.
absl::Status AtomicWriteFile(FileSystem& fs, const std::string& path, absl::string_view content);

// mkdir -p; what is made is also made durable.
absl::Status MakeFolders(FileSystem& fs, const std::string& path);

// Removes a folder with everything below it; links are removed, never followed. A missing folder is fine.
absl::Status RemoveTree(FileSystem& fs, const std::string& path);

// A named point at which a test can kill the process: with SHARDIT_KILL_POINT="name" or "name:k" in the environment,
// the first (or k-th, from 1) passage raises SIGKILL. A test facility; without the variable it does nothing. Passages
// are counted per process.
void KillPoint(absl::string_view name);

}  // namespace shardit
