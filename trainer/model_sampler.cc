#include "trainer/model_sampler.h"

#include <numeric>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "data/formats/safetensors.h"
#include "trainer/checkpoint_export.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/run_config/run_config.h"
#include "trainer/train/state_checkpoint.h"
#include "trainer/weights/weights_file.h"

namespace shardit {
namespace {

// Samples of one forward pass where the caller leaves it open: enough rows to fill the kernels, few enough for the
// caches.
constexpr int64_t kDefaultBatch = 16;

struct LoadedModel {
  RunOptions options;
  std::unique_ptr<Dit> model;
  std::optional<int64_t> trained_steps;
};

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
  LoadedModel loaded{config->options, AllocateModel(context, config->options.model), std::nullopt};
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
  LoadedModel loaded{config.options, AllocateModel(context, config.options.model), reader.state().step};
  RETURN_IF_ERROR(LoadGroup(reader, request.ema ? StateGroup::kEma : StateGroup::kModel, loaded.model->parameters()));
  return loaded;
}

}  // namespace

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

std::vector<float> ModelSampler::Draw(int64_t first, int64_t count) const {
  std::vector<int32_t> labels;
  for (int64_t i = first; i < first + count; ++i) labels.push_back(LabelOf(i));
  return DrawSamples(*context_, SampledModelOf(*context_, *model_), sampler_, batch_, first, labels);
}

}  // namespace shardit
