#include "core/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"

namespace shardit {

static_assert(std::endian::native == std::endian::little, "file formats are written as the host lays them out");

absl::Status ErrnoStatus(int error, absl::string_view what) {
  absl::StatusCode code = absl::ErrnoToStatusCode(error);
  if (error == EIO || error == ESTALE || error == ENXIO) code = absl::StatusCode::kUnavailable;
  if (error == EDQUOT || error == EFBIG) code = absl::StatusCode::kResourceExhausted;
  absl::string_view hint;
  if (error == ENOSPC || error == EDQUOT) hint = "; free some space or choose another folder";
  return absl::Status(code, absl::StrCat(what, ": ", std::strerror(error), hint));
}

std::string Quoted(absl::string_view path) { return absl::StrCat("'", absl::CHexEscape(path), "'"); }

std::string JoinPath(absl::string_view folder, absl::string_view name) {
  if (folder.empty() || folder.back() == '/') return absl::StrCat(folder, name);
  return absl::StrCat(folder, "/", name);
}

std::string ParentFolder(absl::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  const size_t slash = path.rfind('/');
  if (slash == absl::string_view::npos) return ".";
  return std::string(slash == 0 ? "/" : path.substr(0, slash));
}

RandomAccessFile::RandomAccessFile(std::string path, int descriptor, int64_t size)
    : path_(std::move(path)), descriptor_(descriptor), size_(size) {}

RandomAccessFile::~RandomAccessFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

RandomAccessFile::RandomAccessFile(RandomAccessFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)), size_(other.size_) {}

RandomAccessFile& RandomAccessFile::operator=(RandomAccessFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  return *this;
}

absl::StatusOr<RandomAccessFile> RandomAccessFile::Open(const std::string& path, Links links) {
  // O_NONBLOCK: opening a FIFO must not wait for its writer. It has no effect on regular files.
  const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | (links == Links::kRefuse ? O_NOFOLLOW : 0);
  const int descriptor = open(path.c_str(), flags);
  if (descriptor < 0) {
    if (errno == ELOOP && links == Links::kRefuse) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(path), " is a symbolic link; expected a regular file"));
    }
    return ErrnoStatus(errno, absl::StrCat("cannot open ", Quoted(path)));
  }
  RandomAccessFile file(path, descriptor, 0);
  struct stat info;
  if (fstat(descriptor, &info) != 0) return ErrnoStatus(errno, absl::StrCat("cannot stat ", Quoted(path)));
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(path), " is not a regular file"));
  }
  file.size_ = info.st_size;
  return file;
}

absl::Status RandomAccessFile::ReadAt(int64_t offset, void* out, int64_t bytes) const {
  CHECK(offset >= 0 && bytes >= 0) << "[ReadAt] " << path_ << " offset " << offset << " bytes " << bytes;
  char* to = static_cast<char*>(out);
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t got = pread(descriptor_, to + done, static_cast<size_t>(bytes - done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, absl::StrCat("cannot read ", Quoted(path_), " at byte ", offset + done));
    if (got == 0) {
      return absl::DataLossError(absl::StrCat(Quoted(path_), " ends at byte ", offset + done, ", expected at least ",
                                              offset + bytes, " bytes; the file is truncated"));
    }
    done += got;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadWholeFile(const std::string& path, int64_t max_bytes, RandomAccessFile::Links links) {
  ASSIGN_OR_RETURN(const RandomAccessFile file, RandomAccessFile::Open(path, links));
  if (file.size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(path), " has ", file.size(), " bytes, expected at most ", max_bytes));
  }
  std::string content(static_cast<size_t>(file.size()), '\0');
  RETURN_IF_ERROR(file.ReadAt(0, content.data(), file.size()));
  return content;
}

namespace {

PathKind KindOfMode(mode_t mode) {
  if (S_ISREG(mode)) return PathKind::kFile;
  if (S_ISDIR(mode)) return PathKind::kFolder;
  return PathKind::kOther;
}

}  // namespace

PathKind KindOfPath(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return PathKind::kMissing;
  return KindOfMode(info.st_mode);
}

absl::StatusOr<std::vector<FolderEntry>> ListFolder(const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(path.c_str()), &closedir);
  if (folder == nullptr) return ErrnoStatus(errno, absl::StrCat("cannot list ", Quoted(path)));
  std::vector<FolderEntry> entries;
  for (;;) {
    errno = 0;
    const dirent* entry = readdir(folder.get());
    if (entry == nullptr) break;
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    struct stat info;
    const bool known = fstatat(dirfd(folder.get()), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0;
    // An entry that vanished since readdir is not listed: other ranks may be removing their temporary files.
    if (!known && errno == ENOENT) continue;
    entries.push_back({name, known ? KindOfMode(info.st_mode) : PathKind::kOther});
  }
  if (errno != 0) return ErrnoStatus(errno, absl::StrCat("cannot list ", Quoted(path)));
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return entries;
}

