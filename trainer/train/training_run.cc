#include "trainer/train/training_run.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "model/dit_variants.h"
#include "parallel/comm/agree_status.h"
#include "trainer/checkpoint/checkpoint_names.h"
#include "trainer/plan/memory_advice.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/trace/merged_trace.h"
#include "trainer/train/compute_device.h"
#include "trainer/weights/weights_file.h"

namespace shardit {
namespace {

using Clock = std::chrono::steady_clock;

// Weight, EMA and both moments, fp32.
constexpr int64_t kSavedBytesPerParameter = 16;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }
double Milliseconds(Clock::duration duration) { return std::chrono::duration<double, std::milli>(duration).count(); }

NumericsState NumericsOf(const RunState& saved) {
  return {saved.skipped_in_a_row, saved.losses.observed, saved.losses.mean, saved.losses.variance};
}

RankExchange ExchangeOver(Communicator& comm) {
  return {comm.rank(), comm.size(), [&comm](const absl::Status& mine) { return AgreeStatus(comm, mine); },
          [&comm](const std::string& mine) -> absl::StatusOr<std::vector<std::string>> {
            return comm.GatherBytes(mine, 0, {.tag = "slice tables", .control = true});
          }};
}

MeshShape ShapeOf(const RunOptions& options) {
  return {static_cast<int>(options.parallel.pp), static_cast<int>(options.parallel.dp),
          static_cast<int>(options.parallel.tp)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<TrainingRun>> TrainingRun::Create(World& world, const TrainRequest& request) {
  absl::StatusOr<Mesh> mesh = Mesh::Create(ShapeOf(request.config.options), world.comm());
  if (!mesh.ok()) return WithExitCode(mesh.status(), ExitCode::kUsage);
  SetThreadIdentity(mesh->Identity());
  const TrainOptions& train = request.config.options.train;
  ASSIGN_OR_RETURN(const Device device, ChooseDevice(world, train.device, train.precision));
  absl::StatusOr<Data> data = OpenData(request.config.options);
  RETURN_IF_ERROR(AgreeStatus(world.comm(), data.status()));
  RETURN_IF_ERROR(RunGuards::AgreeOnStart(world, request.config, *data->training));
  const absl::StatusOr<std::optional<double>> job_end = JobEnd::FromEnvironment();
  RETURN_IF_ERROR(AgreeStatus(world.comm(), job_end.status()));
  ASSIGN_OR_RETURN(const RankDevice rank_device, PlanMemory(world, request.config.options, device));
  auto run = std::unique_ptr<TrainingRun>(
      new TrainingRun(world, request, rank_device, *std::move(mesh), *std::move(data), *job_end));
  RETURN_IF_ERROR(run->LoadOrInitialize());
  return run;
}

TrainingRun::TrainingRun(World& world, const TrainRequest& request, const RankDevice& device, Mesh mesh, Data data,
                         std::optional<double> job_end)
    : world_(world),
      request_(request),
      options_(request_.config.options),
      share_(DivideCpus(world, options_.train.threads)),
      context_(MakeRankContext(device, share_)),
      mesh_(std::move(mesh)),
      comms_(mesh_, context_),
      checkpoint_comm_(world.comm().Split(0, world.rank(), "checkpoint")),
      guards_(world, mesh_, context_, options_.train),
      data_(std::move(data)),
      state_(options_.model,
             MakeSharding(options_.model, options_.parallel, options_.train.deterministic, mesh_.shape(),
                          mesh_.coords(), ComputeType(options_.train.precision)),
             context_.allocator()),
      diffusion_(options_.diffusion),
      optimizer_(options_.optimizer, options_.ema, options_.train.steps),
      step_(context_, state_, diffusion_, optimizer_, comms_,
            {.seed = options_.train.seed,
             .global_batch = options_.train.global_batch,
             .micro_batch = options_.train.micro_batch,
             .recompute = options_.parallel.recompute,
             .check_finite = options_.train.check_finite,
             .beacon = &guards_.beacon(),
             .numerics = &guards_.numerics(),
             .cuda_graph = options_.train.cuda_graph}),
      evaluation_(context_, state_, comms_, diffusion_, options_),
      job_end_(job_end, GuessForJobEnd()),
      peak_flops_(PeakFlops(device.device)) {
  BindToShare(share_);
  if (!request_.trace.empty()) context_.timeline().Enable();
  SetFailureReport([this] { return LastOperations(); });
  if (context_.on_cuda()) {
    context_.allocator().set_advice(
        [this, budget = device.budget_bytes] { return MemoryAdvice(options_, mesh_.shape(), budget); });
  }
}

absl::StatusOr<RankDevice> TrainingRun::PlanMemory(World& world, const RunOptions& options, Device device) {
  const TrainOptions& train = options.train;
  const MeshShape shape = ShapeOf(options);
  RankDevice plan{
      .device = device, .precision = train.precision, .deterministic = train.deterministic, .tune = shape.tp == 1};
  if (device.is_cpu()) return plan;
  const int64_t planned = PlannedGpuMemory(options, shape).peak_bytes_in_use;
  const int64_t budget = MemoryBudget(world, device, shape);
  absl::Status fits;
  if (planned > budget) {
    fits = WithExitCode(
        absl::ResourceExhaustedError(absl::StrCat("this run does not fit: ", MemoryAdvice(options, shape, budget))),
        ExitCode::kUsage);
  }
  RETURN_IF_ERROR(AgreeStatus(world.comm(), fits));
  // Parts of the arena that no request fits cost a few percent.
  constexpr double kSlack = 1.02;
  plan.reserve_bytes = std::min(static_cast<int64_t>(kSlack * static_cast<double>(planned)), budget);
  plan.budget_bytes = budget;
  return plan;
}

TrainingRun::~TrainingRun() { SetFailureReport(nullptr); }

std::string TrainingRun::LastOperations() {
  constexpr size_t kOperations = 24;
  constexpr int64_t kCollectives = 16;
  const std::vector<const char*> operations = context_.ops().Last();
  std::string report = absl::StrCat("last operations of step ", state_.step + 1, ":");
  for (size_t i = operations.size() - std::min(operations.size(), kOperations); i < operations.size(); ++i) {
    absl::StrAppend(&report, " ", operations[i]);
  }
  report += "\nlast collectives:\n";
  const Clock::time_point now = Clock::now();
  for (const CollectiveRecord& record : world_.log().Last(kCollectives)) report += Format(record, now) + "\n";
  return report;
}

absl::StatusOr<TrainingRun::Data> TrainingRun::OpenData(const RunOptions& options) {
  const DitConfig& model = options.model;
  const auto open = [&](const std::string& path) -> absl::StatusOr<std::shared_ptr<const Dataset>> {
    ASSIGN_OR_RETURN(std::shared_ptr<const Dataset> dataset,
                     Dataset::Open({.path = path, .in_memory = options.data.in_memory, .classes = model.classes}));
    const LatentShape& shape = dataset->shape();
    if (shape.channels != model.channels || shape.height != model.side || shape.width != model.side) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: latents are %d x %d x %d, the model takes %d x %d x %d; set model.channels and model.side, or use other "
          "data",
          Quoted(path), shape.channels, shape.height, shape.width, model.channels, model.side, model.side));
    }
    return dataset;
  };
  Data data;
  ASSIGN_OR_RETURN(data.training, open(options.data.path));
  if (!options.data.validation_path.empty()) {
    ASSIGN_OR_RETURN(data.validation, open(options.data.validation_path));
  }
  return data;
}

