// Where checkpoints lie, and their weights as one weight file.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/file.h"
#include "data/formats/safetensors.h"
#include "model/dit_config.h"
#include "trainer/checkpoint/checkpoint_reader.h"

namespace shardit {

// The folder that holds step folders: `path` itself, or its checkpoints/ where `path` is a run folder. NotFound else.
absl::StatusOr<std::string> CheckpointsFolder(const std::string& path);

// Opens `path` as a checkpoint; or the newest good one of a run folder or of its checkpoints/. Warns of bad ones passed
// over.
absl::StatusOr<CheckpointReader> OpenCheckpoint(const std::string& path);

// Refuses a model whose weights are more than the checkpoint's group, or the weight file, holds, and one whose position
// table, which no file needs to hold, passes 1 GiB. Call before a model is made from a configuration that came with the
// file: that may name any size, and the memory would be taken before the first tensor is missed.
absl::Status CheckModelFits(const DitConfig& config, const CheckpointReader& reader, StateGroup group);
absl::Status CheckModelFits(const DitConfig& config, const SafetensorsReader& file);

// Writes the weights (group kModel or kEma) as safetensors under the published names, with the model's configuration in
// the metadata. Atomic; memory for one copy of the weights.
absl::Status ExportWeights(FileSystem& fs, const CheckpointReader& reader, StateGroup group, const std::string& out);

}  // namespace shardit
