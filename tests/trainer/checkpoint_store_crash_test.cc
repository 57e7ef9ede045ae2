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
    kOuterFirst,  // the other way round: a folder has its new name, what is in it is what was synced
    kAny,         // each unsynced name reached the disk or did not, each unsynced file whole, in part or not at all
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

  // Writes what a machine would find after the cut into folder `out`; `seed` decides for kAny.
  void Materialise(Survivor survivor, size_t seed, const std::string& out) const {
    std::mt19937 random(static_cast<std::mt19937::result_type>(seed));
    Write(*top_, survivor, 0, random, out);
  }

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

  using Names = std::map<std::string, std::shared_ptr<Inode>>;

  static Names MixedNames(const Inode& inode, std::mt19937& random) {
    Names names;
    for (const Names* from : {&inode.live, &inode.durable}) {
      for (const auto& [name, child] : *from) {
        const auto live = inode.live.find(name), durable = inode.durable.find(name);
        const bool both = live != inode.live.end() && durable != inode.durable.end() && live->second == durable->second;
        // A name that only one side has is there or not; one that stands for two files is one of them.
        if (both || random() % 2 == 0) names[name] = child;
      }
    }
    return names;
  }

  // `depth` 0 is the root, 1 the folder of checkpoints, 2 a checkpoint.
  static Names NamesAfter(const Inode& inode, Survivor survivor, int depth, std::mt19937& random) {
    if (survivor == Survivor::kAny) return MixedNames(inode, random);
    const bool durable = survivor == Survivor::kOnlySynced || (survivor == Survivor::kInnerFirst && depth <= 1) ||
                         (survivor == Survivor::kOuterFirst && depth > 1);
    return durable ? inode.durable : inode.live;
  }

  static std::string DataAfter(const Inode& inode, Survivor survivor, std::mt19937& random) {
    if (inode.data == inode.durable_data || survivor == Survivor::kEverything) return inode.data;
    if (survivor == Survivor::kNamesHalfData) return inode.data.substr(0, inode.data.size() / 2);
    if (survivor == Survivor::kAny && random() % 2 == 0)
      return inode.data.substr(0, random() % (inode.data.size() + 1));
    return inode.durable_data;
  }

  static void Write(const Inode& inode, Survivor survivor, int depth, std::mt19937& random, const std::string& out) {
    if (inode.is_folder) {
      std::filesystem::create_directory(out);
      for (const auto& [name, child] : NamesAfter(inode, survivor, depth, random)) {
        Write(*child, survivor, depth + 1, random, JoinPath(out, name));
      }
      return;
    }
    std::ofstream(out, std::ios::binary) << DataAfter(inode, survivor, random);
  }

  std::string root_;
  std::shared_ptr<Inode> top_;
};

// Replays every prefix of a recorded save onto the disk model. `before` operations made the old state.
void ReplayPowerCuts(const TempFolder& folder, const std::vector<FileOperation>& log, size_t before,
                     DiskModel::Survivor survivor, size_t seed) {
  DiskModel disk(folder.path());
  int states_old = 0, states_new = 0;
  for (size_t done = 0; done <= log.size(); ++done) {
    if (done > 0) disk.Apply(log[done - 1]);
    if (done < before) continue;
    const std::string out = folder / "after_cut", checkpoints = JoinPath(out, "run");
    std::filesystem::remove_all(out);
    disk.Materialise(survivor, seed + done, out);
    const std::string where = absl::StrCat("after ", done, " operations of ", log.size(), ", survivor ",
                                           static_cast<int>(survivor), ", seed ", seed);
    bool is_new = false;
    ASSERT_TRUE(OldOrNew(checkpoints, &is_new)) << where;
    // Of unsynced names and data, each cut of kAny loses others: there the new state may come and go.
    EXPECT_TRUE(is_new || states_new == 0 || survivor == DiskModel::Survivor::kAny) << where;
    ++(is_new ? states_new : states_old);
    if (done % 16 != 0) continue;
    // The next start clears away what the cut left and saves again.
    ASSERT_TRUE(SaveStep(checkpoints, kNew, {.retention = {1, 0}, .attempt = "3"}).ok()) << where;
    ASSERT_TRUE(OldOrNew(checkpoints, &is_new) && is_new) << where;
    EXPECT_EQ(ListFolder(checkpoints)->size(), 2u) << where;
  }
  EXPECT_GT(states_old, 10);
  EXPECT_GT(states_new, 10);  // a save that returned Ok survives the cut
}

TEST(CheckpointCrash, PowerCutsAfterEveryOperationLeaveOldOrNew) {
  using Survivor = DiskModel::Survivor;
  for (const auto& [world, cut] : {std::pair(2, Cut::kFlat), std::pair(4, Cut::kLastDim)}) {
    TempFolder folder;
    FaultFileSystem fs;
    ASSERT_TRUE(SaveStep(folder / "run", kOld, {.world = world, .cut = cut, .fs = &fs}).ok());
    const size_t before = fs.log().size();
    const auto saved =
        SaveStep(folder / "run", kNew, {.world = world, .cut = cut, .retention = {1, 0}, .fs = &fs, .attempt = "2"});
    ASSERT_TRUE(saved.ok()) << saved.status();
    ASSERT_EQ(saved->removed, std::vector<int64_t>{kOld});
    const std::vector<FileOperation> log = fs.log();
    for (const Survivor survivor : {Survivor::kEverything, Survivor::kOnlySynced, Survivor::kNamesWithoutData,
                                    Survivor::kNamesHalfData, Survivor::kInnerFirst, Survivor::kOuterFirst}) {
      ReplayPowerCuts(folder, log, before, survivor, 0);
    }
    for (size_t seed = 0; seed < (LongTests() ? 100u : 2u); ++seed) {
      ReplayPowerCuts(folder, log, before, Survivor::kAny, 1000 * seed);
    }
  }
}

