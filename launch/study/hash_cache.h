// Hashes of files that are asked for again and again while they hardly ever change.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace shardit {

// Remembers a hash for as long as size and times of the file, or of every file of a folder or pattern, stay what they
// were when it was computed. Failures are not remembered: a file may come back. Thread-safe; who asks while a hash is
// computed waits, so no file is read twice.
class HashCache {
 public:
  // Of everything at a path: a file, a folder or a pattern for glob(7).
  using Hash = std::function<absl::StatusOr<std::string>(const std::string& path)>;

  explicit HashCache(Hash hash) : hash_(std::move(hash)) {}

  absl::StatusOr<std::string> Of(const std::string& path);

 private:
  struct Known {
    std::string state;  // of the files, before they were read
    std::string hash;
  };

  const Hash hash_;
  std::mutex mutex_;
  std::map<std::string, Known> known_;  // by path; guarded by mutex_
};

}  // namespace shardit
