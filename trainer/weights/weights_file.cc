#include "trainer/weights/weights_file.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "data/formats/safetensors.h"

namespace shardit {
namespace {

constexpr char kPositionTable[] = "pos_embed";

std::vector<int64_t> Dims(const Shape& shape) { return {shape.begin(), shape.end()}; }

absl::Status CheckPositionTable(const SafetensorsReader& file, const SafetensorsEntry& entry, const Dit& model) {
  const Tensor& table = model.position_table();
  if (entry.elements() != table.elements()) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(file.path()), ": pos_embed has ", entry.elements(),
                                                   " elements, the model's position table ", table.shape().ToString()));
  }
  std::vector<float> values(static_cast<size_t>(entry.elements()));
  RETURN_IF_ERROR(file.ReadAsFloat(entry, 0, entry.elements(), values.data()));
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::abs(values[i] - table.data()[i]) <= 1e-5f) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        Quoted(file.path()), ": pos_embed differs from the fixed sin-cos table at element ", i, ": expected ",
        table.data()[i], ", got ", values[i], "; this trainer does not use learned or other position tables"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status LoadWeights(const std::string& path, Dit& model) {
  return LoadWeights(path, model, [&](const Parameter& parameter, const std::vector<float>& values) {
    parameter.value.FromHost(values.data());
  });
}

absl::Status LoadWeights(const std::string& path, const Dit& model, WeightSink take) {
  ASSIGN_OR_RETURN(const SafetensorsReader file, SafetensorsReader::Open(path));
  for (const SafetensorsEntry& entry : file.entries()) {
    if (entry.name == kPositionTable) {
      RETURN_IF_ERROR(CheckPositionTable(file, entry, model));
    } else if (model.parameters().Find(entry.name) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(path), ": tensor ", Quoted(entry.name),
                                                     " is none of this model's; do the model settings (size, "
                                                     "conditioning) belong to these weights?"));
    }
  }
  for (const auto& parameter : model.parameters().all()) {
    ASSIGN_OR_RETURN(const SafetensorsEntry* entry, file.Require(parameter->name));
    if (entry->shape != Dims(parameter->shape)) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(path), ": tensor ", parameter->name, " is ", "[",
                                                     absl::StrJoin(entry->shape, ", "), "]", ", the model expects ",
                                                     parameter->shape.ToString()));
    }
    std::vector<float> values(static_cast<size_t>(entry->elements()));
    RETURN_IF_ERROR(file.ReadAsFloat(*entry, 0, entry->elements(), values.data()));
    take(*parameter, values);
  }
  return absl::OkStatus();
}

absl::Status SaveWeights(FileSystem& fs, const std::string& path, const Dit& model,
                         const std::map<std::string, std::string>& metadata) {
  std::vector<SafetensorsTensor> tensors;
  const Tensor& table = model.position_table();
  tensors.push_back({{kPositionTable, SafetensorsType::kF32, {1, table.dim(0), table.dim(1)}}, table.data()});
  for (const auto& parameter : model.parameters().all()) {
    tensors.push_back({{parameter->name, SafetensorsType::kF32, Dims(parameter->shape)}, parameter->value.data()});
  }
  return WriteSafetensors(fs, path, std::move(tensors), metadata);
}

}  // namespace shardit
