// TrainingRun: one start of a run on one rank: everything it owns, in the order of construction, and its loop. Private
// to trainer/train.
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "data/dataset.h"
#include "data/loader.h"
#include "parallel/mesh.h"
#include "trainer/checkpoint/async_checkpointer.h"
#include "trainer/metrics/run_reporter.h"
#include "trainer/train/compute_device.h"
#include "trainer/train/cpu_share.h"
#include "trainer/train/ema_evaluation.h"
#include "trainer/train/job_end.h"
#include "trainer/train/run_folder.h"
#include "trainer/train/run_guards.h"
#include "trainer/train/sample_log.h"
#include "trainer/train/state_checkpoint.h"
#include "trainer/train/stop_signal.h"
#include "trainer/train/train.h"
#include "trainer/train/train_step.h"

namespace shardit {

class TrainingRun {
 public:
  // Collective. Checks everything that can be wrong about data, folder and checkpoint before the first step.
  static absl::StatusOr<std::unique_ptr<TrainingRun>> Create(World& world, const TrainRequest& request);

  ~TrainingRun();

  // Collective: steps until the end of the run, or until a stop is asked for.
  absl::Status Loop();

 private:
  // The data sets of a run. Opened before anything of the model's size is allocated.
  struct Data {
    std::shared_ptr<const Dataset> training, validation;  // validation: null where there is none
  };
  TrainingRun(World& world, const TrainRequest& request, const RankDevice& device, Mesh mesh, Data data,
              std::optional<double> job_end);

  // How the rank computes on the device, and on a GPU how much of its memory it is to take, by plan. Before anything
  // large is allocated, a run that would not fit is refused with the changes that would make it.
  static absl::StatusOr<RankDevice> PlanMemory(World& world, const RunOptions& options, Device device);
  // For the report of a failed CHECK.
  std::string LastOperations();
  static absl::StatusOr<Data> OpenData(const RunOptions& options);
  absl::Status LoadOrInitialize();
  absl::Status OpenLoader();
  absl::Status OpenReporter(const std::optional<Resumed>& resumed);

  // The next step's samples; none where no end of the chain lives on this rank.
  absl::StatusOr<const Batch*> NextBatch();
  // Why a run stops before a step; the greatest that any rank has is the reason of all.
  enum class StopReason : int32_t { kNone, kLimit, kJobEnd, kSignal };
  StopReason WantsToStop() const;
  // What the loop does after step `step` besides saving.
  bool ValidatesAfter(int64_t step) const;
  bool DrawsGridAfter(int64_t step) const;
  JobEnd::Guess GuessForJobEnd() const;
  // What all ranks decide together before a step.
  struct Decision {
    StopReason stop = StopReason::kNone;
    bool data_failed = false;
  };
  Decision AgreeOnNextStep(StopReason stop, bool data_failed);
  absl::Status WriteTrace();
  // Until the end (kNone) or a stop.
  absl::StatusOr<StopReason> RunSteps();
  absl::Status Stopped(StopReason reason) const;
  absl::Status OpenSampleLog();
  absl::Status AfterStep(const StepReport& report, const Batch& batch, StepReport::Time step_begin);
  absl::Status JudgeNumbers(const StepReport& report, const Batch& batch);
  absl::Status RollBack();
  MetricsRow MakeRow(const StepReport& report, double wait_ms, double step_ms);
  absl::StatusOr<std::optional<double>> MaybeValidate();
  absl::Status MaybeSampleGrid();
  absl::Status WriteGrid(const Image& grid);
  // Begins a save of this step; one before it that failed is reported and forgotten.
  absl::Status SaveCheckpoint();
  // Waits for the save in flight, whose failure is the run's.
  absl::Status FinishSave();
  // Reports a save that ended with `ended`. After a failure no step counts as saved: the next save that is due tries
  // again, and a stop saves in any case.
  void NoteSave(const absl::Status& ended);

  World& world_;
  const TrainRequest request_;
  const RunOptions& options_;  // of request_
  const CpuShare share_;
  RankContext context_;
  Mesh mesh_;
  const StepComms comms_;
  std::unique_ptr<Communicator> checkpoint_comm_;
  RunGuards guards_;
  std::optional<RunFolder> folder_;
  const Data data_;
  TrainState state_;
  const Diffusion diffusion_;
  const Optimizer optimizer_;
  TrainStep step_;
  EmaEvaluation evaluation_;
  std::unique_ptr<Loader> loader_;  // null where no end of the chain lives on this rank
  std::unique_ptr<AsyncCheckpointer> checkpointer_;
  std::unique_ptr<RunReporter> reporter_;  // rank 0
  std::optional<SampleLog> sample_log_;    // where asked for
  StopSignal stop_signal_;
  JobEnd job_end_;
  int64_t first_step_ = 0;         // state_.step when this start began
  int64_t last_saved_step_ = -1;   // or being saved; -1: none
  const double peak_flops_;        // of this rank's device; not a number where it is not tabulated
  StepComms::Bytes bytes_before_;  // sent before the step being reported
};

}  // namespace shardit
