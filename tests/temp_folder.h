// A folder for the files of one test.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <iterator>
#include <string>

#include "core/base/file.h"

namespace shardit {

// No other test's, nor another process's; goes away with everything in it. In memory where there is room: tests sync
// often, which is slow on a busy disk.
class TempFolder {
 public:
  TempFolder() {
    constexpr int64_t kRoom = int64_t{1} << 30;  // for several tests at a time
    const std::string memory = "/dev/shm";
    const bool fits = access(memory.c_str(), W_OK) == 0 && FreeBytes(memory).value_or(0) >= kRoom;
    path_ = JoinPath(fits ? memory : testing::TempDir(), "shardit_test_XXXXXX");
    EXPECT_NE(mkdtemp(path_.data()), nullptr) << path_;
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() { std::filesystem::remove_all(path_); }

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return JoinPath(path_, name); }
  int64_t Entries() const { return std::distance(std::filesystem::directory_iterator(path_), {}); }

 private:
  std::string path_;
};

}  // namespace shardit
