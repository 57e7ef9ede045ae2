// What survives: kills at every named point, power cuts after every file operation, full disks, broken devices, and
// damage at random places. Each ends in the old state or the new one, whole.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <random>
#include <set>

#include "core/base/crc32c.h"
#include "tests/trainer/checkpoint_store_testing.h"
#include "trainer/checkpoint/checkpoint_names.h"

namespace shardit {
namespace {

using namespace checkpoint_testing;  // NOLINT: test vocabulary

constexpr int64_t kOld = 200, kNew = 400;

void CopyFolder(const std::string& from, const std::string& to) {
  std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
}

// The newest good checkpoint is kOld or kNew, all of it is right, and no folder with a committed name is bad.
testing::AssertionResult OldOrNew(const std::string& checkpoints, bool* is_new) {
  auto found = FindNewestCheckpoint(checkpoints);
  if (!found.ok()) return testing::AssertionFailure() << found.status();
  if (!found->skipped.empty()) return testing::AssertionFailure() << "bad folder: " << found->skipped[0];
  if (!found->reader) return testing::AssertionFailure() << "no checkpoint is left";
  *is_new = found->reader->state().step == kNew;
  const auto all = ListCheckpoints(checkpoints);
  for (const CommittedCheckpoint& checkpoint : *all) {
    const auto reader = CheckpointReader::Open(checkpoint.folder);
    if (!reader.ok()) return testing::AssertionFailure() << reader.status();
    const std::vector<absl::Status> errors = reader->Verify();
    if (!errors.empty()) return testing::AssertionFailure() << errors[0];
  }
  return HoldsStep(*found->reader, *is_new ? kNew : kOld);
}

// A child saves step kNew with retention 1 and is killed at `point`. True if it was killed, false if it ended by
// itself.
bool KilledWhileSaving(const std::string& checkpoints, const std::string& point) {
  const pid_t child = fork();
  if (child == 0) {
    setenv("SHARDIT_KILL_POINT", point.c_str(), 1);
    const bool saved = SaveStep(checkpoints, kNew, {.retention = {1, 0}, .attempt = "2"}).ok();
    _exit(saved ? 0 : 1);
  }
  int result = 0;
  waitpid(child, &result, 0);
  EXPECT_TRUE(WIFSIGNALED(result) || (WIFEXITED(result) && WEXITSTATUS(result) == 0)) << point;
  return WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL;
}

TEST(CheckpointCrash, KillsAtEveryNamedPointLeaveOldOrNew) {
  TempFolder folder;
  ASSERT_TRUE(SaveStep(folder / "before", kOld).ok());
  std::vector<std::string> points;
  for (const absl::string_view point : kSaveKillPoints) points.emplace_back(point);
  points.push_back("checkpoint.slice_written:17");  // in the middle of a shard
  points.push_back("checkpoint.shard_written:2");
  bool was_new = false;
  int kills_before_commit = 0, kills_after = 0;
  for (const std::string& point : points) {
    const std::string checkpoints = folder / point;
    CopyFolder(folder / "before", checkpoints);
    ASSERT_TRUE(KilledWhileSaving(checkpoints, point)) << point;
    bool is_new = false;
    ASSERT_TRUE(OldOrNew(checkpoints, &is_new)) << point;
    ++(is_new ? kills_after : kills_before_commit);
    if (point == "checkpoint.committed") was_new = is_new;
    // The next start cleans up, saves again, and nothing of the crash is left.
    ASSERT_TRUE(SaveStep(checkpoints, kNew, {.retention = {1, 0}, .attempt = "3"}).ok()) << point;
    ASSERT_TRUE(OldOrNew(checkpoints, &is_new)) << point;
    EXPECT_TRUE(is_new);
    EXPECT_EQ(ListFolder(checkpoints)->size(), 2u) << point;
  }
  EXPECT_TRUE(was_new);  // what Save has committed is there
  EXPECT_GE(kills_before_commit, 5);
  EXPECT_GE(kills_after, 5);
  EXPECT_FALSE(KilledWhileSaving(folder / "before", "checkpoint.no_such_point"));
}

// The disk as a tree of inodes, each with what is live (what a process sees) and what is durable (what fsync promised).
class DiskModel {
 public:
  enum class Survivor {
    kEverything,        // the kernel had written all of it
    kOnlySynced,        // nothing beyond the promises: unsynced names and data are gone
    kNamesWithoutData,  // names reached the disk, unsynced file data did not (files are cut short)
    kNamesHalfData,     // as before, with the first half of the data
    kInnerFirst,  // changes inside checkpoints reached the disk, unsynced ones to the folder of checkpoints did not
  };

