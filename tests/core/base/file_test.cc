#include "core/base/file.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

namespace shardit {
namespace {

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/shardit_file_test_XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    root_ = pattern;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(PosixFileSystem(), root_).ok()); }
  std::string At(const std::string& name) const { return JoinPath(root_, name); }

  std::string root_;
};

TEST_F(FileTest, PathsJoinAndSplit) {
  EXPECT_EQ(JoinPath("a", "b"), "a/b");
  EXPECT_EQ(JoinPath("a/", "b"), "a/b");
  EXPECT_EQ(ParentFolder("a/b"), "a");
  EXPECT_EQ(ParentFolder("a/b/"), "a");
  EXPECT_EQ(ParentFolder("/b"), "/");
  EXPECT_EQ(ParentFolder("b"), ".");
}

TEST_F(FileTest, AtomicWriteReplacesAndLeavesNothingElse) {
  ASSERT_TRUE(AtomicWriteFile(PosixFileSystem(), At("x"), "old").ok());
  ASSERT_TRUE(AtomicWriteFile(PosixFileSystem(), At("x"), "new content").ok());
  EXPECT_EQ(ReadWholeFile(At("x"), 100).value(), "new content");
  EXPECT_EQ(ListFolder(root_)->size(), 1u);
  EXPECT_EQ(ReadWholeFile(At("x"), 5).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(FileTest, ReadingPastTheEndIsDataLoss) {
  ASSERT_TRUE(AtomicWriteFile(PosixFileSystem(), At("x"), "12345678").ok());
  const auto file = RandomAccessFile::Open(At("x"));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->size(), 8);
  char buffer[8];
  EXPECT_TRUE(file->ReadAt(4, buffer, 4).ok());
  EXPECT_EQ(std::string(buffer, 4), "5678");
  EXPECT_EQ(file->ReadAt(4, buffer, 5).code(), absl::StatusCode::kDataLoss);
}

TEST_F(FileTest, OnlyRegularFilesOpen) {
  EXPECT_EQ(RandomAccessFile::Open(At("missing")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(RandomAccessFile::Open(root_).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(mkfifo(At("fifo").c_str(), 0600), 0);
  EXPECT_EQ(RandomAccessFile::Open(At("fifo")).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(AtomicWriteFile(PosixFileSystem(), At("x"), "x").ok());
  ASSERT_EQ(symlink("x", At("link").c_str()), 0);
  EXPECT_TRUE(RandomAccessFile::Open(At("link")).ok());
  EXPECT_EQ(RandomAccessFile::Open(At("link"), RandomAccessFile::Links::kRefuse).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(FileTest, FullDiskIsNamed) {
  const auto full = PosixFileSystem().Create("/dev/full");
  if (!full.ok()) GTEST_SKIP() << "no /dev/full here";
  const absl::Status status = (*full)->WriteAt(0, "abc", 3);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_NE(std::string(status.message()).find("/dev/full"), std::string::npos);
}

TEST_F(FileTest, FoldersAreMadeListedAndRemovedWithoutFollowingLinks) {
  ASSERT_TRUE(MakeFolders(PosixFileSystem(), At("a/b/c")).ok());
  ASSERT_TRUE(MakeFolders(PosixFileSystem(), At("a/b/c")).ok());
  ASSERT_TRUE(AtomicWriteFile(PosixFileSystem(), At("keep"), "kept").ok());
  ASSERT_EQ(symlink(root_.c_str(), At("a/b/link").c_str()), 0);
  EXPECT_EQ(MakeFolders(PosixFileSystem(), At("keep/below")).code(), absl::StatusCode::kAlreadyExists);

  const auto entries = ListFolder(At("a/b"));
  ASSERT_TRUE(entries.ok());
  ASSERT_EQ(entries->size(), 2u);
  EXPECT_EQ((*entries)[0].name, "c");
  EXPECT_EQ((*entries)[0].kind, PathKind::kFolder);
  EXPECT_EQ((*entries)[1].kind, PathKind::kOther);

  ASSERT_TRUE(RemoveTree(PosixFileSystem(), At("a")).ok());
  EXPECT_EQ(KindOfPath(At("a")), PathKind::kMissing);
  EXPECT_EQ(ReadWholeFile(At("keep"), 10).value(), "kept");
}

TEST_F(FileTest, ExchangeSwapsFolders) {
  ASSERT_TRUE(MakeFolders(PosixFileSystem(), At("a")).ok());
  ASSERT_TRUE(MakeFolders(PosixFileSystem(), At("b")).ok());
  ASSERT_TRUE(AtomicWriteFile(PosixFileSystem(), At("a/x"), "from a").ok());
  const absl::Status status = PosixFileSystem().Exchange(At("a"), At("b"));
  if (absl::IsUnimplemented(status)) GTEST_SKIP() << status;
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(ReadWholeFile(At("b/x"), 10).value(), "from a");
}

TEST_F(FileTest, FreeSpaceIsKnown) {
  EXPECT_GT(FreeBytes(root_).value(), 0);
  EXPECT_FALSE(FreeBytes(At("missing")).ok());
}

TEST_F(FileTest, NamesInMessagesAreEscaped) { EXPECT_EQ(Quoted("a\x1b[2J"), "'a\\x1b[2J'"); }

// Returns how many passages of "point" a child survived before SIGKILL, or -1 if it was not killed.
int PassagesBeforeKill(const char* variable) {
  int counter[2];
  if (pipe(counter) != 0) return -2;
  const pid_t child = fork();
  if (child == 0) {
    setenv("SHARDIT_KILL_POINT", variable, 1);
    for (int i = 0; i < 5; ++i) {
      KillPoint("other");
      KillPoint("point");
      if (write(counter[1], "x", 1) != 1) _exit(2);
    }
    _exit(0);
  }
  close(counter[1]);
  char buffer[16];
  int passages = 0;
  for (ssize_t got; (got = read(counter[0], buffer, sizeof(buffer))) > 0;) passages += static_cast<int>(got);
  close(counter[0]);
  int result = 0;
  waitpid(child, &result, 0);
  return WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL ? passages : -1;
}

TEST_F(FileTest, KillPointsKillAtTheNamedPassage) {
  EXPECT_EQ(PassagesBeforeKill("point"), 0);
  EXPECT_EQ(PassagesBeforeKill("point:3"), 2);
  EXPECT_EQ(PassagesBeforeKill("point:9"), -1);
  EXPECT_EQ(PassagesBeforeKill("nothing"), -1);
}

}  // namespace
}  // namespace shardit