absl::Status TrainingRun::LoadOrInitialize() {
  if (!request_.init_from.empty()) {
    RETURN_IF_ERROR(AgreeStatus(world_.comm(), LoadWeights(request_.init_from, state_)));
  } else {
    state_.Initialize(options_.train.seed);
  }
  RETURN_IF_ERROR(guards_.TakeFolder(request_.out));
  ASSIGN_OR_RETURN(folder_, RunFolder::Open(world_.comm(), request_.out));
  ASSIGN_OR_RETURN(const std::optional<Resumed> resumed,
                   ResumeState(world_.comm(), folder_->checkpoints(), request_.resume, /*below=*/std::nullopt,
                               request_.config, state_));
  if (resumed.has_value()) guards_.numerics().Restore(NumericsOf(resumed->state));
  state_.RefreshComputeWeights(context_);
  RETURN_IF_ERROR(guards_.CheckStart(*folder_, ParameterCount(options_.model) * kSavedBytesPerParameter, state_.step,
                                     request_.max_stalled_restarts));
  first_step_ = state_.step;
  last_saved_step_ = resumed.has_value() ? state_.step : -1;

  CheckpointWriter writer({.checkpoints = folder_->checkpoints(),
                           .run_id = folder_->run_id,
                           .attempt = folder_->attempt,
                           .retention = {options_.checkpoint.keep_last, options_.checkpoint.keep_every},
                           .pieces = &guards_.beacon().pieces()},
                          ExchangeOver(*checkpoint_comm_));
  RETURN_IF_ERROR(writer.Prepare());
  checkpointer_ = std::make_unique<AsyncCheckpointer>(std::move(writer), options_.checkpoint.async);
  checkpointer_->Reserve(StateSlices(state_));

  RETURN_IF_ERROR(AgreeStatus(world_.comm(), OpenLoader()));
  RETURN_IF_ERROR(OpenSampleLog());
  absl::Status opened;
  if (world_.rank() == 0) opened = OpenReporter(resumed);
  return AgreeStatus(world_.comm(), opened);
}

