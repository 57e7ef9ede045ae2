#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <random>
#include <set>

#include "core/base/crc32c.h"
#include "data/formats/safetensors.h"
#include "tests/trainer/checkpoint_store_testing.h"
#include "trainer/checkpoint/async_checkpointer.h"
#include "trainer/checkpoint/checkpoint_names.h"
#include "trainer/checkpoint/set_aside.h"

namespace shardit {
namespace {

using namespace checkpoint_testing;  // NOLINT: test vocabulary

TEST(CheckpointNames, OneSpellingPerMeaning) {
  EXPECT_EQ(StepFolderName(400), "0000400");
  EXPECT_EQ(StepFolderName(12345678), "12345678");
  EXPECT_EQ(ParseStepFolderName("0000400"), 400);
  EXPECT_EQ(ParseStepFolderName("12345678"), 12345678);
  for (const char* name : {"", "400", "00000400", "000040x", "-000400", "0000400.tmp-r-1", "99999999999999999999"}) {
    EXPECT_FALSE(ParseStepFolderName(name)) << name;
  }
  EXPECT_EQ(TempFolderName(400, "run-1", "2"), "0000400.tmp-run-1-2");
  EXPECT_TRUE(IsTempFolderOfRun("0000400.tmp-run-1-2", "run-1"));
  EXPECT_FALSE(IsTempFolderOfRun("0000400.tmp-run-1-2", "run"));
  EXPECT_FALSE(IsTempFolderOfRun("0000400.tmp-run-1-2", "run-1-2"));
  EXPECT_FALSE(IsTempFolderOfRun("0000400.tmp-run-10-2", "run-1"));
  EXPECT_FALSE(IsTempFolderOfRun("0000400", "run-1"));
  EXPECT_EQ(ShardFileName(3, 8), "shard-00003-of-00008.safetensors");
}

TEST(CheckpointStore, AnyCutByAnyWorldReadsBackWhole) {
  for (const int64_t world : {1, 2, 3, 4}) {
    for (const Cut cut : {Cut::kFlat, Cut::kFirstDim, Cut::kLastDim}) {
      TempFolder folder;
      const auto report = SaveStep(folder.path(), 400, {.world = world, .cut = cut});
      ASSERT_TRUE(report.ok()) << report.status();
      const auto reader = OpenCheckpointStep(folder.path(), 400);
      ASSERT_TRUE(reader.ok()) << reader.status();
      EXPECT_EQ(static_cast<int64_t>(reader->manifest().shards.size()), world);
      EXPECT_TRUE(HoldsStep(*reader, 400));
      EXPECT_TRUE(reader->Verify().empty());
      EXPECT_EQ(ReadWholeFile(folder / "latest", 100).value(), "0000400\n");
      EXPECT_EQ(ListFolder(folder.path())->size(), 2u);
    }
  }
}

TEST(CheckpointStore, OtherLayoutsReadTheirBoxes) {
  TempFolder folder;
  ASSERT_TRUE(SaveStep(folder.path(), 10, {.world = 4, .cut = Cut::kFlat}).ok());
  const auto reader = OpenCheckpointStep(folder.path(), 10);
  ASSERT_TRUE(reader.ok());
  for (const int64_t world : {1, 2, 3, 5}) {
    for (const Cut cut : {Cut::kFlat, Cut::kFirstDim, Cut::kLastDim}) {
      for (int64_t rank = 0; rank < world; ++rank) {
        const auto wanted = CutState(10, cut, rank, world);
        for (const SliceRef& slice : wanted->slices) {
          std::vector<float> values(static_cast<size_t>(Volume(slice.box)), -99);
          ASSERT_TRUE(reader->ReadBox(slice.group, slice.name, slice.box, values.data()).ok());
          ASSERT_TRUE(std::equal(values.begin(), values.end(), slice.data)) << slice.name << BoxText(slice.box);
        }
      }
    }
  }
}

TEST(CheckpointStore, StateComesBackFieldByField) {
  TempFolder folder;
  ASSERT_TRUE(SaveStep(folder.path(), 321).ok());
  const auto reader = OpenCheckpointStep(folder.path(), 321);
  ASSERT_TRUE(reader.ok());
  const RunState state = reader->state(), expected = TestState(321);
  EXPECT_EQ(state.run_id, expected.run_id);
  EXPECT_EQ(state.config_hash, expected.config_hash);
  EXPECT_EQ(state.config_text, expected.config_text);
  EXPECT_EQ(state.program_version, expected.program_version);
  EXPECT_EQ(state.layout.tp, 2);
  EXPECT_EQ(state.images_seen, expected.images_seen);
  EXPECT_EQ(state.ema_updates, 320);
  EXPECT_EQ(state.optimizer_updates, 319);
  EXPECT_EQ(state.skipped_steps, 2);
  EXPECT_EQ(state.skipped_in_a_row, 1);
  EXPECT_EQ(state.seed, expected.seed);
  EXPECT_EQ(state.rng_keys, expected.rng_keys);
  EXPECT_NE(DescribeCheckpoint(*reader).find("ema: 5 tensors in 15 slices, 1388 elements"), std::string::npos)
      << DescribeCheckpoint(*reader);
}

// Shards are plain safetensors: another program can open them.
TEST(CheckpointStore, ShardsArePlainSafetensors) {
  TempFolder folder;
  ASSERT_TRUE(SaveStep(folder.path(), 1, {.world = 2, .cut = Cut::kFirstDim}).ok());
  const auto shard = SafetensorsReader::Open(folder / "0000001/shard-00001-of-00002.safetensors");
  ASSERT_TRUE(shard.ok()) << shard.status();
  const auto part = shard->Require("adam_v/final.weight[7:13,0:7]");
  ASSERT_TRUE(part.ok()) << part.status();
  std::vector<float> values(42);
  ASSERT_TRUE(shard->ReadAsFloat(**part, 0, 42, values.data()).ok());
  for (int64_t i = 0; i < 42; ++i) EXPECT_EQ(values[i], TestValue(1, StateGroup::kAdamV, "final.weight", 49 + i));
  EXPECT_TRUE(shard->Require("model/pos_embed").ok());  // whole tensors have no box in their key
}

// Slices above 1 MiB have several blocks; a box reads only those it touches.
TEST(CheckpointStore, LargeSlicesAreReadBlockByBlock) {
  TempFolder folder;
  const std::vector<NamedShape> model = {{"w", {700, 1000}}};
  const auto mine = CutState(5, Cut::kFirstDim, 0, 1, model);
  CheckpointWriter writer({folder.path(), "run-1", "1", {}, &PosixFileSystem()}, SingleRankExchange());
  ASSERT_TRUE(writer.Save(TestState(5), mine->slices).ok());
  auto reader = OpenCheckpointStep(folder.path(), 5);
  ASSERT_TRUE(reader.ok());
  ASSERT_EQ(reader->Find(StateGroup::kEma, "w")->slices[0].block_crcs.size(), 3u);
  const Box columns{{100, 10}, {500, 7}};
  std::vector<float> values(3500);
  ASSERT_TRUE(reader->ReadBox(StateGroup::kEma, "w", columns, values.data()).ok());
  for (int64_t i = 0; i < 3500; ++i) {
    ASSERT_EQ(values[static_cast<size_t>(i)], TestValue(5, StateGroup::kEma, "w", (100 + i / 7) * 1000 + 10 + i % 7));
  }
  // Damage in the last block of `ema/w` is met only by who reads there.
  const StoredSlice& slice = reader->Find(StateGroup::kEma, "w")->slices[0];
  std::fstream shard(folder / "0000005/shard-00000-of-00001.safetensors",
                     std::ios::in | std::ios::out | std::ios::binary);
  shard.seekp(slice.begin + slice.bytes() - 1);
  shard.put('\x55');
  shard.close();
  EXPECT_TRUE(reader->ReadBox(StateGroup::kEma, "w", {{0, 0}, {500, 1000}}, std::vector<float>(500000).data()).ok());
  const absl::Status status = reader->ReadBox(StateGroup::kEma, "w", {{690, 0}, {1, 1}}, std::vector<float>(1).data());
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(std::string(status.message()).find("'ema/w'"), std::string::npos) << status;
  ASSERT_EQ(reader->Verify().size(), 1u);
}

TEST(CheckpointStore, HolesOverlapsAndDisagreementsAreNotCommitted) {
  TempFolder folder;
  const auto save = [&](const std::function<void(int64_t rank, RankSlices*)>& spoil) {
    absl::Status verdict;
    RunRanks(2, [&](const RankExchange& exchange) {
      CheckpointWriter writer({folder.path(), "run-1", "1", {}, &PosixFileSystem()}, exchange);
      const auto mine = CutState(1, Cut::kFirstDim, exchange.rank, 2);
      spoil(exchange.rank, mine.get());
      const auto report = writer.Save(TestState(1), mine->slices);
      if (exchange.rank == 1) verdict = report.status();
    });
    EXPECT_TRUE(ListFolder(folder.path())->empty());  // neither committed nor left behind
    return std::string(verdict.message());
  };
  EXPECT_NE(save([](int64_t rank, RankSlices* s) {
              if (rank == 1) s->slices.erase(s->slices.begin());
            }).find("hole"),
            std::string::npos);
  EXPECT_NE(save([](int64_t rank, RankSlices* s) {
              if (rank == 0) s->slices.push_back({StateGroup::kAdamV, "scale", {}, {}, s->data[0].data()});
            }).find("overlap"),
            std::string::npos);
  EXPECT_NE(save([](int64_t rank, RankSlices* s) {
              if (rank == 0) s->slices[0].shape[3] = 21;
            }).find("has shape"),
            std::string::npos);
  const std::string twice = save([](int64_t rank, RankSlices* s) {
    if (rank == 1) s->slices.push_back(s->slices.back());
  });
  EXPECT_NE(twice.find("rank 1"), std::string::npos) << twice;
  EXPECT_NE(twice.find("given twice"), std::string::npos) << twice;
}

TEST(CheckpointStore, MissingStateIsNamed) {
  TempFolder folder;
  ASSERT_TRUE(SaveStep(folder.path(), 1).ok());
  const auto reader = OpenCheckpointStep(folder.path(), 1);
  ASSERT_TRUE(reader.ok());
  const std::vector<RequiredTensor> fine = {{StateGroup::kEma, "pos_embed", {1, 9, 4}}};
  EXPECT_TRUE(reader->Require(fine).ok());
  const std::vector<RequiredTensor> absent = {{StateGroup::kEma, "pos_embed", {1, 9, 4}},
                                              {StateGroup::kAdamM, "other", {2}}};
  EXPECT_EQ(reader->Require(absent).code(), absl::StatusCode::kNotFound);
  EXPECT_NE(std::string(reader->Require(absent).message()).find("'adam_m/other'"), std::string::npos);
  const std::vector<RequiredTensor> other_shape = {{StateGroup::kEma, "pos_embed", {9, 4}}};
  EXPECT_EQ(reader->Require(other_shape).code(), absl::StatusCode::kInvalidArgument);
  float value;
  EXPECT_EQ(reader->ReadBox(StateGroup::kModel, "other", {}, &value).code(), absl::StatusCode::kNotFound);

  const absl::Status step = OpenCheckpointStep(folder.path(), 2).status();
  EXPECT_EQ(step.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(std::string(step.message()).find("there are: 1"), std::string::npos) << step;
  EXPECT_FALSE(FindNewestCheckpoint(folder / "nowhere")->reader);
}

TEST(CheckpointStore, StepsBackOverBadOnesAndSaysWhy) {
  TempFolder folder;
  for (const int64_t step : {100, 200, 300, 400}) ASSERT_TRUE(SaveStep(folder.path(), step).ok());
  std::filesystem::resize_file(folder / "0000400/shard-00001-of-00002.safetensors", 1000);
  std::filesystem::remove(folder / "0000300/MANIFEST");
  std::filesystem::create_directory(folder / "0000500.tmp-run-1-9");
  std::filesystem::copy(folder / "0000100", folder / "0000600");  // a copy under another step's name
  const auto found = FindNewestCheckpoint(folder.path());
  ASSERT_TRUE(found.ok() && found->reader);
  EXPECT_TRUE(HoldsStep(*found->reader, 200));
  ASSERT_EQ(found->skipped.size(), 3u);
  EXPECT_NE(found->skipped[0].find("holds step 100"), std::string::npos) << found->skipped[0];
  EXPECT_NE(found->skipped[1].find("shard-00001-of-00002.safetensors' has 1000 bytes"), std::string::npos)
      << found->skipped[1];
  EXPECT_NE(found->skipped[2].find("0000300"), std::string::npos) << found->skipped[2];
  EXPECT_TRUE(HoldsStep(*FindNewestCheckpoint(folder.path(), 200)->reader, 100));
}

TEST(CheckpointStore, AMovedCheckpointStaysValid) {
  TempFolder folder, elsewhere;
  ASSERT_TRUE(SaveStep(folder.path(), 7).ok());
  std::filesystem::copy(folder / "0000007", elsewhere / "best");
  const auto reader = CheckpointReader::Open(elsewhere / "best");
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_TRUE(HoldsStep(*reader, 7));
}

TEST(CheckpointStore, ASymbolicLinkIsNoShard) {
  TempFolder folder;
  ASSERT_TRUE(SaveStep(folder.path(), 7).ok());
  const std::string shard = folder / "0000007/shard-00000-of-00002.safetensors";
  std::filesystem::rename(shard, folder / "outside");
  std::filesystem::create_symlink("../outside", shard);
  const auto reader = OpenCheckpointStep(folder.path(), 7);
  ASSERT_FALSE(reader.ok());
  EXPECT_NE(std::string(reader.status().message()).find("symbolic link"), std::string::npos) << reader.status();
}

// The folder may lie elsewhere: a link under a step's name is followed to read, and is itself what gets removed.
TEST(CheckpointStore, ALinkedFolderIsACheckpoint) {
  TempFolder folder, elsewhere;
  for (const int64_t step : {100, 200, 300}) ASSERT_TRUE(SaveStep(folder.path(), step).ok());
  const auto move_and_link = [&](const std::string& name) {
    std::filesystem::copy(folder / name, elsewhere / name);
    std::filesystem::remove_all(folder / name);
    std::filesystem::create_directory_symlink(elsewhere / name, folder / name);
  };
  move_and_link("0000100");
  move_and_link("0000300");
  auto found = FindNewestCheckpoint(folder.path());
  ASSERT_TRUE(found.ok() && found->reader);
  EXPECT_TRUE(HoldsStep(*found->reader, 300));
  const auto report = SaveStep(folder.path(), 400, {.retention = {2, 0}});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->removed, (std::vector<int64_t>{100, 200}));
  EXPECT_EQ(ListFolder(folder.path())->size(), 3u);  // 300, 400 and `latest`
  ASSERT_TRUE(SaveStep(folder.path(), 300, {.attempt = "2"}).ok());
  for (const char* name : {"0000100", "0000300"}) {
    const auto reader = CheckpointReader::Open(elsewhere / name);
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_TRUE(reader->Verify().empty());
  }
  std::filesystem::rename(elsewhere / "0000300", elsewhere / "0000500");
  std::filesystem::create_directory_symlink(elsewhere / "gone", folder / "0000600");
  found = FindNewestCheckpoint(folder.path());
  ASSERT_TRUE(found.ok() && found->skipped.size() == 1);
  EXPECT_NE(found->skipped[0].find("0000600"), std::string::npos) << found->skipped[0];
}

// What cannot be listed is no empty folder: a run would begin anew over it.
TEST(CheckpointStore, AFolderThatCannotBeListedIsAnError) {
  TempFolder folder;
  std::ofstream(folder / "checkpoints") << "x";
  EXPECT_FALSE(ListCheckpoints(folder / "checkpoints").ok());
  EXPECT_FALSE(FindNewestCheckpoint(folder / "checkpoints").ok());
}

TEST(CheckpointStore, ASaveAndALoadCountTheirPieces) {
  const TempFolder folder;
  FaultFileSystem fs;
  std::atomic<uint64_t> pieces{0};
  CheckpointWriter writer({.checkpoints = folder.path(),
                           .run_id = "run-1",
                           .attempt = "1",
                           .retention = {1, 0},
                           .fs = &fs,
                           .pieces = &pieces,
                           .sync_bytes = 1},
                          SingleRankExchange());
  const auto state = CutState(5, Cut::kFlat, 0, 1);
  ASSERT_TRUE(writer.Save(TestState(5), state->slices).ok());
  uint64_t shard_syncs = 0;
  for (const FileOperation& operation : fs.log()) {
    if (operation.kind == FileOperation::Kind::kSync && operation.path.find("shard-") != std::string::npos)
      ++shard_syncs;
  }
  // Every slice is one block here, and is synced, written and verified; the whole shard is synced once more.
  const uint64_t slices = state->slices.size();
  EXPECT_EQ(shard_syncs, slices + 1);
  EXPECT_EQ(pieces, 3 * slices + 1);

  auto reader = CheckpointReader::Open(JoinPath(folder.path(), "0000005"));
  ASSERT_TRUE(reader.ok()) << reader.status();
  reader->CountBlocks(&pieces);
  pieces = 0;
  EXPECT_TRUE(HoldsStep(*reader, 5));
  EXPECT_EQ(pieces, slices);
}

TEST(CheckpointStore, SavingAStepAgainReplacesIt) {
  for (const bool no_exchange : {false, true}) {
    TempFolder folder;
    FaultFileSystem fs;
    fs.no_exchange = no_exchange;
    ASSERT_TRUE(SaveStep(folder.path(), 5, {.world = 3}).ok());
    ASSERT_TRUE(SaveStep(folder.path(), 5, {.world = 2, .fs = &fs, .attempt = "2"}).ok());
    const auto reader = OpenCheckpointStep(folder.path(), 5);
    ASSERT_TRUE(reader.ok());
    EXPECT_EQ(reader->manifest().shards.size(), 2u);
    EXPECT_TRUE(HoldsStep(*reader, 5));
    EXPECT_EQ(ListFolder(folder.path())->size(), 2u);  // the folder and `latest`
    const auto foreign = SaveStep(folder.path(), 5, {.run_id = "other"});
    EXPECT_EQ(foreign.status().code(), absl::StatusCode::kAlreadyExists);
    EXPECT_TRUE(HoldsStep(*OpenCheckpointStep(folder.path(), 5), 5));
  }
}

// One that this program cannot read, perhaps only now: it is kept under another name.
TEST(CheckpointStore, SavingOverAnUnreadableFolderKeepsIt) {
  TempFolder folder;
  for (const char* name : {"0000005.aside-1", "0000005.aside-2"}) {
    ASSERT_TRUE(SaveStep(folder.path(), 5).ok());
    const std::string manifest = ReadWholeFile(folder / "0000005/MANIFEST", 1 << 20).value();
    std::ofstream(folder / "0000005/MANIFEST", std::ios::binary) << manifest << "of a later version";
    ASSERT_TRUE(SaveStep(folder.path(), 5).ok());
    EXPECT_TRUE(HoldsStep(*OpenCheckpointStep(folder.path(), 5), 5));
    std::ofstream(folder / (std::string(name) + "/MANIFEST"), std::ios::binary) << manifest;
    EXPECT_TRUE(HoldsStep(*CheckpointReader::Open(folder / name), 5));
  }
  // A copy of another step under this name.
  std::filesystem::remove_all(folder / "0000005");
  ASSERT_TRUE(SaveStep(folder.path(), 7).ok());
  std::filesystem::rename(folder / "0000007", folder / "0000005");
  ASSERT_TRUE(SaveStep(folder.path(), 5).ok());
  EXPECT_TRUE(HoldsStep(*CheckpointReader::Open(folder / "0000005.aside-3"), 7));
  EXPECT_EQ(ListCheckpoints(folder.path())->size(), 1u);
}

TEST(SetAside, TakesTheNamesOfNewerSteps) {
  TempFolder folder;
  for (const int64_t step : {100, 200, 300}) ASSERT_TRUE(SaveStep(folder.path(), step).ok());
  std::filesystem::resize_file(folder / "0000300/MANIFEST", 10);
  const auto moved = SetAsideNewer(PosixFileSystem(), folder.path(), 100);
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_EQ(*moved, (std::vector<std::string>{folder / "0000200.aside-1", folder / "0000300.aside-1"}));
  EXPECT_TRUE(HoldsStep(*FindNewestCheckpoint(folder.path())->reader, 100));
  EXPECT_TRUE(HoldsStep(*CheckpointReader::Open(folder / "0000200.aside-1"), 200));
  ASSERT_TRUE(SaveStep(folder.path(), 200, {.retention = {1, 0}}).ok());
  EXPECT_EQ(SetAsideNewer(PosixFileSystem(), folder.path(), 100)->front(), folder / "0000200.aside-2");
  EXPECT_EQ(ListFolder(folder.path())->size(), 4u);  // three aside and `latest`: retention took 100 alone
  EXPECT_TRUE(SetAsideNewer(PosixFileSystem(), folder / "nowhere", 0)->empty());
}

TEST(Retention, RuleKeepsTheNewestAndMilestones) {
  const std::vector<int64_t> steps = {100, 200, 300, 400, 500};
  EXPECT_EQ(StepsToRemove(steps, 500, {0, 0}), std::vector<int64_t>{});
  EXPECT_EQ(StepsToRemove(steps, 500, {2, 0}), (std::vector<int64_t>{100, 200, 300}));
  EXPECT_EQ(StepsToRemove(steps, 500, {2, 200}), (std::vector<int64_t>{100, 300}));
  EXPECT_EQ(StepsToRemove(steps, 500, {9, 0}), std::vector<int64_t>{});
  EXPECT_EQ(StepsToRemove(std::vector<int64_t>{500}, 500, {1, 0}), std::vector<int64_t>{});
}

TEST(Retention, RemovesOnlyGoodFoldersOfThisRun) {
  TempFolder folder;
  for (const int64_t step : {100, 200, 300, 400, 900}) ASSERT_TRUE(SaveStep(folder.path(), step).ok());
  ASSERT_TRUE(SaveStep(folder.path(), 150, {.run_id = "other"}).ok());
  std::filesystem::resize_file(folder / "0000300/MANIFEST", 10);
  std::filesystem::create_directory(folder / "0000100.tmp-other-1");
  std::filesystem::create_directory(folder / "0000100.tmp-run-1-7");
  const auto report = SaveStep(folder.path(), 500, {.retention = {2, 0}, .attempt = "2"});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->removed, (std::vector<int64_t>{100, 200}));
  EXPECT_TRUE(report->warnings.empty());
  std::vector<std::string> names;
  const auto entries = ListFolder(folder.path());
  for (const FolderEntry& entry : *entries) names.push_back(entry.name);
  // 300 is bad, 150 another run's, 900 newer: none of our business. 400 and 500 are the last two.
  EXPECT_EQ(names, (std::vector<std::string>{"0000100.tmp-other-1", "0000150", "0000300", "0000400", "0000500",
                                             "0000900", "latest"}));
}

TEST(AsyncCheckpointer, WritesBehindFromACopy) {
  TempFolder folder;
  CheckpointWriter writer({folder.path(), "run-1", "1", {}, &PosixFileSystem()}, SingleRankExchange());
  AsyncCheckpointer checkpointer(std::move(writer), true);
  auto mine = CutState(1, Cut::kFlat, 0, 1);
  checkpointer.Save(TestState(1), mine->slices);
  for (auto& values : mine->data) std::fill(values.begin(), values.end(), -1.0f);  // training goes on
  mine = CutState(2, Cut::kFlat, 0, 1);
  ASSERT_TRUE(checkpointer.Wait().ok());
  checkpointer.Save(TestState(2), mine->slices);
  const auto first = checkpointer.TakeReport();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->save.step, 1);
  EXPECT_GT(first->write_ms, 0);
  ASSERT_TRUE(checkpointer.Wait().ok());
  EXPECT_EQ(checkpointer.TakeReport()->save.step, 2);
  EXPECT_FALSE(checkpointer.TakeReport());
  EXPECT_TRUE(HoldsStep(*OpenCheckpointStep(folder.path(), 1), 1));
  EXPECT_TRUE(HoldsStep(*OpenCheckpointStep(folder.path(), 2), 2));
}

