#include "trainer/train/train.h"

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "model/dit_variants.h"
#include "trainer/train/training_run.h"

namespace shardit {

absl::Status Train(World& world, const TrainRequest& request) {
  ASSIGN_OR_RETURN(const std::unique_ptr<TrainingRun> run, TrainingRun::Create(world, request));
  return run->Loop();
}

absl::StatusOr<std::string> DescribeRun(const ResolvedConfig& config, int64_t world) {
  const RunOptions& options = config.options;
  const int64_t parameters = ParameterCount(options.model);
  const double gmacs = GmacsForward(options.model);
  const int64_t epochs_of = options.train.steps * options.train.global_batch;
  constexpr int64_t kStateBytes = 5 * 4;  // weight, gradient, two moments and EMA, fp32
  return absl::StrCat("ranks            ", world, " (dp ", options.parallel.dp, ")\n",  //
                      "parameters       ", parameters, "\n",                            //
                      "state per rank   ", parameters * kStateBytes, " bytes\n",        //
                      "forward          ", gmacs, " GMAC per image\n",                  //
                      "training         ", 6.0 * gmacs, " GFLOP per image\n",           //
                      "micro-batch      ", options.train.micro_batch, " x ",            //
                      options.train.global_batch / (options.parallel.dp * options.train.micro_batch),
                      " per rank and step\n", "images           ", epochs_of, " in ", options.train.steps, " steps\n");
}

}  // namespace shardit
