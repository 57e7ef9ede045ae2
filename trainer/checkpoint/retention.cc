#include "trainer/checkpoint/retention.h"

#include <algorithm>

#include "core/base/status_macros.h"
#include "trainer/checkpoint/checkpoint_names.h"
#include "trainer/checkpoint/checkpoint_reader.h"

namespace shardit {

std::vector<int64_t> StepsToRemove(std::span<const int64_t> steps, int64_t newest, const Retention& retention) {
  std::vector<int64_t> removed;
  const size_t keep = static_cast<size_t>(std::max<int64_t>(retention.keep_last, 1));
  if (retention.keep_last == 0 || steps.size() <= keep) return removed;
  for (const int64_t step : steps.first(steps.size() - keep)) {
    const bool milestone = retention.keep_every > 0 && step % retention.keep_every == 0;
    if (!milestone && step != newest) removed.push_back(step);
  }
  return removed;
}

absl::StatusOr<std::vector<int64_t>> ApplyRetention(FileSystem& fs, const std::string& checkpoints,
                                                    const std::string& run_id, const std::string& attempt,
                                                    int64_t newest, const Retention& retention) {
  if (retention.keep_last == 0) return std::vector<int64_t>();
  ASSIGN_OR_RETURN(const std::vector<CommittedCheckpoint> all, ListCheckpoints(checkpoints));
  std::vector<int64_t> steps;
  for (const CommittedCheckpoint& checkpoint : all) {
    if (checkpoint.step > newest) continue;
    const auto reader = CheckpointReader::Open(checkpoint.folder);
    if (reader.ok() && reader->state().run_id == run_id) steps.push_back(checkpoint.step);
  }
  const std::vector<int64_t> removed = StepsToRemove(steps, newest, retention);
  for (const int64_t step : removed) {
    const std::string doomed = JoinPath(checkpoints, TempFolderName(step, run_id, attempt));
    RETURN_IF_ERROR(fs.Rename(JoinPath(checkpoints, StepFolderName(step)), doomed));
    RETURN_IF_ERROR(fs.SyncFolder(checkpoints));
    KillPoint("checkpoint.retention_renamed");
    RETURN_IF_ERROR(RemoveTree(fs, doomed));
    KillPoint("checkpoint.retention_removed");
  }
  return removed;
}

absl::Status RemoveTempFolders(FileSystem& fs, const std::string& checkpoints, const std::string& run_id) {
  if (KindOfPath(checkpoints) == PathKind::kMissing) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<FolderEntry> entries, ListFolder(checkpoints));
  for (const FolderEntry& entry : entries) {
    const bool torn_save = IsTempFolderOfRun(entry.name, run_id);
    const bool torn_hint = entry.kind == PathKind::kFile && IsTempOfLatest(entry.name);
    if (torn_save) RETURN_IF_ERROR(RemoveTree(fs, JoinPath(checkpoints, entry.name)));
    if (torn_hint) RETURN_IF_ERROR(fs.RemoveFile(JoinPath(checkpoints, entry.name)));
  }
  return absl::OkStatus();
}

}  // namespace shardit