// Images enter at the first unit and meet the loss at the last; ranks between the two need none.
absl::Status TrainingRun::OpenLoader() {
  const Sharding& sharding = state_.sharding();
  if (!sharding.holds_input() && !sharding.holds_output(state_.model())) return absl::OkStatus();
  // Virtual shards whose gradients meet rank by rank are dealt out one by one.
  const bool dealt = sharding.deterministic && sharding.zero_stage >= 2;
  ASSIGN_OR_RETURN(loader_,
                   Loader::Create(data_.training, {.seed = options_.train.seed,
                                                   .global_batch = options_.train.global_batch,
                                                   .dp_rank = mesh_.coords().dp,
                                                   .dp_size = mesh_.shape().dp,
                                                   .run = dealt ? options_.train.micro_batch : 0,
                                                   .flip = options_.data.flip,
                                                   .start_step = state_.step,
                                                   .prefetch = static_cast<int>(options_.data.prefetch_batches)}));
  return absl::OkStatus();
}

absl::Status TrainingRun::OpenReporter(const std::optional<Resumed>& resumed) {
  RETURN_IF_ERROR(folder_->WriteConfig(request_.config.text));
  ASSIGN_OR_RETURN(reporter_, RunReporter::Open({.run_folder = folder_->path,
                                                 .steps = options_.train.steps,
                                                 .resumed_step = state_.step,
                                                 .tensorboard = options_.log.tensorboard}));
  LOG_INFO(
      "{} parameters, {:.3f} GMAC forward per image; {} samples; {} rank(s) on {}; global batch {} as {} x {} x {}",
      ParameterCount(options_.model), GmacsForward(options_.model), data_.training->size(), world_.size(),
      DescribeDevice(context_.device(), share_), options_.train.global_batch, mesh_.shape().dp,
      options_.train.global_batch / (mesh_.shape().dp * options_.train.micro_batch), options_.train.micro_batch);
  if (!resumed.has_value()) return absl::OkStatus();
  for (const std::string& line : resumed->skipped) LOG_WARN("passed over a checkpoint: {}", line);
  for (const std::string& line : resumed->changed) LOG_WARN("changed since the checkpoint: {}", line);
  for (const std::string& line : resumed->set_aside) LOG_WARN("set aside a newer checkpoint: it is now {}", line);
  LOG_INFO("resumed from {} at step {}", resumed->folder, state_.step);
  return absl::OkStatus();
}

TrainingRun::Decision TrainingRun::AgreeOnNextStep(StopReason stop, bool data_failed) {
  int32_t flags[2] = {static_cast<int32_t>(stop), data_failed ? 1 : 0};
  // World, before the step: a rank that wants to stop, or has no batch, must not leave others in a reduction.
  comms_.control().AllReduce(flags, flags, 2, ReduceOp::kMax, {.tag = "flags", .control = true}).Wait();
  return {static_cast<StopReason>(flags[0]), flags[1] != 0};
}

