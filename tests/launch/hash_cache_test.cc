#include "launch/study/hash_cache.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/temp_folder.h"

namespace shardit {
namespace {

class HashCacheTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = absl::StrCat(folder_, "/", name);
    std::ofstream(path) << text;
    return path;
  }

  const TempFolder temporary_;
  const std::string folder_ = temporary_.path();
  std::atomic<int> computed_{0};
  // Every hash is another one: its number.
  HashCache cache_{[this](const std::string&) -> absl::StatusOr<std::string> { return absl::StrCat(++computed_); }};
};

TEST_F(HashCacheTest, AFileIsReadOnceUntilItChanges) {
  const std::string path = Write("a", "one"), other = Write("b", "one");
  EXPECT_EQ(*cache_.Of(path), "1");
  EXPECT_EQ(*cache_.Of(other), "2");
  EXPECT_EQ(*cache_.Of(path), "1");
  Write("a", "three");
  EXPECT_EQ(*cache_.Of(path), "3");
  EXPECT_EQ(*cache_.Of(path), "3");
}

TEST_F(HashCacheTest, ReplacedBySomethingOfTheSameSizeAndTime) {
  const std::string path = Write("a", "one");
  const auto time = std::filesystem::last_write_time(path);
  EXPECT_EQ(*cache_.Of(path), "1");
  // Times of inodes advance with the kernel's ticks, of at most 10 ms.
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  Write("a", "two");
  std::filesystem::last_write_time(path, time);
  EXPECT_EQ(*cache_.Of(path), "2");
}

TEST_F(HashCacheTest, EveryFileOfAFolderOrPatternCounts) {
  Write("a.png", "one");
  const std::string pattern = absl::StrCat(folder_, "/*.png");
  EXPECT_EQ(*cache_.Of(folder_), "1");
  EXPECT_EQ(*cache_.Of(pattern), "2");
  Write("a.png", "three");
  EXPECT_EQ(*cache_.Of(folder_), "3");
  EXPECT_EQ(*cache_.Of(pattern), "4");
  Write("b.png", "one");
  EXPECT_EQ(*cache_.Of(folder_), "5");
  EXPECT_EQ(*cache_.Of(pattern), "6");
  EXPECT_EQ(*cache_.Of(folder_), "5");
  EXPECT_EQ(*cache_.Of(pattern), "6");
}

TEST_F(HashCacheTest, AMissingFileMayComeBack) {
  const std::string path = absl::StrCat(folder_, "/a");
  EXPECT_FALSE(cache_.Of(path).ok());
  EXPECT_EQ(computed_, 0);
  Write("a", "one");
  EXPECT_EQ(*cache_.Of(path), "1");
}

TEST_F(HashCacheTest, ManyAskForOneFile) {
  const std::string path = Write("a", "one");
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back([&] { EXPECT_EQ(*cache_.Of(path), "1"); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(computed_, 1);
}

}  // namespace
}  // namespace shardit
