#include "launch/sampling_flags.h"

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/status_macros.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

absl::StatusOr<std::vector<int64_t>> ParseClasses(const std::string& text) {
  std::vector<int64_t> classes;
  if (text == "all") return classes;
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(text, ','))) {
    int64_t label = 0;
    if (!absl::SimpleAtoi(part, &label) || label < 0) {
      return WithExitCode(
          absl::InvalidArgumentError(absl::StrCat("--classes: expected all or labels such as 3,5, got \"", text, "\"")),
          ExitCode::kUsage);
    }
    classes.push_back(label);
  }
  return classes;
}

}  // namespace

void SamplingFlags::Add(CLI::App* command, SampleRequest* request) {
  command->add_option("--config", request->config_path, "Model of a weight file without one")->type_name("FILE");
  command->add_option("--steps,--num-sampling-steps", request->steps, "Sampling steps (default 250)")
      ->type_name("N")
      ->check(CLI::Range(int64_t{2}, int64_t{100000}, ""));
  command->add_option("--sampler", sampler_, "ddpm or ddim (default ddpm)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"ddpm", "ddim"}));
  command->add_option("--eta", request->eta, "Noise of DDIM, 0 to 1 (default 0)")
      ->type_name("X")
      ->check(CLI::Range(0.0, 1.0, ""));
  command->add_option("--cfg-scale", request->cfg_scale, "Classifier-free guidance (default 1: none)")
      ->type_name("X")
      ->check(CLI::Range(0.0, 1000.0, ""));
  command->add_option("--cfg-channels", request->cfg_channels, "Guided channels: 3, or 0 for all")
      ->type_name("N")
      ->check(CLI::IsMember({0, 3}));
  command->add_option("--seed,--global-seed", request->seed, "Sample i depends on (seed, i)")->type_name("N");
  command->add_option("--classes", classes_, "all, or labels to repeat")->type_name("3,5");
  command->add_option("--weights", weights_, "ema or model (default ema)")
      ->type_name("WHICH")
      ->check(CLI::IsMember({"ema", "model"}));
  command->add_option("--threads", request->threads, "Threads a rank (0: cores / ranks)")
      ->type_name("N")
      ->check(CLI::Range(int64_t{0}, int64_t{4096}, ""));
  command->add_option("--device", device_, "auto, cpu or cuda (default auto)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  command->add_option("--precision", precision_, "fp32, or tf32 on a GPU (default fp32)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"fp32", "tf32"}));
}

absl::Status SamplingFlags::Apply(SampleRequest* request) const {
  ASSIGN_OR_RETURN(request->classes, ParseClasses(classes_));
  request->ddim = sampler_ == "ddim";
  request->ema = weights_ == "ema";
  request->device = device_ == "auto"  ? DeviceChoice::kAuto
                    : device_ == "cpu" ? DeviceChoice::kCpu
                                       : DeviceChoice::kCuda;
  request->precision = precision_ == "tf32" ? Precision::kTf32 : Precision::kFp32;
  return absl::OkStatus();
}

}  // namespace shardit
