#include "launch/study/sweep.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "configs/sweep.pb.h"
#include "core/base/file.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "model/dit_variants.h"
#include "trainer/checkpoint/checkpoint_names.h"
#include "trainer/image_set.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/run_config/field_tree.h"
#include "trainer/run_config/text_scan.h"

namespace shardit {
namespace {

constexpr double kMaxRuns = 10000;

template <class... Parts>
absl::Status Invalid(const Parts&... parts) {
  return WithExitCode(absl::InvalidArgumentError(absl::StrCat(parts...)), ExitCode::kUsage);
}

// One run of a grid; what is unset is the run section's.
struct GridPoint {
  const config::Sweep::Grid::Model* model = nullptr;
  std::optional<int64_t> patch, seed;
  std::optional<config::Model::Conditioning> conditioning;
};

// A list's values, or one that is unset.
template <class Value, class List>
std::vector<std::optional<Value>> Choices(const List& list) {
  std::vector<std::optional<Value>> choices;
  for (const auto value : list) choices.push_back(static_cast<Value>(value));
  if (choices.empty()) choices.push_back(std::nullopt);
  return choices;
}

std::vector<GridPoint> PointsOf(const config::Sweep::Grid& grid) {
  std::vector<const config::Sweep::Grid::Model*> models;
  for (const config::Sweep::Grid::Model& model : grid.model()) models.push_back(&model);
  if (models.empty()) models.push_back(nullptr);
  std::vector<GridPoint> points;
  for (const auto* model : models) {
    for (const auto patch : Choices<int64_t>(grid.patch())) {
      for (const auto conditioning : Choices<config::Model::Conditioning>(grid.conditioning())) {
        for (const auto seed : Choices<int64_t>(grid.seed())) points.push_back({model, patch, seed, conditioning});
      }
    }
  }
  return points;
}

// The numbers of a named size in place of its name, so that each can be changed. Those given beside it must agree.
absl::Status SpellOutSize(config::Model* model) {
  if (model->size().empty()) return absl::OkStatus();
  const absl::StatusOr<DitConfig> named = FindVariant(model->size());
  if (!named.ok()) return Invalid("run.model.size: ", std::string(named.status().message()));
  const bool agrees = (!model->has_depth() || model->depth() == named->depth) &&
                      (!model->has_width() || model->width() == named->width) &&
                      (!model->has_heads() || model->heads() == named->heads) &&
                      (!model->has_patch() || model->patch() == named->patch);
  if (!agrees) {
    return Invalid("run.model: expected size \"", model->size(), "\", or depth, width, heads and patch, got both");
  }
  model->set_depth(named->depth);
  model->set_width(named->width);
  model->set_heads(named->heads);
  model->set_patch(named->patch);
  model->clear_size();
  return absl::OkStatus();
}

// The model's name in the names of its runs.
std::string ModelName(const GridPoint& point, const config::Model& model) {
  if (point.model != nullptr && point.model->has_name()) return point.model->name();
  if (point.model != nullptr && point.model->has_size()) return absl::StrCat("DiT-", point.model->size());
  return absl::StrCat("D", model.depth(), "-W", model.width(), "-H", model.heads());
}

absl::Status CheckGridModel(const config::Sweep::Grid::Model& model) {
  const bool has_numbers = model.has_depth() || model.has_width() || model.has_heads();
  if (model.has_name() && !IsPlainName(model.name())) {
    return Invalid("grid.model.name: expected letters, digits and \"._-\", got ", Quoted(model.name()));
  }
  if (model.has_size() && has_numbers) {
    return Invalid("grid.model ", Quoted(model.name()), ": expected size, or depth, width and heads, got both");
  }
  if (!model.has_size() && !model.has_name()) {
    return Invalid("grid.model: expected a name beside depth, width and heads, such as name: \"W96\"");
  }
  return absl::OkStatus();
}

absl::Status ApplyPoint(const GridPoint& point, config::RunConfig* run) {
  config::Model* model = run->mutable_model();
  RETURN_IF_ERROR(SpellOutSize(model));
  if (point.model != nullptr && point.model->has_size()) {
    const absl::StatusOr<DitConfig> named = FindVariant(absl::StrCat("DiT-", point.model->size(), "/2"));
    if (!named.ok()) {
      return Invalid("grid.model.size: expected S, B, L or XL, got ", Quoted(point.model->size()));
    }
    model->set_depth(named->depth);
    model->set_width(named->width);
    model->set_heads(named->heads);
  } else if (point.model != nullptr) {
    if (point.model->has_depth()) model->set_depth(point.model->depth());
    if (point.model->has_width()) model->set_width(point.model->width());
    if (point.model->has_heads()) model->set_heads(point.model->heads());
  }
  if (point.patch.has_value()) model->set_patch(*point.patch);
  if (point.conditioning.has_value()) model->set_conditioning(*point.conditioning);
  if (point.seed.has_value()) run->mutable_train()->set_seed(*point.seed);
  return absl::OkStatus();
}

std::string RunName(const GridPoint& point, const config::RunConfig& run) {
  const config::Model& model = run.model();
  const std::string conditioning = absl::AsciiStrToLower(config::Model::Conditioning_Name(model.conditioning()));
  return absl::StrCat(ModelName(point, model), "-p", model.patch(), "-", conditioning, "-s", run.train().seed());
}

// Whole steps that the budget pays for; what the run section says where there is none.
int64_t StepsOf(const config::Sweep& sweep, const config::RunConfig& run, const DitConfig& model) {
  const int64_t batch = run.train().global_batch();
  switch (sweep.budget().kind_case()) {
    case config::Sweep::Budget::kImages:
      return CeilDiv(sweep.budget().images(), batch);
    case config::Sweep::Budget::kTrainGflops: {
      const double step_gflops = 1e-9 * TrainFlops(model) * static_cast<double>(batch);
      return std::max<int64_t>(1, std::llround(std::min(1e12, sweep.budget().train_gflops() / step_gflops)));
    }
    default:
      return run.train().steps();
  }
}

absl::StatusOr<std::vector<int64_t>> EvaluatedSteps(const config::Sweep& sweep, const config::RunConfig& run) {
  if (!sweep.has_evaluation()) return std::vector<int64_t>();
  const int64_t last = run.train().steps(), every = run.checkpoint().every_steps();
  std::set<int64_t> steps;
  for (const int64_t step : sweep.evaluation().at_steps()) {
    if (step > last) return Invalid("evaluation.at_steps: expected at most the last step, ", last, ", got ", step);
    const bool saved = step == last || !run.checkpoint().has_every_steps() || every == 0 || step % every == 0;
    if (!saved)
      return Invalid("evaluation.at_steps: expected multiples of checkpoint.every_steps, ", every, ", got ", step);
    steps.insert(step);
  }
  for (const double fraction : sweep.evaluation().fractions()) {
    if (fraction < 1 && every == 0) return Invalid("evaluation.fractions: expected checkpoint.every_steps above 0");
    const double saves = fraction * static_cast<double>(last) / static_cast<double>(std::max<int64_t>(1, every));
    const int64_t step = every * std::max<int64_t>(1, std::llround(saves));
    steps.insert(fraction == 1 ? last : std::min(last, step));
  }
  if (steps.empty()) steps.insert(last);
  return std::vector<int64_t>(steps.begin(), steps.end());
}

// Saves and keeps the steps that are scored before the last.
void KeepEvaluated(const std::vector<int64_t>& evaluated, config::RunConfig* run) {
  int64_t common = 0;
  for (const int64_t step : evaluated) {
    if (step != run->train().steps()) common = std::gcd(common, step);
  }
  if (common == 0) return;
  config::Checkpoint& checkpoint = *run->mutable_checkpoint();
  if (!checkpoint.has_every_steps() || checkpoint.every_steps() == 0 || common % checkpoint.every_steps() != 0) {
    checkpoint.set_every_steps(common);
  }
  checkpoint.set_keep_every(std::gcd(checkpoint.keep_every(), common));
}

absl::StatusOr<SweepRun> MakeRun(const config::Sweep& sweep, const GridPoint& point, config::RunConfig run) {
  SweepRun made{.name = RunName(point, run), .model = ModelName(point, run.model())};
  ASSIGN_OR_RETURN(const ResolvedConfig model, ParseRunConfig(PrintConfigText(run), "run", ConfigUse::kModel, 1));
  const DitConfig& shape = model.options.model;
  if (sweep.has_evaluation() && !LatentsAreImages(shape)) {
    return Invalid("model.channels: expected 1 or 3, images that an extractor can score, got ", shape.channels,
                   "; leave evaluation out, draw with shardit sample --out X.npz, and decode its latents");
  }
  run.mutable_train()->set_steps(StepsOf(sweep, run, model.options.model));
  ASSIGN_OR_RETURN(made.evaluated, EvaluatedSteps(sweep, run));
  KeepEvaluated(made.evaluated, &run);
  made.text = PrintConfigText(run);
  ASSIGN_OR_RETURN(made.config, ParseRunConfig(made.text, "run", ConfigUse::kTrain, sweep.launch().ranks()));
  return made;
}

absl::Status CheckSize(const config::Sweep& sweep) {
  double runs = 0;
  const auto choices = [](int count) { return static_cast<double>(std::max(1, count)); };
  for (const config::Sweep::Grid& grid : sweep.grid()) {
    for (const config::Sweep::Grid::Model& model : grid.model()) RETURN_IF_ERROR(CheckGridModel(model));
    runs += choices(grid.model_size()) * choices(grid.patch_size()) * choices(grid.conditioning_size()) *
            choices(grid.seed_size());
  }
  return runs <= kMaxRuns ? absl::OkStatus() : Invalid("grid: expected at most ", kMaxRuns, " runs, got ", runs);
}

// Every run once, in the order in which the grids name them.
absl::StatusOr<std::vector<SweepRun>> MakeRuns(const config::Sweep& sweep) {
  RETURN_IF_ERROR(CheckSize(sweep));
  std::vector<GridPoint> points;
  for (const config::Sweep::Grid& grid : sweep.grid()) {
    const std::vector<GridPoint> more = PointsOf(grid);
    points.insert(points.end(), more.begin(), more.end());
  }
  if (points.empty()) points.push_back({});
  std::vector<SweepRun> runs;
  std::map<std::string, std::string> configs;  // by name
  for (const GridPoint& point : points) {
    config::RunConfig config = sweep.run();
    RETURN_IF_ERROR(ApplyPoint(point, &config));
    absl::StatusOr<SweepRun> made = MakeRun(sweep, point, config);
    if (!made.ok()) return Invalid(RunName(point, config), ": ", std::string(made.status().message()));
    SweepRun run = *std::move(made);
    const auto [known, is_new] = configs.emplace(run.name, run.config.text);
    if (!is_new && known->second != run.config.text) {
      return Invalid("grid: two different runs are both called ", run.name, "; name their models apart");
    }
    if (!is_new) continue;
    run.index = static_cast<int64_t>(runs.size());
    runs.push_back(std::move(run));
  }
  return runs;
}

absl::Status CheckEvaluation(const config::Sweep::Evaluation& evaluation) {
  const std::set<std::string> known = {"fid", "sfid", "is", "pr"};
  for (const std::string& metric : evaluation.metrics()) {
    if (!known.contains(metric))
      return Invalid("evaluation.metrics: expected fid, sfid, is or pr, got ", Quoted(metric));
  }
  if (evaluation.reference().empty()) return Invalid("evaluation.reference: expected a file, got none");
  if (evaluation.extractor().empty()) return Invalid("evaluation.extractor: expected a file, got none");
  if (evaluation.cfg_channels() != 0 && evaluation.cfg_channels() != 3) {
    return Invalid("evaluation.cfg_channels: expected 3, or 0 for all, got ", evaluation.cfg_channels());
  }
  if (evaluation.at_steps_size() > 0 && evaluation.fractions_size() > 0) {
    return Invalid("evaluation: expected at_steps or fractions, got both");
  }
  return absl::OkStatus();
}

SweepEvaluation ToEvaluation(const config::Sweep::Evaluation& e) {
  using Evaluation = config::Sweep::Evaluation;
  return {.samples = e.samples(),
          .sampler = absl::AsciiStrToLower(Evaluation::Sampler_Name(e.sampler())),
          .steps = e.steps(),
          .cfg_scale = e.cfg_scale(),
          .cfg_channels = e.cfg_channels(),
          .seed = e.seed(),
          .weights = absl::AsciiStrToLower(Evaluation::Weights_Name(e.weights())),
          .extractor = e.extractor(),
          .reference = e.reference(),
          .metrics = {e.metrics().begin(), e.metrics().end()},
          .bootstrap = e.bootstrap()};
}

// As many places as ranks.
absl::Status FitSlurm(SweepStudy* sweep) {
  SlurmResources& slurm = sweep->slurm;
  const int64_t ranks = sweep->launch.ranks;
  if (slurm.tasks_per_node == 0) slurm.tasks_per_node = CeilDiv(ranks, slurm.nodes);
  if (slurm.nodes * slurm.tasks_per_node >= ranks) return absl::OkStatus();
  return Invalid("slurm: expected nodes x tasks_per_node of at least launch.ranks, ", ranks, ", got ", slurm.nodes,
                 " x ", slurm.tasks_per_node);
}

// The description without base files, and with `sets`. One that a study's folder holds has none.
absl::StatusOr<config::Sweep> ReadDescription(const std::string& text, const std::string& name,
                                              const std::vector<std::string>& sets, bool stored) {
  config::Sweep sweep;
  absl::Status status = ParseConfigText(text, name, &sweep);
  if (!status.ok()) return WithExitCode(status, ExitCode::kUsage);
  status = CheckRanges(sweep);
  if (!status.ok()) return Invalid(name, ": ", std::string(status.message()));
  if (stored && sweep.base_size() > 0) return Invalid(name, ": base: expected none in a study's folder");
  ASSIGN_OR_RETURN(*sweep.mutable_run(), MergeRun(sweep.base(), sweep.run()));
  sweep.clear_base();
  for (const std::string& set : sets) {
    status = SetField(set, &sweep);
    if (status.ok()) status = CheckRanges(sweep);
    if (!status.ok()) return Invalid("--set ", PrintableName(set), ": ", std::string(status.message()));
  }
  return sweep;
}

absl::StatusOr<SweepStudy> FromDescription(const config::Sweep& description) {
  if (description.out().empty()) return Invalid("out: expected the study's folder, such as out: \"results/study\"");
  SweepStudy sweep{.name = description.name(),
                   .folder = description.out(),
                   .cluster = description.cluster(),
                   .budget = {description.budget().images(), description.budget().train_gflops()},
                   .launch = ToLaunchOptions(description.launch()),
                   .slurm = ToSlurmResources(description.slurm()),
                   .text = PrintConfigText(description)};
  if (!IsPlainName(sweep.name)) {
    return Invalid("name: expected letters, digits and \"._-\", got ", Quoted(sweep.name));
  }
  if (description.has_evaluation()) {
    RETURN_IF_ERROR(CheckEvaluation(description.evaluation()));
    sweep.evaluation = ToEvaluation(description.evaluation());
  }
  RETURN_IF_ERROR(FitSlurm(&sweep));
  ASSIGN_OR_RETURN(sweep.runs, MakeRuns(description));
  return sweep;
}

absl::StatusOr<SweepStudy> Parse(const std::string& text, const std::string& name, const std::vector<std::string>& sets,
                                 bool stored) {
  ASSIGN_OR_RETURN(const config::Sweep description, ReadDescription(text, name, sets, stored));
  absl::StatusOr<SweepStudy> sweep = FromDescription(description);
  if (!sweep.ok()) return Invalid(name, ": ", std::string(sweep.status().message()));
  return sweep;
}

absl::StatusOr<SweepStudy> Load(const std::string& path, const std::vector<std::string>& sets, bool stored) {
  const absl::StatusOr<std::string> text = ReadWholeFile(path, kMaxConfigBytes);
  if (!text.ok()) return WithExitCode(text.status(), ExitCode::kUsage);
  return Parse(*text, PrintableName(path), sets, stored);
}

}  // namespace

std::string SweepStudy::RunPath(const SweepRun& run) const { return JoinPath(JoinPath(folder, "runs"), run.name); }

std::string SweepStudy::ConfigPath(const SweepRun& run) const {
  return JoinPath(JoinPath(folder, "configs"), run.name + ".textproto");
}

std::string SweepStudy::CheckpointPath(const SweepRun& run, int64_t step) const {
  return JoinPath(JoinPath(RunPath(run), "checkpoints"), StepFolderName(step));
}

std::string SweepStudy::EvaluationPath(const SweepRun& run, int64_t step, const std::string& ending) const {
  return JoinPath(JoinPath(RunPath(run), "evaluation"), StepFolderName(step) + ending);
}

absl::StatusOr<SweepStudy> ParseSweepText(const std::string& text, const std::string& name,
                                          const std::vector<std::string>& sets) {
  return Parse(text, name, sets, /*stored=*/false);
}

absl::StatusOr<SweepStudy> LoadSweep(const std::string& path, const std::vector<std::string>& sets) {
  return Load(path, sets, /*stored=*/false);
}

absl::StatusOr<SweepStudy> LoadStoredSweep(const std::string& path) { return Load(path, {}, /*stored=*/true); }

}  // namespace shardit
