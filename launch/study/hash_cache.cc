#include "launch/study/hash_cache.h"

#include <sys/stat.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "data/dataset.h"

namespace shardit {
namespace {

absl::StatusOr<std::vector<std::string>> FilesAt(const std::string& path) {
  if (KindOfPath(path) != PathKind::kFolder) return MatchFiles(path);
  ASSIGN_OR_RETURN(const std::vector<FolderEntry> entries, ListFolder(path));
  std::vector<std::string> files;
  for (const FolderEntry& entry : entries) files.push_back(JoinPath(path, entry.name));
  return files;
}

std::string TimeText(const timespec& time) { return absl::StrCat(time.tv_sec, ".", time.tv_nsec); }

// Changes whenever a file does. The time of the last change of the inode is what no copying tool sets back.
absl::StatusOr<std::string> StateOf(const std::string& path) {
  ASSIGN_OR_RETURN(const std::vector<std::string> files, FilesAt(path));
  std::string state;
  for (const std::string& file : files) {
    struct stat info {};
    if (stat(file.c_str(), &info) != 0) return ErrnoStatus(errno, absl::StrCat("cannot read ", Quoted(file)));
    absl::StrAppend(&state, file, "|", info.st_size, "|", TimeText(info.st_mtim), "|", TimeText(info.st_ctim), "\n");
  }
  return state;
}

}  // namespace

absl::StatusOr<std::string> HashCache::Of(const std::string& path) {
  ASSIGN_OR_RETURN(std::string state, StateOf(path));
  std::lock_guard<std::mutex> lock(mutex_);
  const auto known = known_.find(path);
  if (known != known_.end() && known->second.state == state) return known->second.hash;
  ASSIGN_OR_RETURN(std::string hash, hash_(path));
  known_[path] = {std::move(state), hash};
  return hash;
}

}  // namespace shardit