  explicit DiskModel(std::string root) : root_(std::move(root)), top_(std::make_shared<Inode>()) {
    top_->is_folder = true;
  }

  void Apply(const FileOperation& operation) {
    using Kind = FileOperation::Kind;
    switch (operation.kind) {
      case Kind::kCreate:
        Parent(operation.path)->live[Name(operation.path)] = std::make_shared<Inode>();
        break;
      case Kind::kMakeFolder:
        Parent(operation.path)->live[Name(operation.path)] = std::make_shared<Inode>();
        At(operation.path)->is_folder = true;
        break;
      case Kind::kWrite: {
        std::string& data = At(operation.path)->data;
        data.resize(std::max(data.size(), static_cast<size_t>(operation.offset) + operation.data.size()));
        data.replace(static_cast<size_t>(operation.offset), operation.data.size(), operation.data);
        break;
      }
      case Kind::kSync:
        At(operation.path)->durable_data = At(operation.path)->data;
        break;
      case Kind::kSyncFolder:
        At(operation.path)->durable = At(operation.path)->live;
        break;
      case Kind::kRename: {
        const std::shared_ptr<Inode> moved = At(operation.path);
        Parent(operation.path)->live.erase(Name(operation.path));
        Parent(operation.other)->live[Name(operation.other)] = moved;
        break;
      }
      case Kind::kExchange:
        std::swap(Parent(operation.path)->live[Name(operation.path)],
                  Parent(operation.other)->live[Name(operation.other)]);
        break;
      case Kind::kRemoveFile:
      case Kind::kRemoveFolder:
        Parent(operation.path)->live.erase(Name(operation.path));
        break;
    }
  }

  // Writes what a machine would find after the cut into folder `out`.
  void Materialise(Survivor survivor, const std::string& out) const { Write(*top_, survivor, 0, out); }

 private:
  struct Inode {
    bool is_folder = false;
    std::string data, durable_data;
    std::map<std::string, std::shared_ptr<Inode>> live, durable;
  };

  static std::string Name(const std::string& path) { return std::filesystem::path(path).filename(); }
  std::shared_ptr<Inode> Parent(const std::string& path) const { return At(ParentFolder(path)); }
  std::shared_ptr<Inode> At(const std::string& path) const {
    std::shared_ptr<Inode> inode = top_;
    for (const auto& part : std::filesystem::path(path).lexically_relative(root_)) {
      if (part != ".") inode = inode->live.at(part);
    }
    return inode;
  }

  // `depth` 0 is the root, 1 the folder of checkpoints.
  static void Write(const Inode& inode, Survivor survivor, int depth, const std::string& out) {
    if (inode.is_folder) {
      std::filesystem::create_directory(out);
      const bool durable = survivor == Survivor::kOnlySynced || (survivor == Survivor::kInnerFirst && depth <= 1);
      for (const auto& [name, child] : durable ? inode.durable : inode.live) {
        Write(*child, survivor, depth + 1, JoinPath(out, name));
      }
      return;
    }
    std::string data = inode.durable_data;
    if (survivor == Survivor::kEverything) data = inode.data;
    if (survivor == Survivor::kNamesHalfData && data != inode.data) data = inode.data.substr(0, inode.data.size() / 2);
    std::ofstream(out, std::ios::binary) << data;
  }

