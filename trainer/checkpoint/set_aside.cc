#include "trainer/checkpoint/set_aside.h"

#include "core/base/status_macros.h"
#include "trainer/checkpoint/checkpoint_names.h"
#include "trainer/checkpoint/checkpoint_reader.h"

namespace shardit {

absl::StatusOr<std::string> SetAside(FileSystem& fs, const std::string& checkpoints, int64_t step) {
  int64_t number = 1;
  while (KindOfPath(JoinPath(checkpoints, AsideFolderName(step, number))) != PathKind::kMissing) ++number;
  const std::string aside = JoinPath(checkpoints, AsideFolderName(step, number));
  RETURN_IF_ERROR(fs.Rename(JoinPath(checkpoints, StepFolderName(step)), aside));
  return aside;
}

absl::StatusOr<std::vector<std::string>> SetAsideNewer(FileSystem& fs, const std::string& checkpoints, int64_t step) {
  ASSIGN_OR_RETURN(const std::vector<CommittedCheckpoint> all, ListCheckpoints(checkpoints));
  std::vector<std::string> moved;
  for (const CommittedCheckpoint& checkpoint : all) {
    if (checkpoint.step <= step) continue;
    ASSIGN_OR_RETURN(const std::string aside, SetAside(fs, checkpoints, checkpoint.step));
    moved.push_back(aside);
  }
  if (!moved.empty()) RETURN_IF_ERROR(fs.SyncFolder(checkpoints));
  return moved;
}

}  // namespace shardit