// 32 sizes from nothing to what a save takes, over the writes of four ranks with boxes of every tensor. Every rank gets
// the same error (SaveStep sees to that), which names who met it.
TEST(CheckpointCrash, AFullDiskLosesNothing) {
  TempFolder folder;
  const SaveOptions options{.world = 4, .cut = Cut::kLastDim};
  ASSERT_TRUE(SaveStep(folder / "run", kOld, options).ok());
  const auto save = [&](const std::string& checkpoints, FaultFileSystem* fs) {
    SaveOptions with = options;
    with.fs = fs;
    return SaveStep(checkpoints, kNew, with);
  };
  int64_t total = 0;
  {
    FaultFileSystem fs;
    CopyFolder(folder / "run", folder / "measure");
    ASSERT_TRUE(save(folder / "measure", &fs).ok());
    for (const FileOperation& operation : fs.log()) total += static_cast<int64_t>(operation.data.size());
  }
  int by_rank = 0, in_manifest = 0;
  bool is_new = false;
  // The last bytes are those of `latest`, whose failure is a warning.
  const int64_t needed = total - static_cast<int64_t>(std::string("0000400\n").size());
  for (int i = 0; i < 32; ++i) {
    FaultFileSystem fs;
    fs.bytes_left = (needed - 1) * i / 31;
    const auto saved = save(folder / "run", &fs);
    ASSERT_EQ(saved.status().code(), absl::StatusCode::kResourceExhausted) << fs.bytes_left << saved.status();
    const std::string message(saved.status().message());
    by_rank += message.find("rank ") == 0 && message.find("shard-0000") != std::string::npos;
    in_manifest += message.find("MANIFEST") != std::string::npos;
    ASSERT_TRUE(OldOrNew(folder / "run", &is_new)) << fs.bytes_left;
    EXPECT_FALSE(is_new);
    EXPECT_EQ(ListFolder(folder / "run")->size(), 2u);  // the space was given back: old folder and `latest`
  }
  EXPECT_EQ(by_rank + in_manifest, 32);
  EXPECT_GE(by_rank, 15);
  EXPECT_GE(in_manifest, 1);
  FaultFileSystem fs;
  fs.bytes_left = needed;
  const auto warned = save(folder / "run", &fs);
  ASSERT_TRUE(warned.ok()) << warned.status();
  EXPECT_EQ(warned->warnings.size(), 1u);
  ASSERT_TRUE(SaveStep(folder / "run", kNew, options).ok());
  EXPECT_TRUE(OldOrNew(folder / "run", &is_new) && is_new);
}

TEST(CheckpointCrash, ABrokenDeviceAtAnyOperationLeavesOldOrNew) {
  for (const auto& [only_syncs, world, cut] :
       {std::tuple(true, 1, Cut::kFlat), std::tuple(false, 1, Cut::kFlat), std::tuple(true, 4, Cut::kFirstDim),
        std::tuple(false, 4, Cut::kLastDim)}) {
    TempFolder folder;
    ASSERT_TRUE(SaveStep(folder / "before", kOld).ok());
    int errors = 0;
    for (int64_t k = 0;; ++k) {
      const std::string checkpoints = folder / absl::StrCat("run", k);
      CopyFolder(folder / "before", checkpoints);
      FaultFileSystem fs;
      fs.fail_operation = k;
      fs.fail_only_syncs = only_syncs;
      const auto saved = SaveStep(checkpoints, kNew, {.world = world, .cut = cut, .retention = {1, 0}, .fs = &fs});
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
    EXPECT_GE(errors, (only_syncs ? 4 : 9) + (world > 1 ? world - 1 : 0));
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
  ASSERT_TRUE(SaveStep(folder.path(), kNew, {.world = 4, .cut = Cut::kLastDim}).ok());
  std::mt19937 random(11);
  const std::vector<std::string> files = FilesOf(folder / StepFolderName(kNew));
  ASSERT_EQ(files.size(), 5u);
  for (int round = 0; round < (LongTests() ? 700 : 100); ++round) {
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
  ASSERT_TRUE(SaveStep(folder.path(), kNew, {.world = 4, .cut = Cut::kLastDim}).ok());
  std::mt19937 random(12);
  const std::vector<std::string> files = FilesOf(folder / StepFolderName(kNew));
  for (int round = 0; round < (LongTests() ? 300 : 50); ++round) {
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

// `latest` is a hint: whatever it says, or if it is gone, the newest good checkpoint is found.
TEST(CheckpointCrash, DamageToLatestChangesNothing) {
  TempFolder folder;
  ASSERT_TRUE(SaveStep(folder.path(), kOld).ok());
  ASSERT_TRUE(SaveStep(folder.path(), kNew).ok());
  bool is_new = false;
  for (const char* content : {"", "0000200\n", "0000900\n", "../../etc", "\xff\xff"}) {
    std::ofstream(folder / "latest", std::ios::binary) << content;
    EXPECT_TRUE(OldOrNew(folder.path(), &is_new) && is_new) << content;
  }
  std::filesystem::remove(folder / "latest");
  EXPECT_TRUE(OldOrNew(folder.path(), &is_new) && is_new);
  ASSERT_TRUE(SaveStep(folder.path(), kNew).ok());
  EXPECT_EQ(ReadWholeFile(folder / "latest", 100).value(), "0000400\n");
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
