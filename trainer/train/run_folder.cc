#include "trainer/train/run_folder.h"

#include <unistd.h>

#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/status_macros.h"
#include "parallel/comm/agree_status.h"
#include "trainer/checkpoint/checkpoint_names.h"

namespace shardit {
namespace {

constexpr int64_t kMaxIdFileBytes = 4096;

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

absl::Status RunFolder::WriteConfig(const std::string& text) const {
  return AtomicWriteFile(PosixFileSystem(), JoinPath(path, "config.textproto"), text);
}

}  // namespace shardit
