// Finding and opening libraries, with a copy of zlib under other names and made-up Python environments.
#include "core/cuda/shared_library.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shardit::cuda {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* text = getenv(name); text != nullptr) before_ = text;
    setenv(name, value.c_str(), 1);
  }
  ~Variable() { before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

class SharedLibraryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "shared_library_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = fs::canonical(pattern);
  }
  void TearDown() override { fs::remove_all(root_); }

  // A library that has zlibVersion.
  fs::path PutLibrary(const fs::path& folder, const std::string& name) {
    Dl_info info;
    EXPECT_NE(dladdr(reinterpret_cast<void*>(&zlibVersion), &info), 0);
    fs::create_directories(root_ / folder);
    fs::copy_file(fs::canonical(info.dli_fname), root_ / folder / name);
    return root_ / folder / name;
  }
  bool Listed(const fs::path& folder) const {
    const std::vector<std::string> folders = LibraryFolders();
    return std::count(folders.begin(), folders.end(), (root_ / folder).string()) == 1;
  }

  fs::path root_;
};

constexpr const char* kNames[] = {"libshardit_test.so.2", "libshardit_test.so.1"};

TEST_F(SharedLibraryTest, OpensWhatTheVariableNames) {
  const fs::path file = PutLibrary("set", "libshardit_test.so.1");
  const Variable variable("SHARDIT_CUDA_LIBRARIES", (root_ / "none").string() + ":" + (root_ / "set").string());
  const absl::StatusOr<SharedLibrary> library = SharedLibrary::Open(kNames);
  ASSERT_TRUE(library.ok()) << library.status();
  EXPECT_EQ(library->path(), file.string());

  const char* (*version)() = nullptr;
  ASSERT_TRUE(library->Load("zlibVersion", version).ok());
  EXPECT_STREQ(version(), zlibVersion());
  const absl::Status missing = library->Load("shardit_no_such_function", version);
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(missing.message(), HasSubstr("shardit_no_such_function"));
  EXPECT_THAT(missing.message(), HasSubstr(file.string()));
}

TEST_F(SharedLibraryTest, PrefersTheFirstName) {
  PutLibrary("set", "libshardit_test.so.1");
  const fs::path second = PutLibrary("set", "libshardit_test.so.2");
  const Variable variable("SHARDIT_CUDA_LIBRARIES", (root_ / "set").string());
  const absl::StatusOr<SharedLibrary> library = SharedLibrary::Open(kNames);
  ASSERT_TRUE(library.ok()) << library.status();
  EXPECT_EQ(library->path(), second.string());
}

TEST_F(SharedLibraryTest, LooksIntoPythonEnvironments) {
  const fs::path file = PutLibrary("venv/lib/python3.11/site-packages/nvidia/cu13/lib", "libshardit_test.so.2");
  fs::create_directories(root_ / "base/lib/python3.12/site-packages/nvidia/nccl/lib");
  fs::create_directories(root_ / "base/bin");
  fs::create_directories(root_ / "linked/bin");
  std::ofstream(root_ / "base/bin/python3.12") << "#!/bin/sh\n";
  fs::create_symlink(root_ / "base/bin/python3.12", root_ / "linked/bin/python3");
  const Variable folders("SHARDIT_CUDA_LIBRARIES", "");
  EXPECT_FALSE(Listed("venv/lib/python3.11/site-packages/nvidia/cu13/lib"));
  EXPECT_FALSE(Listed("base/lib/python3.12/site-packages/nvidia/nccl/lib"));

  const Variable environment("VIRTUAL_ENV", (root_ / "venv").string());
  const Variable path("PATH", (root_ / "linked/bin").string() + ":/usr/bin");
  EXPECT_TRUE(Listed("venv/lib/python3.11/site-packages/nvidia/cu13/lib"));
  EXPECT_TRUE(Listed("base/lib/python3.12/site-packages/nvidia/nccl/lib"));
  const absl::StatusOr<SharedLibrary> library = SharedLibrary::Open(kNames);
  ASSERT_TRUE(library.ok()) << library.status();
  EXPECT_EQ(library->path(), file.string());
}

TEST_F(SharedLibraryTest, SaysWhereItLookedAndWhatToSet) {
  const Variable variable("SHARDIT_CUDA_LIBRARIES", (root_ / "empty").string());
  const absl::Status status = SharedLibrary::Open(kNames).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("libshardit_test.so.2 or libshardit_test.so.1"));
  EXPECT_THAT(status.message(), HasSubstr((root_ / "empty").string()));
  EXPECT_THAT(status.message(), HasSubstr("SHARDIT_CUDA_LIBRARIES=DIR"));
}

TEST_F(SharedLibraryTest, TellsABrokenLibraryFromAMissingOne) {
  std::ofstream(root_ / "libshardit_test.so.1") << "not a library";
  const Variable variable("SHARDIT_CUDA_LIBRARIES", root_.string());
  const absl::Status status = SharedLibrary::Open(kNames).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr((root_ / "libshardit_test.so.1").string()));
}

}  // namespace
}  // namespace shardit::cuda