absl::Status TrainingRun::Loop() {
  RETURN_IF_ERROR(guards_.StartWatching(comms_.all()));
  ASSIGN_OR_RETURN(const StopReason stop, RunSteps());
  // Whether this step is saved, all ranks know only when the save in flight has ended.
  guards_.beacon().Enter(Phase::kSave, state_.step);
  NoteSave(checkpointer_->Wait());
  // Nothing was computed since: after a signal during the start-up the next start stands where this one did.
  if (last_saved_step_ != state_.step && state_.step != first_step_) RETURN_IF_ERROR(SaveCheckpoint());
  RETURN_IF_ERROR(FinishSave());
  guards_.StopWatching();
  RETURN_IF_ERROR(WriteTrace());
  return stop == StopReason::kNone ? absl::OkStatus() : Stopped(stop);
}

absl::Status TrainingRun::Stopped(StopReason reason) const {
  const std::string_view signal = stop_signal_.name();  // empty where another rank got it
  const std::string why = reason == StopReason::kJobEnd                      ? " before the end of the job"
                          : reason == StopReason::kSignal && !signal.empty() ? absl::StrCat(" by ", std::string(signal))
                          : reason == StopReason::kSignal                    ? " by a signal"
                                                                             : "";
  // A command that names a step or folder would begin another branch there.
  const char* with = request_.resume == "auto" ? "" : " with --resume auto";
  return WithExitCode(
      absl::AbortedError(absl::StrCat("stopped", why, " at step ", state_.step, " of ", options_.train.steps,
                                      " with its state saved; run the same command", with, " to go on")),
      ExitCode::kRequeue);
}

absl::StatusOr<const Batch*> TrainingRun::NextBatch() {
  static const Batch kNone;
  if (loader_ == nullptr) return &kNone;
  const TimedSpan span(context_.timeline(), SpanKind::kDataWait, "batch");
  return loader_->Next();
}

absl::StatusOr<TrainingRun::StopReason> TrainingRun::RunSteps() {
  while (state_.step < options_.train.steps) {
    NoteSave(checkpointer_->Poll());
    const Clock::time_point begin = Clock::now();
    context_.timeline().BeginStep(state_.step);
    guards_.beacon().Enter(Phase::kDataWait, state_.step + 1);
    const absl::StatusOr<const Batch*> batch = NextBatch();
    guards_.beacon().Enter(Phase::kCollective, state_.step + 1);
    const Decision decision = AgreeOnNextStep(WantsToStop(), !batch.ok());
    if (decision.data_failed) {
      const absl::Status agreed = AgreeStatus(world_.comm(), batch.status());
      return WithExitCode(agreed, ExitCode::kIo);
    }
    if (decision.stop != StopReason::kNone) return decision.stop;
    bytes_before_ = comms_.BytesSent();
    const StepReport report = step_.Run(**batch);
    RETURN_IF_ERROR(AfterStep(report, **batch, begin));
    job_end_.TurnTook(Seconds(Clock::now() - begin));
  }
  return StopReason::kNone;
}

TrainingRun::StopReason TrainingRun::WantsToStop() const {
  if (stop_signal_.requested()) return StopReason::kSignal;
  const double unix_now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  const int64_t next = state_.step + 1;
  const JobEnd::NextTurn turn = {.validates = ValidatesAfter(next), .draws_grid = DrawsGridAfter(next)};
  if (job_end_.MustStop(unix_now, turn)) return StopReason::kJobEnd;
  const bool enough = request_.stop_after > 0 && state_.step - first_step_ >= request_.stop_after;
  return enough ? StopReason::kLimit : StopReason::kNone;
}

absl::Status TrainingRun::WriteTrace() {
  if (request_.trace.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<StepFigures> figures,
                   WriteMergedTrace(comms_.control(), context_.timeline(), PosixFileSystem(), request_.trace));
  if (figures.empty()) return absl::OkStatus();
  const StepFigures& last = figures.back();
  LOG_INFO(
      "wrote {}: step {} took {:.1f} ms of passes, bubble {:.3f}, {:.1f} ms blocked on rank 0, {:.0f}% of "
      "communication overlapped",
      request_.trace, last.step + 1, last.ms, last.bubble, last.exposed_ms.front(), 100.0 * last.overlap_share);
  return absl::OkStatus();
}

