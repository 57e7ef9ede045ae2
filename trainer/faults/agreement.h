// Agreement of all ranks on what they are about to do. Ranks that were started with different settings, programs or
// data would train different models in step.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/comm/communicator.h"

namespace shardit {

struct StartFacts {
  std::string config_text;  // resolved, every field
  std::string binary;       // BinaryIdentity()
  std::string data;         // path, number of samples and fingerprint of each data set, as people read them
};

// The running program: its path, size and CRC32C. Reads the file once (tens of MB, some ms).
absl::StatusOr<std::string> BinaryIdentity();

// Collective over the world. OK where all ranks bring rank 0's facts; otherwise FailedPrecondition with exit code 64
// and, by rank, what differs: configuration fields as "train.seed: 0 -> 1" (rank 0's -> that rank's), programs and data
// in full. The same on all ranks.
absl::Status AgreeOnStart(Communicator& world, const StartFacts& mine);

}  // namespace shardit
