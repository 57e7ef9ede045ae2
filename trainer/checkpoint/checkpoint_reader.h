// Reading committed checkpoints: finding the newest good one, reading any box of any tensor whatever layout wrote it,
// and verifying all of it. Checkpoints are untrusted: nothing outside the folder is opened, memory is bounded by the
// manifest's size plus 1 MiB a read, and every byte handed out has passed its CRC.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/file.h"
#include "core/tensor/box.h"
#include "trainer/checkpoint/manifest.h"

namespace shardit {

// A tensor that a run needs from a checkpoint.
struct RequiredTensor {
  StateGroup group = StateGroup::kModel;
  std::string name;
  std::vector<int64_t> shape;  // global
};

// One committed folder. Thread-safe. Move-only.
class CheckpointReader {
 public:
  // Verifies the manifest, and that every shard is there with the right size; the shards' content is verified while it
  // is read. The folder may have been moved or copied. Errors name folder, file and rule.
  static absl::StatusOr<CheckpointReader> Open(const std::string& folder);
  ~CheckpointReader();
  CheckpointReader(CheckpointReader&&) noexcept;
  CheckpointReader& operator=(CheckpointReader&&) noexcept;

  const std::string& folder() const { return folder_; }
  const Manifest& manifest() const { return manifest_; }
  const RunState& state() const { return manifest_.state; }
  // nullptr where there is no such tensor.
  const StoredTensor* Find(StateGroup group, absl::string_view name) const;

  // Ok where every tensor is there with that global shape; else an error that names those that are not.
  absl::Status Require(std::span<const RequiredTensor> tensors) const;

  // Reads the elements of `box` (inside the tensor: CHECK), row-major, into `out`, from whatever slices hold them. Only
  // the 1 MiB blocks that it touches are read, and each is checked first. NotFound names a missing tensor; DataLoss
  // names file, tensor and byte range of damage, and `out` is then undefined.
  absl::Status ReadBox(StateGroup group, absl::string_view name, const Box& box, float* out) const;

  // From now on adds one to `counter` for each block that was read, for those who want to know that reads move.
  void CountBlocks(std::atomic<uint64_t>* counter) { blocks_read_ = counter; }

  // Reads one shard, or all of them, to the last byte; a damaged checkpoint gives one error per damaged place (at most
  // one per slice). Empty means good.
  std::vector<absl::Status> VerifyShard(int64_t shard) const;
  std::vector<absl::Status> Verify() const;

 private:
  struct OpenShards;
  CheckpointReader();
  absl::StatusOr<std::shared_ptr<const RandomAccessFile>> Shard(int64_t index) const;
  absl::Status CheckHeader(int64_t shard) const;

  std::string folder_;
  Manifest manifest_;
  std::unique_ptr<OpenShards> shards_;
  std::atomic<uint64_t>* blocks_read_ = nullptr;
};

// Several lines for people: step, run, layout, groups with their tensors and bytes.
std::string DescribeCheckpoint(const CheckpointReader& reader);

struct CommittedCheckpoint {
  int64_t step = 0;
  std::string folder;
};
// Whatever has a committed name in `checkpoints`, links to folders elsewhere too, in ascending step; none where the
// folder does not exist. Says nothing about their content.
absl::StatusOr<std::vector<CommittedCheckpoint>> ListCheckpoints(const std::string& checkpoints);

struct FoundCheckpoint {
  std::optional<CheckpointReader> reader;  // nullopt where no folder was good
  std::vector<std::string> skipped;        // newer folders that were not, and why: one line each
};
// The newest committed checkpoint that opens, of those before step `below`. Steps back over bad ones: where all are,
// the caller must not take `skipped` for an empty folder. When a shard proves damaged later, while it is read, call
// again with `below` set to that step.
absl::StatusOr<FoundCheckpoint> FindNewestCheckpoint(const std::string& checkpoints,
                                                     std::optional<int64_t> below = std::nullopt);

// The named step. One that is missing is NotFound and lists those that exist; one that is bad is an error.
absl::StatusOr<CheckpointReader> OpenCheckpointStep(const std::string& checkpoints, int64_t step);

}  // namespace shardit