// The memory bound: one copy of what this rank stores, taken once, whether it is reserved ahead or not.
TEST(AsyncCheckpointer, HoldsOneCopyWhileItWrites) {
  for (const bool reserved : {true, false}) {
    TempFolder folder;
    FaultFileSystem fs;
    AsyncCheckpointer checkpointer({{folder.path(), "run-1", "1", {}, &fs}, SingleRankExchange()}, true);
    const auto mine = CutState(1, Cut::kFlat, 0, 1);
    int64_t bytes = 0;
    for (const SliceRef& slice : mine->slices) bytes += Volume(slice.box) * 4;
    if (reserved) checkpointer.Reserve(mine->slices);
    fs.closed = true;  // the first save waits at its first operation
    checkpointer.Save(TestState(1), mine->slices);
    EXPECT_TRUE(checkpointer.Poll().ok());
    EXPECT_FALSE(checkpointer.TakeReport());
    EXPECT_TRUE(fs.log().empty());
    const auto begin = std::chrono::steady_clock::now();
    std::atomic<bool> waited = false;
    std::thread training([&] {
      EXPECT_TRUE(checkpointer.Wait().ok());
      waited = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(waited);
    fs.Open();
    training.join();
    const auto first = checkpointer.TakeReport();
    ASSERT_TRUE(first);
    EXPECT_EQ(first->save.step, 1);
    EXPECT_EQ(first->copy_bytes, bytes);
    checkpointer.Save(TestState(2), mine->slices, begin);
    ASSERT_TRUE(checkpointer.Wait().ok());
    const auto second = checkpointer.TakeReport();
    ASSERT_TRUE(second);
    EXPECT_EQ(second->copy_bytes, bytes);
    EXPECT_GE(second->stall_ms, 20);  // training waited for the save before
    EXPECT_TRUE(HoldsStep(*OpenCheckpointStep(folder.path(), 1), 1));
  }
}

TEST(AsyncCheckpointer, AFailureIsToldOnceAndTheNextSaveGoesOn) {
  for (const bool async : {true, false}) {
    TempFolder folder;
    FaultFileSystem fs;
    fs.bytes_left = 1000;
    CheckpointWriter writer({folder.path(), "run-1", "1", {}, &fs}, SingleRankExchange());
    AsyncCheckpointer checkpointer(std::move(writer), async);
    const auto mine = CutState(1, Cut::kFlat, 0, 1);
    checkpointer.Save(TestState(1), mine->slices);
    absl::Status first;
    while (first.ok()) first = checkpointer.Poll();  // says nothing until the save has ended
    EXPECT_EQ(first.code(), absl::StatusCode::kResourceExhausted) << first;
    EXPECT_FALSE(checkpointer.TakeReport());
    EXPECT_TRUE(checkpointer.Wait().ok());  // the error was told already
    EXPECT_TRUE(checkpointer.Poll().ok());
    fs.bytes_left = INT64_MAX;
    checkpointer.Save(TestState(1), mine->slices);
    ASSERT_TRUE(checkpointer.Wait().ok());
    EXPECT_TRUE(HoldsStep(*OpenCheckpointStep(folder.path(), 1), 1));
  }
}

// A checkpoint written by the first release of version 1, kept for ever: it must always be read.
TEST(CheckpointGolden, Version1IsRead) {
  const auto reader = CheckpointReader::Open(SHARDIT_SOURCE_DIR "/tests/golden/checkpoint_v1/0000400");
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_TRUE(reader->Verify().empty());
  EXPECT_EQ(reader->state().seed, 42u);
  EXPECT_EQ(reader->state().images_seen, 102400);
  EXPECT_EQ(reader->state().optimizer_updates, 399);
  std::vector<float> values(12);
  for (const StateGroup group : kStateGroups) {
    const float base = 100 * static_cast<float>(static_cast<int>(group) + 1);
    ASSERT_TRUE(reader->ReadBox(group, "linear.weight", {{0, 0}, {3, 4}}, values.data()).ok());
    for (int i = 0; i < 12; ++i) EXPECT_EQ(values[static_cast<size_t>(i)], base + static_cast<float>(i) / 4);
    ASSERT_TRUE(reader->ReadBox(group, "linear.bias", {{1}, {2}}, values.data()).ok());
    EXPECT_EQ(values[1], -base - 2);
  }
}

// The writer still makes the very bytes of that checkpoint, so older programs read newer files.
TEST(CheckpointGolden, Version1IsWrittenByteForByte) {
  TempFolder folder;
  RunRanks(2, [&](const RankExchange& exchange) {
    RunState state;
    state.run_id = "golden";
    state.config_hash = 0x0123456789abcdefu;
    state.config_text = "model { size: \"DiT-S/8\" }\n";
    state.program_version = "0.1.0";
    state.layout = {2, 2, 1, 1, 1};
    state.step = 400;
    state.images_seen = 102400;
    state.ema_updates = 400;
    state.optimizer_updates = 399;
    state.skipped_steps = 1;
    state.seed = 42;
    state.rng_keys = {{"noise", 7}};
    std::vector<std::vector<float>> data;
    std::vector<SliceRef> slices;
    for (const StateGroup group : kStateGroups) {
      const float base = 100 * static_cast<float>(static_cast<int>(group) + 1);
      // 15 elements, weight then bias; rank 0 owns the first 8, as a flat ZeRO buffer would be cut.
      const Range owned = exchange.rank == 0 ? Range{0, 8} : Range{8, 15};
      const auto add = [&](const char* name, const std::vector<int64_t>& shape, int64_t from, int64_t to, auto value) {
        for (const Box& box : BoxesOfFlatRange(shape, from, std::max(from, to))) {
          std::vector<float>& values = data.emplace_back();
          EXPECT_TRUE(ForEachRun(box, WholeBox(shape), box, [&](int64_t at, int64_t, int64_t count) {
                        for (int64_t i = at; i < at + count; ++i) values.push_back(value(i));
                        return absl::OkStatus();
                      }).ok());
          slices.push_back({group, name, shape, box, nullptr});
        }
      };
      add("linear.weight", {3, 4}, std::min<int64_t>(owned.begin, 12), std::min<int64_t>(owned.end, 12),
          [&](int64_t i) { return base + static_cast<float>(i) / 4; });
      add("linear.bias", {3}, std::max<int64_t>(owned.begin - 12, 0), owned.end - 12,
          [&](int64_t i) { return -base - static_cast<float>(i); });
    }
    for (size_t i = 0; i < slices.size(); ++i) slices[i].data = data[i].data();
    CheckpointWriter writer({folder.path(), "golden", "1", {}, &PosixFileSystem()}, exchange);
    EXPECT_TRUE(writer.Save(state, slices).ok());
  });
  for (const char* name : {"MANIFEST", "shard-00000-of-00002.safetensors", "shard-00001-of-00002.safetensors"}) {
    const std::string golden = std::string(SHARDIT_SOURCE_DIR "/tests/golden/checkpoint_v1/0000400/") + name;
    EXPECT_EQ(ReadWholeFile(folder / (std::string("0000400/") + name), 1 << 20).value(),
              ReadWholeFile(golden, 1 << 20).value_or("missing"))
        << name;
  }
}

}  // namespace
}  // namespace shardit
