#include "trainer/model_sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/status_macros.h"
#include "data/formats/safetensors.h"
#include "trainer/checkpoint/checkpoint_names.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/checkpoint_export.h"
#include "trainer/extractor/file_hash.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/run_config/run_config.h"
#include "trainer/train/state_checkpoint.h"
#include "trainer/weights/weights_file.h"

namespace shardit {
namespace {

// Samples of one forward pass where the caller leaves it open: enough rows to fill the kernels, few enough for the
// caches.
constexpr int64_t kDefaultBatch = 16;

constexpr size_t kSha256Digits = 64;

struct LoadedModel {
  RunOptions options;
  std::unique_ptr<Dit> model;
  std::optional<int64_t> trained_steps;
  std::string stored_weights, config_hash;  // of a weight file
};

bool HoldsCheckpoints(const std::string& folder) {
  if (KindOfPath(JoinPath(folder, std::string(kManifestFile))) == PathKind::kFile) return true;
  if (KindOfPath(JoinPath(folder, "checkpoints")) == PathKind::kFolder) return true;
  const auto steps = ListCheckpoints(folder);
  return steps.ok() && !steps->empty();
}

absl::Status Refuse(const std::string& message) {
  return WithExitCode(absl::InvalidArgumentError(message), ExitCode::kUsage);
}

std::unique_ptr<Dit> AllocateModel(RankContext& context, const DitConfig& config) {
  auto model = std::make_unique<Dit>(config);
  model->PlaceConstants(context.allocator());
  model->parameters().Allocate(context.allocator());
  return model;
}

absl::StatusOr<LoadedModel> LoadWeightFile(RankContext& context, const SampleRequest& request) {
  ASSIGN_OR_RETURN(const SafetensorsReader file, SafetensorsReader::Open(request.checkpoint));
  const auto text = file.metadata().find(kConfigMetadataKey);
  absl::StatusOr<ResolvedConfig> config = absl::UnknownError("");
  if (!request.config_path.empty()) {
    config = LoadRunConfig({.files = {request.config_path}}, ConfigUse::kModel, 1);
  } else if (text == file.metadata().end()) {
    return Refuse(absl::StrCat(Quoted(request.checkpoint),
                               " carries no model configuration (a weight file alone does not say how many heads there "
                               "are); give it with --config FILE"));
  } else {
    config = ParseRunConfig(text->second, "configuration in " + Quoted(request.checkpoint), ConfigUse::kModel, 1);
  }
  RETURN_IF_ERROR(config.status());
  RETURN_IF_ERROR(CheckModelFits(config->options.model, file));
  LoadedModel loaded{.options = config->options, .model = AllocateModel(context, config->options.model)};
  ASSIGN_OR_RETURN(const std::string model_text, ModelConfigText(config->text));
  loaded.config_hash = absl::StrCat(absl::Hex(HashBytes(model_text), absl::kZeroPad16));
  const auto weights = file.metadata().find("shardit.weights");
  if (weights != file.metadata().end()) loaded.stored_weights = weights->second;
  if (!request.ema && loaded.stored_weights == GroupName(StateGroup::kEma)) {
    return Refuse(
        absl::StrCat("--weights model: ", Quoted(request.checkpoint),
                     " holds EMA weights only; export the others with shardit checkpoint export --weights model"));
  }
  int64_t step = 0;
  const auto stored = file.metadata().find("shardit.step");
  if (stored != file.metadata().end() && absl::SimpleAtoi(stored->second, &step)) loaded.trained_steps = step;
  RETURN_IF_ERROR(LoadWeights(request.checkpoint, *loaded.model));
  return loaded;
}

absl::StatusOr<LoadedModel> LoadCheckpoint(RankContext& context, const SampleRequest& request) {
  ASSIGN_OR_RETURN(const CheckpointReader reader, OpenCheckpoint(request.checkpoint));
  ASSIGN_OR_RETURN(
      const ResolvedConfig config,
      ParseRunConfig(reader.state().config_text, "configuration in " + Quoted(reader.folder()), ConfigUse::kModel, 1));
  RETURN_IF_ERROR(CheckModelFits(config.options.model, reader, request.ema ? StateGroup::kEma : StateGroup::kModel));
  LoadedModel loaded{.options = config.options,
                     .model = AllocateModel(context, config.options.model),
                     .trained_steps = reader.state().step};
  RETURN_IF_ERROR(LoadGroup(reader, request.ema ? StateGroup::kEma : StateGroup::kModel, loaded.model->parameters()));
  return loaded;
}

}  // namespace

std::string ModelIdentity::Pack() const { return sha256 + path; }

ModelIdentity ModelIdentity::Unpack(const std::string& packed) {
  return {packed.substr(kSha256Digits), packed.substr(0, kSha256Digits)};
}

bool IsModelPath(const std::string& path) {
  return absl::EndsWith(path, ".safetensors") || (KindOfPath(path) == PathKind::kFolder && HoldsCheckpoints(path));
}

absl::StatusOr<ModelIdentity> IdentifyModel(const std::string& path) {
  ModelIdentity identity{path, ""};
  std::string hashed = path;
  if (!absl::EndsWith(path, ".safetensors")) {
    ASSIGN_OR_RETURN(const CheckpointReader reader, OpenCheckpoint(path));
    identity.path = reader.folder();
    hashed = JoinPath(identity.path, std::string(kManifestFile));
  }
  ASSIGN_OR_RETURN(identity.sha256, Sha256OfFile(hashed));
  return identity;
}

ModelSampler::ModelSampler(RankContext& context, std::unique_ptr<Dit> model, Sampler sampler)
    : context_(&context), model_(std::move(model)), sampler_(std::move(sampler)) {}

absl::StatusOr<ModelSampler> ModelSampler::Load(RankContext& context, const SampleRequest& request) {
  ASSIGN_OR_RETURN(LoadedModel loaded, absl::EndsWith(request.checkpoint, ".safetensors")
                                           ? LoadWeightFile(context, request)
                                           : LoadCheckpoint(context, request));
  const DitConfig& config = loaded.options.model;
  for (const int64_t label : request.classes) {
    if (label < config.classes) continue;
    return Refuse(
        absl::StrCat("--classes: ", label, " is not a class of this model, which has 0 to ", config.classes - 1));
  }
  const SamplerOptions options{.kind = request.ddim ? SamplerKind::kDdim : SamplerKind::kDdpm,
                               .steps = request.steps,
                               .eta = request.eta,
                               .cfg_scale = request.cfg_scale,
                               .guide_all_channels = request.cfg_channels == 0,
                               .seed = request.seed};
  absl::StatusOr<Sampler> sampler = Sampler::Create(Diffusion(loaded.options.diffusion), config, options);
  if (!sampler.ok()) return WithExitCode(sampler.status(), ExitCode::kUsage);

  ModelSampler result(context, std::move(loaded.model), *std::move(sampler));
  result.trained_steps_ = loaded.trained_steps;
  result.stored_weights_ = loaded.stored_weights;
  result.config_hash_ = loaded.config_hash;
  result.batch_ = request.batch == 0 ? kDefaultBatch : request.batch;
  result.classes_ = request.classes;
  if (result.classes_.empty()) {
    result.classes_.resize(static_cast<size_t>(config.classes));
    std::iota(result.classes_.begin(), result.classes_.end(), 0);
  }
  return result;
}

int32_t ModelSampler::LabelOf(int64_t sample) const {
  return static_cast<int32_t>(classes_[static_cast<size_t>(sample) % classes_.size()]);
}

absl::StatusOr<std::vector<float>> ModelSampler::Draw(int64_t first, int64_t count) const {
  std::vector<int32_t> labels;
  for (int64_t i = first; i < first + count; ++i) labels.push_back(LabelOf(i));
  std::vector<float> latents =
      DrawSamples(*context_, SampledModelOf(*context_, *model_), sampler_, batch_, first, labels);
  const auto bad = std::find_if(latents.begin(), latents.end(), [](float value) { return !std::isfinite(value); });
  if (bad == latents.end()) return latents;
  return WithExitCode(absl::InvalidArgumentError(
                          absl::StrCat("sample ", first + (bad - latents.begin()) / config().latent_elements(),
                                       " is not finite: the model has diverged; draw from an earlier checkpoint")),
                      ExitCode::kNumerics);
}

nlohmann::ordered_json DescribeSampling(const ModelIdentity& identity, const ModelSampler& sampler,
                                        const SampleRequest& request) {
  nlohmann::ordered_json description;
  description["path"] = identity.path;
  description["kind"] = "model";
  description["sha256"] = identity.sha256;
  const std::optional<int64_t>& step = sampler.trained_steps();
  description["step"] = step.has_value() ? nlohmann::ordered_json(*step) : nlohmann::ordered_json(nullptr);
  if (sampler.config_hash().empty()) {
    description["weights"] = request.ema ? "ema" : "model";
  } else {
    description["config_hash"] = sampler.config_hash();
    if (!sampler.stored_weights().empty()) description["weights"] = sampler.stored_weights();
  }
  description["sampler"] = std::string(Name(request.ddim ? SamplerKind::kDdim : SamplerKind::kDdpm));
  description["steps"] = request.steps;
  description["eta"] = request.eta;
  description["cfg_scale"] = request.cfg_scale;
  description["cfg_channels"] = request.cfg_channels;
  description["seed"] = request.seed;
  description["classes"] = sampler.classes();
  return description;
}

}  // namespace shardit
