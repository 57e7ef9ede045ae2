// Saving: every rank writes one shard of its own slices, rank 0 commits. After a crash at any moment the folder holds
// the old checkpoints or the old ones and the new one, never a mix; the steps are in docs/formats.md, "Commit".
// Save is collective: all ranks call it for the same step in the same order, and all get the same verdict. Beyond the
// caller's slices a rank holds one header and one table of its slices, and rank 0 the manifest.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/file.h"
#include "core/tensor/box.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/retention.h"

namespace shardit {

// A box of state that this rank stores. Over all ranks the boxes of a tensor cover it exactly once; a rank that holds a
// copy of what another stores does not list it.
struct SliceRef {
  StateGroup group = StateGroup::kModel;
  std::string name;
  std::vector<int64_t> shape;   // global
  Box box;                      // not empty, inside the shape
  const float* data = nullptr;  // the box's elements, row-major, in host memory; null where `read` brings them
  // Fills `out` with the box's elements [begin, begin + count), row-major. Called once for each, ascending, with at
  // most kReadElements.
  std::function<absl::Status(int64_t begin, int64_t count, float* out)> read = nullptr;

  static constexpr int64_t kReadElements = 4 << 20;  // 16 MiB
};

// What the writer needs from the other ranks. Both functions are collective and are called by every rank in the same
// order, from the thread that calls Save (a background thread under AsyncCheckpointer): give them a communicator of
// their own.
struct RankExchange {
  int64_t rank = 0;
  int64_t world = 1;
  // Returns Ok on every rank where all passed Ok; else, on every rank, an error that holds the messages of those ranks
  // that failed.
  std::function<absl::Status(const absl::Status& mine)> agree;
  // Rank 0 gets everybody's string in rank order; the others get an empty list.
  std::function<absl::StatusOr<std::vector<std::string>>(const std::string& mine)> gather_to_root;
};
RankExchange SingleRankExchange();

struct CheckpointWriterOptions {
  std::string checkpoints;  // the run's folder of checkpoints, shared by all ranks
  std::string run_id;       // IsValidRunId; the same in every start of a run
  std::string attempt;      // IsValidAttempt; differs between the starts of a run, equal on all ranks
  Retention retention = {};
  FileSystem* fs = &PosixFileSystem();
  // Adds one for each block written or verified and for each fsync of a shard: for those who want to know that a save
  // moves. Outlives the writer. Null: nobody asks.
  std::atomic<uint64_t>* pieces = nullptr;
  // A shard is synced after so many bytes, and at its end: an fsync of all of it could be silent for many minutes.
  int64_t sync_bytes = 256 << 20;
};

struct SaveReport {
  int64_t step = 0;
  std::string folder;                 // committed
  int64_t bytes = 0;                  // written by this rank
  std::vector<int64_t> removed;       // steps that retention removed (rank 0)
  std::vector<std::string> warnings;  // what failed after the commit: `latest`, retention (rank 0)
};

// The named points (KillPoint) that a save passes, in order: `verified` only with retention, `retention_*` only where
// it removes something.
inline constexpr std::array<absl::string_view, 15> kSaveKillPoints = {"checkpoint.begin",
                                                                      "checkpoint.folder_made",
                                                                      "checkpoint.slice_written",
                                                                      "checkpoint.shard_written",
                                                                      "checkpoint.shards_agreed",
                                                                      "checkpoint.manifest_written",
                                                                      "checkpoint.manifest_renamed",
                                                                      "checkpoint.folder_synced",
                                                                      "checkpoint.renamed",
                                                                      "checkpoint.committed",
                                                                      "checkpoint.latest_replaced",
                                                                      "checkpoint.verified",
                                                                      "checkpoint.retention_renamed",
                                                                      "checkpoint.retention_removed",
                                                                      "checkpoint.end"};

// Not thread-safe.
class CheckpointWriter {
 public:
  CheckpointWriter(CheckpointWriterOptions options, RankExchange exchange);

  // Collective. Makes the folder and removes what crashed attempts of this run left behind. Call once, first.
  absl::Status Prepare();

  // Collective. Commits `slices` and `state` as step `state.step` and then applies retention. After an error nothing
  // may be counted on but the checkpoints from before, which are untouched. A folder of the same run and step, left
  // from before a resume at an earlier one, is replaced; one that does not open is set aside. The slices must not
  // change until it returns.
  absl::StatusOr<SaveReport> Save(const RunState& state, std::span<const SliceRef> slices);

  // The same by one process alone (a world of 1: CHECK), which writes `shards` shards one after the other; slices(i)
  // are those of shard i. Removes nothing.
  absl::StatusOr<SaveReport> SaveShards(const RunState& state, int64_t shards,
                                        absl::FunctionRef<std::vector<SliceRef>(int64_t shard)> slices);

 private:
  void Begin(const RunState& state);
  absl::Status MakeTempFolder(int64_t step);
  SaveReport ReportOf(int64_t step) const;
  void CountPiece() const;
  absl::StatusOr<RankTable> WriteShard(int64_t rank, int64_t world, std::span<const SliceRef> slices);
  absl::Status WriteSlices(std::span<const SliceRef> slices, const std::string& path, RankTable* table);
  absl::Status Commit(const RunState& state, const std::vector<std::string>& tables);
  absl::Status Publish(int64_t step);
  absl::Status CheckReplaceable(const std::string& final_folder) const;
  absl::Status VerifyOwnShard(int64_t step) const;
  void TidyUp(int64_t step, SaveReport* report);

  CheckpointWriterOptions options_;
  RankExchange exchange_;
  std::string temp_folder_;  // of the save in progress
};

}  // namespace shardit
