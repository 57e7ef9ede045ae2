// Weights as a diffusers folder, which DiTPipeline and DiTTransformer2DModel of huggingface/diffusers read:
//
//   model_index.json   scheduler/scheduler_config.json
//   transformer/config.json   transformer/diffusion_pytorch_model.safetensors
//
// Tensors get that library's names: qkv rows split in three, and the timestep and label embedders copied into every
// block. docs/formats.md says what else a user must know: the library computes timestep frequencies a little otherwise.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "core/base/file.h"
#include "trainer/checkpoint/checkpoint_reader.h"

namespace shardit {

// Writes the weights (group kModel or kEma) as the new folder `out`, whole or not at all. InvalidArgument for a
// conditioning other than adaLN-Zero, which the library has no model for; AlreadyExists if `out` is there. Memory for
// one copy of the weights.
absl::Status ExportDiffusers(FileSystem& fs, const CheckpointReader& reader, StateGroup group, const std::string& out);

}  // namespace shardit
