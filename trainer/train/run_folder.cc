#include "trainer/train/run_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/status_macros.h"
#include "parallel/comm/agree_status.h"
#include "trainer/checkpoint/checkpoint_names.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

constexpr int64_t kMaxIdFileBytes = 4096;
// Beyond one checkpoint: manifests, logs, the block sizes of file systems.
constexpr int64_t kSpareBytes = 16 << 20;
constexpr int64_t kRehearsedBytes = 1 << 20;  // written for real

// Different for every start anywhere: time, process and host.
std::string NewId() {
  char host[256] = {};
  gethostname(host, sizeof(host) - 1);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t microseconds = std::chrono::duration_cast<std::chrono::microseconds>(now).count();
  return absl::StrCat(absl::Hex(HashBytes(absl::StrCat(host, ":", getpid(), ":", microseconds)), absl::kZeroPad16));
}

// Makes the folders; returns the run id.
absl::StatusOr<std::string> MakeRunFolder(const RunFolder& folder) {
  FileSystem& fs = PosixFileSystem();
  RETURN_IF_ERROR(MakeFolders(fs, folder.path));
  RETURN_IF_ERROR(MakeFolders(fs, folder.checkpoints()));
  RETURN_IF_ERROR(MakeFolders(fs, folder.samples()));
  const std::string id_file = JoinPath(folder.path, "run_id");
  if (KindOfPath(id_file) == PathKind::kMissing) {
    const std::string id = NewId();
    RETURN_IF_ERROR(AtomicWriteFile(fs, id_file, id + "\n"));
    return id;
  }
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(id_file, kMaxIdFileBytes));
  const std::string id(absl::StripSuffix(text, "\n"));
  if (!IsValidRunId(id)) {
    return absl::DataLossError(absl::StrCat(Quoted(id_file), ": expected a run id, got ", Quoted(id)));
  }
  return id;
}

// A file without a name in the folder, so that a killed process leaves nothing behind. Where the file system has none,
// one whose name is removed at once.
absl::StatusOr<int> OpenNameless(const std::string& folder) {
  const int nameless = open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
  if (nameless >= 0) return nameless;
  const std::string path = JoinPath(folder, absl::StrCat("rehearsal.tmp-", getpid()));
  const int named = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (named < 0) return ErrnoStatus(errno, absl::StrCat("cannot create ", Quoted(path)));
  unlink(path.c_str());
  return named;
}

// Reserves `bytes`. Unimplemented where the file system cannot; no fallback that writes them all, as posix_fallocate
// has: a checkpoint may be terabytes.
absl::Status Reserve(int descriptor, int64_t bytes) {
  int error = 0;
  do {
    error = fallocate(descriptor, 0, 0, bytes) == 0 ? 0 : errno;
  } while (error == EINTR);
  // EFBIG: more than one file may hold, which says nothing about many.
  if (error == EOPNOTSUPP || error == ENOSYS || error == EFBIG) return absl::UnimplementedError("cannot be reserved");
  return error == 0 ? absl::OkStatus() : ErrnoStatus(error, absl::StrCat("cannot reserve ", bytes, " bytes"));
}

// Writes and syncs a little, as a save will.
absl::Status WriteALittle(int descriptor) {
  const std::string block(kRehearsedBytes, 'r');
  const ssize_t written = pwrite(descriptor, block.data(), block.size(), 0);
  if (written != kRehearsedBytes) return ErrnoStatus(written < 0 ? errno : ENOSPC, "cannot write");
  return fsync(descriptor) == 0 ? absl::OkStatus() : ErrnoStatus(errno, "cannot sync");
}

absl::Status Rehearse(const std::string& folder, int64_t bytes) {
  ASSIGN_OR_RETURN(const int64_t free, FreeBytes(folder));
  ASSIGN_OR_RETURN(const int descriptor, OpenNameless(folder));
  absl::Status status = Reserve(descriptor, bytes);
  if (absl::IsUnimplemented(status)) {
    status = free >= bytes ? absl::OkStatus() : absl::ResourceExhaustedError("too few bytes are free");
  }
  if (status.ok()) status = WriteALittle(descriptor);
  close(descriptor);
  const std::string reason(status.message());
  if (absl::IsResourceExhausted(status)) {
    return absl::ResourceExhaustedError(absl::StrCat(Quoted(folder), ": one checkpoint needs ", bytes,
                                                     " bytes, free are ", free, " (", reason,
                                                     "); free space, raise the quota, or give another --out"));
  }
  return status.ok() ? status : absl::Status(status.code(), absl::StrCat(Quoted(folder), ": ", reason));
}

}  // namespace

absl::StatusOr<RunFolder> RunFolder::Open(Communicator& world, const std::string& path) {
  RunFolder folder{.path = path};
  absl::StatusOr<std::string> made = std::string();
  if (world.rank() == 0) made = MakeRunFolder(folder);
  RETURN_IF_ERROR(AgreeStatus(world, made.status()));
  // World: both ids are rank 0's.
  const std::string mine = world.rank() == 0 ? absl::StrCat(*made, " ", NewId()) : "";
  const std::vector<std::string> ids =
      absl::StrSplit(world.AllGatherBytes(mine, {.tag = "run id", .control = true})[0], ' ');
  folder.run_id = ids[0];
  folder.attempt = ids[1];

  const absl::StatusOr<std::string> seen = ReadWholeFile(JoinPath(path, "run_id"), kMaxIdFileBytes);
  absl::Status shared = seen.status();
  if (seen.ok() && *seen != folder.run_id + "\n") shared = absl::FailedPreconditionError("it holds another run");
  if (!shared.ok()) {
    shared = absl::FailedPreconditionError(absl::StrCat("run folder ", Quoted(path),
                                                        " is not the one rank 0 made: ", std::string(shared.message()),
                                                        "; it must lie on a file system that all nodes share"));
  }
  RETURN_IF_ERROR(AgreeStatus(world, shared));
  return folder;
}

absl::Status RunFolder::RehearseCheckpoint(Communicator& world, int64_t checkpoint_bytes) const {
  absl::Status rehearsed;
  if (world.rank() == 0) rehearsed = Rehearse(checkpoints(), checkpoint_bytes + kSpareBytes);
  return AgreeStatus(world, rehearsed);
}

absl::Status RunFolder::WriteConfig(const std::string& text) const {
  return AtomicWriteFile(PosixFileSystem(), JoinPath(path, "config.textproto"), text);
}

}  // namespace shardit
