// Weight files: safetensors with the names of the published DiT weights, in and out.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "core/base/file.h"
#include "model/dit.h"

namespace shardit {

// Fills every parameter of `model` (which must have memory) from `path`. Each must be there with its exact shape, in
// F32, F16, BF16 or F64; pos_embed, where the file holds one, must equal the model's table to 1e-5. A missing,
// misshapen or unknown tensor is an error that names it and leaves the values undefined.
absl::Status LoadWeights(const std::string& path, Dit& model);

// The same for a model that does not hold its weights as a whole: `take` gets each parameter's values, of its file
// shape, one parameter in memory at a time.
using WeightSink = absl::FunctionRef<void(const Parameter& parameter, const std::vector<float>& values)>;
absl::Status LoadWeights(const std::string& path, const Dit& model, WeightSink take);

// Writes every parameter and pos_embed as F32, atomically. `metadata` should hold the model's configuration: a weight
// file alone does not say how many heads there are.
absl::Status SaveWeights(FileSystem& fs, const std::string& path, const Dit& model,
                         const std::map<std::string, std::string>& metadata);

}  // namespace shardit
