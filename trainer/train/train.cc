#include "trainer/train/train.h"

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "model/dit_variants.h"
#include "trainer/plan/measure_machine.h"
#include "trainer/plan/plan_report.h"
#include "trainer/plan/run_plan.h"
#include "trainer/train/stop_signal.h"
#include "trainer/train/training_run.h"

namespace shardit {

absl::Status Train(World& world, const TrainRequest& request) {
  const StopSignal signals;  // a signal during the start-up is for the first step boundary
  ASSIGN_OR_RETURN(const std::unique_ptr<TrainingRun> run, TrainingRun::Create(world, request));
  return run->Loop();
}

absl::StatusOr<std::string> DescribeRun(const ResolvedConfig& config) {
  const RunOptions& options = config.options;
  const ClusterFigures figures = MeasureMachine();
  ASSIGN_OR_RETURN(const RunPlan plan, PlanRun(options, figures));
  const double gmacs = GmacsForward(options.model);
  return absl::StrCat("forward          ", gmacs, " GMAC per image\n",         //
                      "training         ", 6.0 * gmacs, " GFLOP per image\n",  //
                      "images           ", options.train.steps * options.train.global_batch, " in ",
                      options.train.steps, " steps\n", PlanText(plan, figures));
}

}  // namespace shardit