absl::StatusOr<int64_t> FreeBytes(const std::string& path) {
  struct statvfs info;
  if (statvfs(path.c_str(), &info) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot ask for the free space of ", Quoted(path)));
  }
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

namespace {

class PosixWritableFile final : public WritableFile {
 public:
  PosixWritableFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  ~PosixWritableFile() override {
    if (descriptor_ >= 0) close(descriptor_);
  }

  absl::Status WriteAt(int64_t offset, const void* data, int64_t bytes) override {
    const char* from = static_cast<const char*>(data);
    int64_t done = 0;
    while (done < bytes) {
      const ssize_t put = pwrite(descriptor_, from + done, static_cast<size_t>(bytes - done), offset + done);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return ErrnoStatus(errno, absl::StrCat("cannot write ", Quoted(path_), " at byte ", offset + done));
      done += put;
    }
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    if (fsync(descriptor_) != 0) return ErrnoStatus(errno, absl::StrCat("cannot fsync ", Quoted(path_)));
    return absl::OkStatus();
  }

  absl::Status Close() override {
    // After EINTR the descriptor is gone on Linux: closing again could close another thread's file.
    if (close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) {
      return ErrnoStatus(errno, absl::StrCat("cannot close ", Quoted(path_)));
    }
    return absl::OkStatus();
  }

 private:
  std::string path_;
  int descriptor_;
};

absl::Status StatusOfCall(int result, absl::string_view verb, const std::string& path) {
  if (result == 0) return absl::OkStatus();
  return ErrnoStatus(errno, absl::StrCat("cannot ", verb, " ", Quoted(path)));
}

class PosixFiles final : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (descriptor < 0) return ErrnoStatus(errno, absl::StrCat("cannot create ", Quoted(path)));
    return std::make_unique<PosixWritableFile>(path, descriptor);
  }

  absl::Status Rename(const std::string& from, const std::string& to) override {
    return StatusOfCall(rename(from.c_str(), to.c_str()), absl::StrCat("rename ", Quoted(from), " to"), to);
  }

  absl::Status Exchange(const std::string& a, const std::string& b) override {
    if (renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0) return absl::OkStatus();
    const std::string what = absl::StrCat("cannot exchange ", Quoted(a), " and ", Quoted(b));
    if (errno == EINVAL || errno == ENOSYS || errno == ENOTSUP) return absl::UnimplementedError(what);
    return ErrnoStatus(errno, what);
  }

  absl::Status SyncFolder(const std::string& path) override {
    const int descriptor = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return ErrnoStatus(errno, absl::StrCat("cannot open folder ", Quoted(path)));
    const absl::Status status = StatusOfCall(fsync(descriptor), "fsync folder", path);
    close(descriptor);
    return status;
  }

  absl::Status MakeFolder(const std::string& path) override {
    return StatusOfCall(mkdir(path.c_str(), 0755), "make folder", path);
  }
  absl::Status RemoveFile(const std::string& path) override {
    return StatusOfCall(unlink(path.c_str()), "remove", path);
  }
  absl::Status RemoveEmptyFolder(const std::string& path) override {
    return StatusOfCall(rmdir(path.c_str()), "remove folder", path);
  }
};

absl::Status WriteAndSync(FileSystem& fs, const std::string& path, absl::string_view content) {
  ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, fs.Create(path));
  RETURN_IF_ERROR(file->WriteAt(0, content.data(), static_cast<int64_t>(content.size())));
  RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

}  // namespace

FileSystem& PosixFileSystem() {
  static PosixFiles files;
  return files;
}

absl::Status ReplaceFile(FileSystem& fs, const std::string& path,
                         absl::FunctionRef<absl::Status(const std::string& temporary)> write) {
  const std::string temporary = absl::StrCat(path, ".tmp-", getpid());
  absl::Status status = write(temporary);
  if (status.ok()) status = fs.Rename(temporary, path);
  if (!status.ok()) {
    fs.RemoveFile(temporary).IgnoreError();  // the first error is the one to report
    return status;
  }
  return fs.SyncFolder(ParentFolder(path));
}

absl::Status AtomicWriteFile(FileSystem& fs, const std::string& path, absl::string_view content) {
  return ReplaceFile(fs, path, [&](const std::string& temporary) { return WriteAndSync(fs, temporary, content); });
}

absl::Status MakeFolders(FileSystem& fs, const std::string& path) {
  if (KindOfPath(path) != PathKind::kMissing) {
    struct stat info;
    if (stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return absl::OkStatus();
    return absl::AlreadyExistsError(absl::StrCat(Quoted(path), " exists and is not a folder"));
  }
  const std::string parent = ParentFolder(path);
  if (parent != path) RETURN_IF_ERROR(MakeFolders(fs, parent));
  const absl::Status made = fs.MakeFolder(path);
  // Another rank may have been faster.
  if (!made.ok() && !absl::IsAlreadyExists(made)) return made;
  return fs.SyncFolder(parent);
}

absl::Status RemoveTree(FileSystem& fs, const std::string& path) {
  const PathKind kind = KindOfPath(path);
  if (kind == PathKind::kMissing) return absl::OkStatus();
  if (kind != PathKind::kFolder) return fs.RemoveFile(path);
  ASSIGN_OR_RETURN(const std::vector<FolderEntry> entries, ListFolder(path));
  for (const FolderEntry& entry : entries) {
    const std::string child = JoinPath(path, entry.name);
    RETURN_IF_ERROR(entry.kind == PathKind::kFolder ? RemoveTree(fs, child) : fs.RemoveFile(child));
  }
  return fs.RemoveEmptyFolder(path);
}

void KillPoint(absl::string_view name) {
  // Read at each passage, not once: a forked child may set it after its parent has passed some points.
  const char* variable = getenv("SHARDIT_KILL_POINT");
  if (variable == nullptr) return;
  absl::string_view wanted = variable;
  int passage = 1;
  if (const size_t colon = wanted.rfind(':'); colon != absl::string_view::npos) {
    if (!absl::SimpleAtoi(wanted.substr(colon + 1), &passage)) return;
    wanted = wanted.substr(0, colon);
  }
  if (wanted != name) return;
  // The one counter of a process that is about to be killed as a whole, ranks as threads included.
  static std::atomic<int> passages{0};
  if (++passages == passage) raise(SIGKILL);
}

}  // namespace shardit
