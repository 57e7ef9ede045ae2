#include "trainer/train/ema_evaluation.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "trainer/image_set.h"
#include "trainer/sample.h"
#include "trainer/train/validation.h"

namespace shardit {
namespace {

constexpr int64_t kBatch = 16;    // samples of one forward pass
constexpr int64_t kClasses = 10;  // rows of a grid, at most
constexpr char kTitle[] = "STEP ";

}  // namespace

EmaEvaluation::EmaEvaluation(RankContext& context, TrainState& state, const StepComms& comms,
                             const Diffusion& diffusion, const RunOptions& options)
    : context_(context),
      state_(state),
      comms_(comms),
      diffusion_(diffusion),
      options_(options),
      forward_(context, state, comms) {
  classes_.resize(static_cast<size_t>(std::min(options.model.classes, kClasses)));
  std::iota(classes_.begin(), classes_.end(), 0);
  const int64_t asked = options.log.sample_per_class;
  columns_ = std::min(asked, RoomForClassGrid(classes_, options.model, kTitle).columns);
  if (columns_ < asked && options.log.sample_every > 0 && comms.control().rank() == 0) {
    LOG_INFO("pictures of samples show {} of a class, not log.sample_per_class {}: a PNG has no room for more",
             columns_, asked);
  }
}

absl::StatusOr<double> EmaEvaluation::HeldOutLoss(const Dataset& held_out) {
  ASSIGN_OR_RETURN(
      const LossResult loss,
      shardit::HeldOutLoss(context_, forward_, diffusion_, held_out, state_.sharding(), comms_.control(),
                           {.seed = options_.train.seed, .samples = options_.log.validation_samples, .batch = kBatch}));
  return loss.loss;
}

absl::StatusOr<std::optional<Image>> EmaEvaluation::SampleGrid() {
  const DitConfig& model = options_.model;
  const int64_t columns = columns_, rows = std::ssize(classes_);
  ASSIGN_OR_RETURN(const Sampler sampler, Sampler::Create(diffusion_, model,
                                                          {.kind = SamplerKind::kDdim,
                                                           .steps = options_.log.sample_steps,
                                                           .cfg_scale = options_.log.sample_cfg_scale,
                                                           .guide_all_channels = true,
                                                           .seed = options_.train.seed}));
  // Where a forward pass needs no other rank, rank 0 draws alone and the others wait at the next collective.
  const bool speaks = comms_.control().rank() == 0;
  if (!speaks && !state_.sharding().forward_is_collective()) return std::optional<Image>();
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < rows * columns; ++i) labels.push_back(static_cast<int32_t>(i / columns));
  const std::vector<float> latents = DrawSamples(context_, forward_.sampled_model(), sampler, kBatch, 0, labels);
  if (!speaks) return std::optional<Image>();
  return ClassGrid(LatentsToPixels(latents, rows * columns, model), columns, classes_, model,
                   absl::StrCat(kTitle, state_.step));
}

}  // namespace shardit