absl::Status TrainingRun::OpenSampleLog() {
  if (!options_.log.sample_ids) return absl::OkStatus();
  ASSIGN_OR_RETURN(sample_log_, SampleLog::Open(comms_.control(), folder_->path + "/samples.jsonl", state_.step));
  return absl::OkStatus();
}

absl::Status TrainingRun::AfterStep(const StepReport& report, const Batch& batch, StepReport::Time step_begin) {
  const int64_t step = state_.step;
  const double step_ms = Milliseconds(report.end - step_begin);
  MetricsRow row = MakeRow(report, batch.wait_ms, step_ms);
  const absl::StatusOr<std::optional<double>> validated = MaybeValidate();
  if (validated.ok()) row.validation_loss = *validated;

  absl::Status reported;
  const bool log = step == 1 || step % options_.log.every_steps == 0 || step == options_.train.steps ||
                   row.validation_loss.has_value() || !validated.ok();
  if (!report.non_finite_node.empty()) {
    LOG_WARN("{}: step {}: the first gradient that is not finite comes from {}", ThreadIdentity(), step,
             report.non_finite_node);
  }
  if (reporter_ != nullptr) {
    reporter_->StepDone(step, report.loss);
    if (log) reported = reporter_->Log(row);
  }
  if (log) RETURN_IF_ERROR(AgreeStatus(comms_.control(), reported));
  if (sample_log_.has_value()) {
    const bool speaks = state_.sharding().holds_input() && mesh_.coords().tp == 0;
    RETURN_IF_ERROR(sample_log_->Append(step, batch, speaks));
  }
  RETURN_IF_ERROR(MaybeSampleGrid());
  guards_.beacon().faults().FlipParameter(step, state_.weights());
  if (guards_.ComparesAfter(step)) {
    step_.FinishGather();
    RETURN_IF_ERROR(guards_.CompareReplicas(state_));
  }
  RETURN_IF_ERROR(JudgeNumbers(report, batch));
  const int64_t every = options_.checkpoint.every_steps;
  // Amid skipped steps the weights are under suspicion: the last checkpoint stays the one from before them.
  const bool sound = state_.step == step && guards_.numerics().state().skipped_in_a_row == 0;
  const bool due = (every > 0 && step % every == 0) || !validated.ok();
  if (sound && due) RETURN_IF_ERROR(SaveCheckpoint());
  if (validated.ok()) return absl::OkStatus();
  // Held-out samples that cannot be read end the run, but cost it no step.
  RETURN_IF_ERROR(FinishSave());
  return validated.status();
}

absl::Status TrainingRun::JudgeNumbers(const StepReport& report, const Batch& batch) {
  ASSIGN_OR_RETURN(const NumericsVerdict verdict, guards_.Judge(report, batch, state_.step));
  if (verdict == NumericsVerdict::kContinue) return absl::OkStatus();
  if (verdict == NumericsVerdict::kRollBack) return RollBack();
  return WithExitCode(absl::InternalError(absl::StrCat(
                          NumericsPolicy::kInARow, " steps in a row up to step ", state_.step,
                          " were skipped, again after going back to a checkpoint; skipped.jsonl names their samples")),
                      ExitCode::kNumerics);
}