  std::string root_;
  std::shared_ptr<Inode> top_;
};

TEST(CheckpointCrash, PowerCutsAfterEveryOperationLeaveOldOrNew) {
  TempFolder folder;
  FaultFileSystem fs;
  ASSERT_TRUE(SaveStep(folder / "run", kOld, {.fs = &fs}).ok());
  const size_t before = fs.log().size();
  const auto saved = SaveStep(folder / "run", kNew, {.retention = {1, 0}, .fs = &fs, .attempt = "2"});
  ASSERT_TRUE(saved.ok()) << saved.status();
  ASSERT_EQ(saved->removed, std::vector<int64_t>{kOld});
  const std::vector<FileOperation> log = fs.log();

  using Survivor = DiskModel::Survivor;
  for (const Survivor survivor : {Survivor::kEverything, Survivor::kOnlySynced, Survivor::kNamesWithoutData,
                                  Survivor::kNamesHalfData, Survivor::kInnerFirst}) {
    DiskModel disk(folder.path());
    int states_old = 0, states_new = 0;
    bool seen_new = false;
    for (size_t done = 0; done <= log.size(); ++done) {
      if (done > 0) disk.Apply(log[done - 1]);
      if (done < before) continue;
      const std::string out = folder / "after_cut";
      std::filesystem::remove_all(out);
      disk.Materialise(survivor, out);
      bool is_new = false;
      ASSERT_TRUE(OldOrNew(JoinPath(out, "run"), &is_new))
          << "after " << done << " operations of " << log.size() << ", survivor " << static_cast<int>(survivor);
      ++(is_new ? states_new : states_old);
      EXPECT_TRUE(is_new || !seen_new) << "the new state came and went at " << done;
      seen_new = seen_new || is_new;
    }
    EXPECT_TRUE(seen_new);  // a save that returned Ok survives the cut
    EXPECT_GT(states_old, 10);
    EXPECT_GT(states_new, 10);
  }
}

TEST(CheckpointCrash, AFullDiskLosesNothing) {
  TempFolder folder;
  ASSERT_TRUE(SaveStep(folder / "run", kOld).ok());
  int64_t total = 0;
  {
    FaultFileSystem fs;
    CopyFolder(folder / "run", folder / "measure");
    ASSERT_TRUE(SaveStep(folder / "measure", kNew, {.fs = &fs}).ok());
    for (const FileOperation& operation : fs.log()) total += static_cast<int64_t>(operation.data.size());
  }
  int failed = 0;
  for (int i = 0; i < 32; ++i) {
    FaultFileSystem fs;
    fs.bytes_left = total * i / 31;
    const auto saved = SaveStep(folder / "run", kNew, {.fs = &fs});
    bool is_new = false;
    ASSERT_TRUE(OldOrNew(folder / "run", &is_new)) << fs.bytes_left;
    EXPECT_EQ(is_new, saved.ok());
    if (saved.ok()) break;
    ++failed;
    EXPECT_EQ(saved.status().code(), absl::StatusCode::kResourceExhausted) << saved.status();
    EXPECT_EQ(ListFolder(folder / "run")->size(), 2u);  // the space was given back: old folder and `latest`
  }
  EXPECT_GE(failed, 20);
}

TEST(CheckpointCrash, ABrokenDeviceAtAnyOperationLeavesOldOrNew) {
  for (const bool only_syncs : {true, false}) {
    TempFolder folder;
    ASSERT_TRUE(SaveStep(folder / "before", kOld).ok());
    int errors = 0;
    for (int64_t k = 0;; ++k) {
      const std::string checkpoints = folder / absl::StrCat("run", k);
      CopyFolder(folder / "before", checkpoints);
      FaultFileSystem fs;
      fs.fail_operation = k;
      fs.fail_only_syncs = only_syncs;
      const auto saved = SaveStep(checkpoints, kNew, {.world = 1, .retention = {1, 0}, .fs = &fs});
      bool is_new = false;
      ASSERT_TRUE(OldOrNew(checkpoints, &is_new)) << "operation " << k;
      if (saved.ok()) {
        EXPECT_TRUE(is_new);
        if (saved->warnings.empty()) break;  // k is past the last operation
        continue;
      }
      ++errors;
      EXPECT_EQ(saved.status().code(), absl::StatusCode::kUnavailable) << saved.status();
      EXPECT_NE(std::string(saved.status().message()).find("nput/output error"), std::string::npos);
    }
    EXPECT_GE(errors, only_syncs ? 4 : 9);
  }
}

std::vector<std::string> FilesOf(const std::string& checkpoint) {
  std::vector<std::string> files;
  const auto entries = ListFolder(checkpoint);
  for (const FolderEntry& entry : *entries) files.push_back(JoinPath(checkpoint, entry.name));
  return files;
}

// Every damaged byte is found by opening or verifying, the message names the file, and reading never returns wrong
// numbers.
void ExpectDamageFound(const std::string& checkpoints, const std::string& damaged_file, const std::string& what) {
  const auto found = FindNewestCheckpoint(checkpoints);
  ASSERT_TRUE(found.ok() && found->reader) << what;
  const std::string name = std::filesystem::path(damaged_file).filename();
  if (found->reader->state().step == kOld) {
    ASSERT_EQ(found->skipped.size(), 1u) << what;
    EXPECT_NE(found->skipped[0].find(name == kManifestFile ? "manifest" : name), std::string::npos)
        << what << ": " << found->skipped[0];
    return;
  }
  const std::vector<absl::Status> errors = found->reader->Verify();
  ASSERT_FALSE(errors.empty()) << what;
  EXPECT_NE(std::string(errors[0].message()).find(name), std::string::npos) << what << ": " << errors[0];
  const testing::AssertionResult held = HoldsStep(*found->reader, kNew);
  // Damage in a shard's header harms no number; elsewhere the read must fail by its CRC.
  if (!held) {
    EXPECT_NE(std::string(held.message()).find("CRC32C"), std::string::npos) << what << ": " << held.message();
  }
  const auto fallback = FindNewestCheckpoint(checkpoints, kNew);
  ASSERT_TRUE(fallback.ok() && fallback->reader);
  EXPECT_TRUE(HoldsStep(*fallback->reader, kOld));
}

TEST(CheckpointCrash, BitFlipsAnywhereAreFoundAndNamed) {
  TempFolder folder;
  ASSERT_TRUE(SaveStep(folder.path(), kOld).ok());
  ASSERT_TRUE(SaveStep(folder.path(), kNew, {.world = 3}).ok());
  std::mt19937 random(11);
  const std::vector<std::string> files = FilesOf(folder / StepFolderName(kNew));
  ASSERT_EQ(files.size(), 4u);
  for (int round = 0; round < 200; ++round) {
    const std::string& file = files[random() % files.size()];
    const int64_t at = static_cast<int64_t>(random() % std::filesystem::file_size(file));
    const char mask = static_cast<char>(1 << random() % 8);
    const auto flip = [&] {
      std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
      stream.seekg(at);
      const char byte = static_cast<char>(stream.get());
      stream.seekp(at);
      stream.put(static_cast<char>(byte ^ mask));
    };
    flip();
    ExpectDamageFound(folder.path(), file, absl::StrCat(file, " byte ", at, " mask ", static_cast<int>(mask)));
    flip();
  }
  bool is_new = false;
  EXPECT_TRUE(OldOrNew(folder.path(), &is_new));  // all flips were undone: the test itself damaged nothing else
  EXPECT_TRUE(is_new);
}

TEST(CheckpointCrash, TruncationsAnywhereAreFoundAndNamed) {
  TempFolder folder;
  ASSERT_TRUE(SaveStep(folder.path(), kOld).ok());
  ASSERT_TRUE(SaveStep(folder.path(), kNew, {.world = 3}).ok());
  std::mt19937 random(12);
  const std::vector<std::string> files = FilesOf(folder / StepFolderName(kNew));
  for (int round = 0; round < 100; ++round) {
    const std::string& file = files[random() % files.size()];
    const std::string content = ReadWholeFile(file, 1 << 20).value();
    const size_t size = random() % (content.size() + 50);
    if (size == content.size()) continue;
    std::filesystem::resize_file(file, size);
    ExpectDamageFound(folder.path(), file, absl::StrCat(file, " cut to ", size));
    std::ofstream(file, std::ios::binary) << content;
  }
  bool is_new = false;
  EXPECT_TRUE(OldOrNew(folder.path(), &is_new) && is_new);
}

// A manifest whose CRC is right but whose content lies: as a hostile author would make it.
TEST(CheckpointCrash, LyingManifestsAreRefused) {
  TempFolder folder;
  ASSERT_TRUE(SaveStep(folder.path(), kNew, {.world = 2}).ok());
  const std::string path = folder / "0000400/MANIFEST";
  const auto good = DecodeManifest(ReadWholeFile(path, 1 << 20).value());
  ASSERT_TRUE(good.ok()) << good.status();
  ASSERT_EQ(EncodeManifest(*good), ReadWholeFile(path, 1 << 20).value());
  const std::vector<std::pair<const char*, std::function<void(Manifest*)>>> lies = {
      {"is called", [](Manifest* m) { m->shards[0].file = "../../etc/passwd"; }},
      {"is called", [](Manifest* m) { m->shards[1].file = m->shards[0].file; }},
      {"shard list", [](Manifest* m) { m->shards.clear(); }},
      {"header of", [](Manifest* m) { m->shards[0].header_bytes = -1; }},
      {"header of", [](Manifest* m) { m->shards[0].header_bytes = m->shards[0].file_bytes + 1; }},
      {"leaves its shard", [](Manifest* m) { m->tensors[0].slices[0].begin = int64_t{1} << 62; }},
      {"leaves its shard", [](Manifest* m) { m->tensors[0].slices[0].begin = -8; }},
      {"which is not there", [](Manifest* m) { m->tensors[0].slices[0].shard = 2; }},
      {"which is not there", [](Manifest* m) { m->tensors[0].slices[0].shard = -1; }},
      {"leaves its tensor", [](Manifest* m) { m->tensors[0].slices[0].box.extent[0] = INT64_MAX; }},
      {"leaves its tensor", [](Manifest* m) { m->tensors[0].slices[0].box.offset[0] = -1; }},
      {"leaves its tensor", [](Manifest* m) { m->tensors[0].slices[0].box.extent[0] = 0; }},
      {"another rank", [](Manifest* m) { m->tensors[0].slices[0].box.extent.push_back(1); }},
      {"hole", [](Manifest* m) { m->tensors[0].slices.pop_back(); }},
      {"overlap", [](Manifest* m) { m->tensors[0].slices.push_back(m->tensors[0].slices[0]); }},
      {"out of range",
       [](Manifest* m) {
         m->tensors[0].shape = {1 << 30, 1 << 30, 1 << 30};
       }},
      {"out of range", [](Manifest* m) { m->tensors[0].shape = {1, 1, 1, 1, 1, 1, 1}; }},
      {"out of range", [](Manifest* m) { m->tensors[0].shape[0] = 0; }},
      {"block CRCs", [](Manifest* m) { m->tensors[0].slices[0].block_crcs.clear(); }},
      {"there twice", [](Manifest* m) { m->tensors.push_back(m->tensors.back()); }},
      {"control characters", [](Manifest* m) { m->tensors[0].name = "\x1b[2J"; }},
      {"do not cover shard", [](Manifest* m) { m->tensors.pop_back(); }},
      {"do not cover shard", [](Manifest* m) { m->shards[1].file_bytes += 4; }},
      {"run id", [](Manifest* m) { m->state.run_id = "../x"; }},
      {"negative", [](Manifest* m) { m->state.images_seen = -1; }},
  };
  for (const auto& [expected, lie] : lies) {
    Manifest manifest = *good;
    lie(&manifest);
    std::ofstream(path, std::ios::binary) << EncodeManifest(manifest);
    const auto reader = CheckpointReader::Open(folder / "0000400");
    ASSERT_FALSE(reader.ok()) << expected;
    EXPECT_NE(std::string(reader.status().message()).find(expected), std::string::npos)
        << expected << ": " << reader.status();
  }
}

// Any payload under a right CRC is refused or describes bytes inside the shards: reading it never crashes.
TEST(CheckpointCrash, MutatedManifestsAreSurvived) {
  TempFolder folder;
  ASSERT_TRUE(SaveStep(folder.path(), kNew, {.world = 2}).ok());
  const std::string path = folder / "0000400/MANIFEST";
  const std::string good = ReadWholeFile(path, 1 << 20).value();
  std::mt19937 random(13);
  int accepted = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string mutant = good;
    for (unsigned k = 0; k < 1 + random() % 3; ++k) {
      // Past magic and length, before the CRC: the payload.
      mutant[16 + random() % (mutant.size() - 20)] = static_cast<char>(random() % 2 != 0 ? random() : 0xff);
    }
    const uint32_t crc = Crc32c(mutant.data(), mutant.size() - 4);
    mutant.replace(mutant.size() - 4, 4, reinterpret_cast<const char*>(&crc), 4);
    const auto manifest = DecodeManifest(mutant);
    if (!manifest.ok()) continue;
    ++accepted;
    std::ofstream(path, std::ios::binary) << mutant;
    const auto reader = CheckpointReader::Open(folder / "0000400");
    if (reader.ok()) reader->Verify();
  }
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace shardit
