#include "trainer/checkpoint_export.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "core/tensor/allocator.h"
#include "model/dit.h"
#include "model/dit_variants.h"
#include "trainer/checkpoint/checkpoint_names.h"
#include "trainer/run_config/run_config.h"
#include "trainer/train/state_checkpoint.h"
#include "trainer/weights/weights_file.h"

namespace shardit {
namespace {

constexpr int64_t kMaxPositionTableBytes = int64_t{1} << 30;

absl::Status CheckModelFits(const DitConfig& config, int64_t stored, const std::string& where) {
  const int64_t table = PositionTableCount(config), needed = ParameterCount(config) - table;
  if (needed > stored) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": holds ", stored,
                                                   " weights, the model of its configuration ", "has ", needed,
                                                   "; is the configuration that of these weights?"));
  }
  if (table <= kMaxPositionTableBytes / static_cast<int64_t>(sizeof(float))) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(where, ": the model of its configuration has a position table of ",
                                                 table, " values, expected at most ", kMaxPositionTableBytes,
                                                 " bytes; choose a larger patch or smaller images"));
}

}  // namespace

absl::Status CheckModelFits(const DitConfig& config, const CheckpointReader& reader, StateGroup group) {
  int64_t stored = 0;
  for (const StoredTensor& tensor : reader.manifest().tensors) {
    int64_t elements = 1;  // the manifest's rules keep the product in range
    for (const int64_t dim : tensor.shape) elements *= dim;
    if (tensor.group == group) stored += elements;
  }
  return CheckModelFits(config, stored, Quoted(reader.folder()));
}

absl::Status CheckModelFits(const DitConfig& config, const SafetensorsReader& file) {
  int64_t stored = 0;
  for (const SafetensorsEntry& entry : file.entries()) stored += entry.elements();
  return CheckModelFits(config, stored, Quoted(file.path()));
}

absl::StatusOr<std::string> CheckpointsFolder(const std::string& path) {
  const std::string inside = JoinPath(path, "checkpoints");
  if (KindOfPath(inside) == PathKind::kFolder) return inside;
  if (KindOfPath(path) == PathKind::kFolder) return path;
  return absl::NotFoundError(absl::StrCat(Quoted(path), ": expected a run folder, found none"));
}

absl::StatusOr<CheckpointReader> OpenCheckpoint(const std::string& path) {
  if (KindOfPath(JoinPath(path, std::string(kManifestFile))) == PathKind::kFile) return CheckpointReader::Open(path);
  ASSIGN_OR_RETURN(const std::string folder, CheckpointsFolder(path));
  ASSIGN_OR_RETURN(FoundCheckpoint found, FindNewestCheckpoint(folder));
  for (const std::string& line : found.skipped) LOG_WARN("passed over {}", line);
  if (!found.reader.has_value()) {
    return absl::NotFoundError(absl::StrCat(Quoted(path),
                                            ": expected a checkpoint folder, or a run folder with a good "
                                            "one; found none, ",
                                            found.skipped.size(), " bad"));
  }
  return std::move(*found.reader);
}

absl::Status ExportWeights(FileSystem& fs, const CheckpointReader& reader, StateGroup group, const std::string& out) {
  const std::string& text = reader.state().config_text;
  ASSIGN_OR_RETURN(
      const ResolvedConfig config,
      ParseRunConfig(text, absl::StrCat("configuration in ", Quoted(reader.folder())), ConfigUse::kModel, 1));
  ASSIGN_OR_RETURN(const std::string model_text, ModelConfigText(config.text));
  RETURN_IF_ERROR(CheckModelFits(config.options.model, reader, group));
  Allocator allocator(Device::Cpu());
  Dit model(config.options.model);
  model.parameters().Allocate(allocator);
  RETURN_IF_ERROR(LoadGroup(reader, group, model.parameters()));
  return SaveWeights(fs, out, model,
                     {{"format", "pt"},
                      {kConfigMetadataKey, model_text},
                      {"shardit.weights", std::string(GroupName(group))},
                      {"shardit.step", absl::StrCat(reader.state().step)}});
}

}  // namespace shardit