// Back to the last checkpoint from before the failures, in place.
absl::Status TrainingRun::RollBack() {
  const int64_t failed = state_.step;
  step_.FinishGather();
  guards_.beacon().Enter(Phase::kSave, failed);
  NoteSave(checkpointer_->Wait());
  std::optional<Resumed> resumed;
  int64_t below = failed;
  // A run that was stopped amid skipped steps has saved them.
  do {
    ASSIGN_OR_RETURN(resumed, ResumeState(world_.comm(), folder_->checkpoints(), "auto", below, request_.config, state_,
                                          &guards_.beacon().pieces()));
    if (!resumed.has_value()) {
      return WithExitCode(
          absl::InternalError(absl::StrCat(
              NumericsPolicy::kInARow, " steps in a row up to step ", failed,
              " were skipped and no checkpoint lies before them; skipped.jsonl names their samples; a smaller "
              "optimizer.learning_rate or optimizer.clip_norm may help")),
          ExitCode::kNumerics);
    }
    below = resumed->state.step;
  } while (resumed->state.skipped_in_a_row > 0);
  guards_.numerics().Restore(NumericsOf(resumed->state));
  state_.RefreshComputeWeights(context_);
  last_saved_step_ = state_.step;
  loader_.reset();
  RETURN_IF_ERROR(AgreeStatus(world_.comm(), OpenLoader()));
  RETURN_IF_ERROR(OpenSampleLog());
  absl::Status reopened;
  if (reporter_ != nullptr) {
    LOG_WARN("{} steps in a row were skipped: back from step {}", NumericsPolicy::kInARow, failed);
    reopened = OpenReporter(resumed);
  }
  return AgreeStatus(world_.comm(), reopened);
}

MetricsRow TrainingRun::MakeRow(const StepReport& report, double wait_ms, double step_ms) {
  MetricsRow row;
  row.step = state_.step;
  row.images = state_.step * options_.train.global_batch;
  row.epoch = static_cast<double>(row.images) / static_cast<double>(data_.training->size());
  row.loss = report.loss;
  row.mse = report.mse;
  row.vb = report.vb;
  row.grad_norm = report.update.grad_norm;
  row.learning_rate = report.update.learning_rate;
  row.step_ms = step_ms;
  row.images_per_s = static_cast<double>(options_.train.global_batch) / (step_ms * 1e-3);
  row.tflops = static_cast<double>(TrainFlops(options_.model)) * row.images_per_s * 1e-12;
  row.mfu = row.tflops * 1e12 / (peak_flops_ * world_.size());
  row.data_wait_ms = wait_ms;
  row.exposed_comm_ms = context_.timeline().waited_ms();
  const StepComms::Bytes sent = comms_.BytesSent();
  row.bytes_sent_dp = sent.dp - bytes_before_.dp;
  row.bytes_sent_tp = sent.tp - bytes_before_.tp;
  row.bytes_sent_pp = sent.pp - bytes_before_.pp;
  row.overlapped_bytes = report.reduce.overlapped_bytes;
  row.peak_bytes = context_.allocator().stats().peak_bytes_in_use;
  row.skipped = state_.skipped;
  return row;
}

bool TrainingRun::ValidatesAfter(int64_t step) const {
  const int64_t every = options_.log.validate_every;
  return data_.validation != nullptr && (step == options_.train.steps || (every > 0 && step % every == 0));
}

bool TrainingRun::DrawsGridAfter(int64_t step) const {
  const int64_t every = options_.log.sample_every;
  return every > 0 && step % every == 0;
}

// Forward passes of an image, each taken to cost what the image costs in a step: a few times too much for most models.
JobEnd::Guess TrainingRun::GuessForJobEnd() const {
  const double batch = static_cast<double>(options_.train.global_batch), ranks = world_.size();
  int64_t held_out = data_.validation == nullptr ? 0 : data_.validation->size();
  const LogOptions& log = options_.log;
  if (log.validation_samples > 0) held_out = std::min(held_out, log.validation_samples);
  const int64_t passes = log.sample_steps * (log.sample_cfg_scale == 1.0 ? 1 : 2);
  const int64_t drawn = std::min<int64_t>(options_.model.classes, 10) * log.sample_per_class * passes;
  return {.saved_bytes = ParameterCount(options_.model) * kSavedBytesPerParameter / world_.size(),
          .validation_turns = static_cast<double>(held_out) / batch,
          // One rank draws.
          .grid_turns = static_cast<double>(drawn) * ranks / batch};
}

absl::StatusOr<std::optional<double>> TrainingRun::MaybeValidate() {
  if (!ValidatesAfter(state_.step)) return std::optional<double>();
  const Clock::time_point begin = Clock::now();
  guards_.beacon().Enter(Phase::kValidate, state_.step);
  ASSIGN_OR_RETURN(const double loss, evaluation_.HeldOutLoss(*data_.validation));
  job_end_.ExtraTook(JobEnd::Extra::kValidation, Seconds(Clock::now() - begin));
  return std::optional<double>(loss);
}

