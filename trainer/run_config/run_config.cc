#include "trainer/run_config/run_config.h"

#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "configs/run_config.pb.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/status_macros.h"
#include "model/dit_variants.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/run_config/field_tree.h"
#include "trainer/run_config/resolve_training.h"
#include "trainer/run_config/text_scan.h"
#include "trainer/run_config/to_options.h"

namespace shardit {
namespace {

template <class... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status ExitUsage(absl::Status status) { return WithExitCode(std::move(status), ExitCode::kUsage); }

absl::StatusOr<config::RunConfig> ParseOne(const std::string& text, const std::string& name) {
  config::RunConfig parsed;
  RETURN_IF_ERROR(ParseConfigText(text, name, &parsed));
  if (const absl::Status range = CheckRanges(parsed); !range.ok())
    return Invalid(name, ": ", std::string(range.message()));
  return parsed;
}

absl::StatusOr<config::RunConfig> Merge(const ConfigSources& sources) {
  config::RunConfig merged;
  for (const std::string& file : sources.files) {
    ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(file, kMaxConfigBytes));
    ASSIGN_OR_RETURN(const config::RunConfig parsed, ParseOne(text, PrintableName(file)));
    merged.MergeFrom(parsed);
  }
  for (const std::string& set : sources.sets) {
    absl::Status status = SetField(set, &merged);
    if (status.ok()) status = CheckRanges(merged);
    if (!status.ok()) return Invalid("--set ", PrintableName(set), ": ", std::string(status.message()));
  }
  return merged;
}

// A named size sets the four numbers that are unset and must agree with the others.
absl::Status ApplySize(config::Model* model) {
  if (model->size().empty()) {
    model->clear_size();
    if (model->has_depth() && model->has_width() && model->has_heads() && model->has_patch()) return absl::OkStatus();
    return Invalid("model: expected size (for example \"DiT-S/2\"), or all of depth, width, heads and patch; missing: ",
                   !model->has_depth()   ? "depth"
                   : !model->has_width() ? "width"
                   : !model->has_heads() ? "heads"
                                         : "patch");
  }
  const absl::StatusOr<DitConfig> named = FindVariant(model->size());
  if (!named.ok()) return Invalid("model.size: ", std::string(named.status().message()));
  const auto agree = [&](const char* name, bool set, int64_t got, int64_t expected) {
    if (!set || got == expected) return absl::OkStatus();
    return Invalid("model.", name, ": expected ", expected, " for model.size \"", model->size(), "\", got ", got,
                   "; set model.size to \"\" to choose depth, width, heads and patch freely");
  };
  RETURN_IF_ERROR(agree("depth", model->has_depth(), model->depth(), named->depth));
  RETURN_IF_ERROR(agree("width", model->has_width(), model->width(), named->width));
  RETURN_IF_ERROR(agree("heads", model->has_heads(), model->heads(), named->heads));
  RETURN_IF_ERROR(agree("patch", model->has_patch(), model->patch(), named->patch));
  model->set_depth(named->depth);
  model->set_width(named->width);
  model->set_heads(named->heads);
  model->set_patch(named->patch);
  return absl::OkStatus();
}

uint64_t ConfigHash(const config::RunConfig& c) {
  uint64_t hash = HashBytes("shardit run config");
  for (const ConfigField& field : ConfigFields(*c.GetDescriptor())) {
    if (field.resume != config::FROZEN) continue;
    hash = HashBytes(absl::StrCat(field.path, "=", FieldText(c, field), "\n"), hash);
  }
  return hash;
}

absl::StatusOr<ResolvedConfig> Resolve(config::RunConfig c, ConfigUse use, int64_t world) {
  RETURN_IF_ERROR(ApplySize(c.mutable_model()));
  FillDefaults(&c);
  ResolvedConfig out;
  RETURN_IF_ERROR(ToOptions(c).model.Validate());
  RETURN_IF_ERROR(ToOptions(c).diffusion.Validate());
  if (use == ConfigUse::kTrain) RETURN_IF_ERROR(ResolveForTraining(world, &c));
  out.options = ToOptions(c);
  out.text = PrintConfigText(c);
  out.hash = ConfigHash(c);
  return out;
}

absl::StatusOr<ResolvedConfig> Load(const ConfigSources& sources, ConfigUse use, int64_t world) {
  ASSIGN_OR_RETURN(config::RunConfig merged, Merge(sources));
  return Resolve(std::move(merged), use, world);
}

absl::StatusOr<ResolvedConfig> Parse(const std::string& text, const std::string& name, ConfigUse use, int64_t world) {
  ASSIGN_OR_RETURN(config::RunConfig parsed, ParseOne(text, name));
  return Resolve(std::move(parsed), use, world);
}

}  // namespace

absl::StatusOr<ResolvedConfig> LoadRunConfig(const ConfigSources& sources, ConfigUse use, int64_t world) {
  absl::StatusOr<ResolvedConfig> resolved = Load(sources, use, world);
  if (!resolved.ok()) return ExitUsage(resolved.status());
  return resolved;
}

absl::StatusOr<ResolvedConfig> ParseRunConfig(const std::string& text, const std::string& name, ConfigUse use,
                                              int64_t world) {
  absl::StatusOr<ResolvedConfig> resolved = Parse(text, name, use, world);
  if (!resolved.ok()) return ExitUsage(resolved.status());
  return resolved;
}

absl::StatusOr<std::string> ModelConfigText(const std::string& resolved_text) {
  ASSIGN_OR_RETURN(const config::RunConfig parsed, ParseOne(resolved_text, "configuration"));
  config::RunConfig model;
  *model.mutable_model() = parsed.model();
  *model.mutable_diffusion() = parsed.diffusion();
  return PrintConfigText(model);
}

absl::StatusOr<ConfigDiff> DiffRunConfigs(const std::string& saved_text, const std::string& text) {
  ASSIGN_OR_RETURN(const config::RunConfig saved, ParseOne(saved_text, "saved configuration"));
  ASSIGN_OR_RETURN(const config::RunConfig now, ParseOne(text, "configuration"));
  ConfigDiff diff;
  for (const ConfigField& field : ConfigFields(*saved.GetDescriptor())) {
    const std::string before = FieldText(saved, field), after = FieldText(now, field);
    if (before == after) continue;
    std::vector<std::string>& lines = field.resume == config::FROZEN     ? diff.frozen
                                      : field.resume == config::REPORTED ? diff.reported
                                                                         : diff.free;
    lines.push_back(absl::StrCat(field.path, ": ", PrintableName(before), " -> ", PrintableName(after)));
  }
  return diff;
}

absl::Status CheckResumable(const ConfigDiff& diff) {
  if (diff.frozen.empty()) return absl::OkStatus();
  return ExitUsage(Invalid("cannot resume with a changed configuration: ", absl::StrJoin(diff.frozen, ", "),
                           " (saved -> now); restore the saved values, or start anew with another --out"));
}

}  // namespace shardit
