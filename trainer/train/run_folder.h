// The folder of one run, whose lease (trainer/faults/run_lease.h) the job holds: config.textproto, run_id, log.txt,
// metrics.jsonl, samples.jsonl (log.sample_ids), tensorboard/, checkpoints/, samples/. Shared by all ranks; rank 0
// makes and fills it.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/comm/communicator.h"

namespace shardit {

struct RunFolder {
  std::string path;
  std::string run_id;   // of this run, the same in every start: kept in the file `run_id`
  std::string attempt;  // of this start

  std::string checkpoints() const { return path + "/checkpoints"; }
  std::string samples() const { return path + "/samples"; }

  // Collective: rank 0 makes the folders and, for a new run, the run id; all ranks learn both ids and check that they
  // see the folder that rank 0 made.
  static absl::StatusOr<RunFolder> Open(Communicator& world, const std::string& path);

  // Collective, before the first step: whether the file system would take one checkpoint of `checkpoint_bytes` in all,
  // with some room to spare. Rank 0 reserves that much in a file, writes a little for real, and removes it again, so
  // that quotas count too; where the file system cannot reserve, its count of free bytes decides. ResourceExhausted
  // with the sizes, exit code 74; a folder that cannot be written: 73.
  absl::Status RehearseCheckpoint(Communicator& world, int64_t checkpoint_bytes) const;

  // Rank 0: replaces config.textproto.
  absl::Status WriteConfig(const std::string& text) const;
};

}  // namespace shardit
