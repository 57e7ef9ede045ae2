#include "trainer/train/run_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <memory>

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

// Reserves `bytes` in the file. Unimplemented where the file system cannot; no fallback that writes them all, as
// posix_fallocate has: a checkpoint may be terabytes.
absl::Status Reserve(const std::string& path, int64_t bytes) {
  const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) return ErrnoStatus(errno, absl::StrCat("cannot create ", Quoted(path)));
  int error = 0;
  do {
    error = fallocate(descriptor, 0, 0, bytes) == 0 ? 0 : errno;
  } while (error == EINTR);
  close(descriptor);
  // EFBIG: more than one file may hold, which says nothing about many.
  if (error == EOPNOTSUPP || error == ENOSYS || error == EFBIG) return absl::UnimplementedError("cannot be reserved");
  if (error != 0) return ErrnoStatus(error, absl::StrCat("cannot reserve ", bytes, " bytes in ", Quoted(path)));
  return absl::OkStatus();
}

// Writes and syncs a little, as a save will.
absl::Status WriteALittle(const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, PosixFileSystem().Create(path));
  const std::string block(kRehearsedBytes, 'r');
  RETURN_IF_ERROR(file->WriteAt(0, block.data(), kRehearsedBytes));
  RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

absl::Status Rehearse(const std::string& folder, int64_t bytes) {
  const std::string path = JoinPath(folder, absl::StrCat("rehearsal.tmp-", getpid()));
  absl::Status status = Reserve(path, bytes);
  ASSIGN_OR_RETURN(const int64_t free, FreeBytes(folder));
  if (absl::IsUnimplemented(status)) {
    status = free >= bytes ? absl::OkStatus() : absl::ResourceExhaustedError("too few bytes are free");
  }
  if (status.ok()) status = WriteALittle(path);
  PosixFileSystem().RemoveFile(path).IgnoreError();
  if (!absl::IsResourceExhausted(status)) return status;
  return absl::ResourceExhaustedError(absl::StrCat(Quoted(folder), ": one checkpoint needs ", bytes,
                                                   " bytes, free are ", free, " (", std::string(status.message()),
                                                   "); free space, raise the quota, or give another --out"));
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