absl::Status TrainingRun::MaybeSampleGrid() {
  if (!DrawsGridAfter(state_.step)) return absl::OkStatus();
  const Clock::time_point begin = Clock::now();
  guards_.beacon().Enter(Phase::kSample, state_.step);
  ASSIGN_OR_RETURN(const std::optional<Image> grid, evaluation_.SampleGrid());
  RETURN_IF_ERROR(AgreeStatus(comms_.control(), grid.has_value() ? WriteGrid(*grid) : absl::OkStatus()));
  job_end_.ExtraTook(JobEnd::Extra::kGrid, Seconds(Clock::now() - begin));
  return absl::OkStatus();
}

absl::Status TrainingRun::WriteGrid(const Image& grid) {
  ASSIGN_OR_RETURN(const std::string png, EncodePng(grid));
  const std::string path = absl::StrCat(folder_->samples(), "/", StepFolderName(state_.step), ".png");
  RETURN_IF_ERROR(AtomicWriteFile(PosixFileSystem(), path, png));
  return reporter_->AddImage(state_.step, "samples/ema", png, static_cast<int>(grid.width),
                             static_cast<int>(grid.height), static_cast<int>(grid.channels));
}

absl::Status TrainingRun::SaveCheckpoint() {
  const Clock::time_point begin = Clock::now();
  const TimedSpan span(context_.timeline(), SpanKind::kSave, "save");
  guards_.beacon().Enter(Phase::kSave, state_.step);
  NoteSave(checkpointer_->Wait());
  // Rows up to this step are durable before the checkpoint that makes them final.
  absl::Status synced;
  if (reporter_ != nullptr) synced = reporter_->Sync();
  RETURN_IF_ERROR(AgreeStatus(comms_.control(), synced));
  RunState saved;
  saved.run_id = folder_->run_id;
  saved.config_hash = request_.config.hash;
  saved.config_text = request_.config.text;
  saved.program_version = SHARDIT_VERSION;
  saved.layout = {.world = world_.size(),
                  .dp = mesh_.shape().dp,
                  .tp = mesh_.shape().tp,
                  .pp = mesh_.shape().pp,
                  .zero_stage = state_.sharding().zero_stage};
  saved.step = state_.step;
  saved.images_seen = state_.step * options_.train.global_batch;
  saved.ema_updates = state_.updates;
  saved.optimizer_updates = state_.updates;
  saved.skipped_steps = state_.skipped;
  const NumericsState& numerics = guards_.numerics().state();
  saved.skipped_in_a_row = numerics.skipped_in_a_row;
  saved.losses = {numerics.observed, numerics.mean, numerics.variance};
  saved.seed = options_.train.seed;
  checkpointer_->Save(saved, StateSlices(state_), begin);
  job_end_.SaveStalled(Seconds(Clock::now() - begin));
  last_saved_step_ = state_.step;
  return absl::OkStatus();
}

absl::Status TrainingRun::FinishSave() {
  guards_.beacon().Enter(Phase::kSave, state_.step);
  const absl::Status ended = checkpointer_->Wait();
  if (!ended.ok()) return WithExitCode(ended, ExitCode::kIo);
  NoteSave(ended);
  return absl::OkStatus();
}

void TrainingRun::NoteSave(const absl::Status& ended) {
  if (!ended.ok()) {
    last_saved_step_ = -1;
    if (reporter_ != nullptr) LOG_WARN("a save failed, the next one tries again: {}", std::string(ended.message()));
  }
  const std::optional<CheckpointTiming> timing = checkpointer_->TakeReport();
  if (!timing.has_value()) return;
  job_end_.SaveTook(1e-3 * (timing->stall_ms + timing->write_ms));
  if (reporter_ == nullptr) return;
  LOG_INFO("saved {}: stalled {:.1f} ms, written in {:.0f} ms", timing->save.folder, timing->stall_ms,
           timing->write_ms);
  for (const std::string& line : timing->save.warnings) LOG_WARN("checkpoint {}: {}", timing->save.step, line);
}

}  // namespace shardit
