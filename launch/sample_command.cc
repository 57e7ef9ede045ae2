// shardit sample: images from a checkpoint or a weight file.
#include <charconv>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/status_macros.h"
#include "launch/command_line.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/sample.h"

namespace shardit {
namespace {

struct Flags {
  SampleRequest request;
  std::string sampler = "ddpm";
  std::string classes = "all";
  std::string weights = "ema";
  std::string device = "auto";
  std::string precision = "fp32";
};

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

absl::Status Run(World& world, Flags& flags) {
  ASSIGN_OR_RETURN(flags.request.classes, ParseClasses(flags.classes));
  flags.request.ddim = flags.sampler == "ddim";
  flags.request.ema = flags.weights == "ema";
  flags.request.device = flags.device == "auto"  ? DeviceChoice::kAuto
                         : flags.device == "cpu" ? DeviceChoice::kCpu
                                                 : DeviceChoice::kCuda;
  flags.request.precision = flags.precision == "tf32" ? Precision::kTf32 : Precision::kFp32;
  return RunSample(world, flags.request);
}

}  // namespace

void AddSampleCommand(CommandLine& line) {
  CLI::App* command = line.Add("sample", "Draw images from a trained model",
                               "shardit sample --checkpoint results/run --num 100 \\\n"
                               "      --cfg-scale 1.5 --out samples.png");
  Flags* flags = line.Keep<Flags>();
  SampleRequest& request = flags->request;
  command->add_option("--checkpoint", request.checkpoint, "Run, checkpoint or .safetensors")
      ->type_name("PATH")
      ->required();
  command->add_option("--config", request.config_path, "Model of a weight file without one")->type_name("FILE");
  command->add_option("--num,--num-fid-samples", request.num, "Number of samples")
      ->type_name("N")
      ->required()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40, ""));
  command->add_option("--steps,--num-sampling-steps", request.steps, "Sampling steps (default 250)")
      ->type_name("N")
      ->check(CLI::Range(int64_t{2}, int64_t{100000}, ""));
  command->add_option("--sampler", flags->sampler, "ddpm or ddim (default ddpm)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"ddpm", "ddim"}));
  command->add_option("--eta", request.eta, "Noise of DDIM, 0 to 1 (default 0)")
      ->type_name("X")
      ->check(CLI::Range(0.0, 1.0, ""));
  command->add_option("--cfg-scale", request.cfg_scale, "Classifier-free guidance (default 1: none)")
      ->type_name("X")
      ->check(CLI::Range(0.0, 1000.0, ""));
  command->add_option("--cfg-channels", request.cfg_channels, "Guided channels: 3, or 0 for all")
      ->type_name("N")
      ->check(CLI::IsMember({0, 3}));
  command->add_option("--seed,--global-seed", request.seed, "Sample i depends on (seed, i)")->type_name("N");
  command->add_option("--classes", flags->classes, "all, or labels to repeat")->type_name("3,5");
  command->add_option("--weights", flags->weights, "ema or model (default ema)")
      ->type_name("WHICH")
      ->check(CLI::IsMember({"ema", "model"}));
  command->add_option("--batch", request.batch, "Samples a forward pass (0: chosen)")
      ->type_name("N")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20, ""));
  command->add_option("--threads", request.threads, "Threads a rank (0: cores / ranks)")
      ->type_name("N")
      ->check(CLI::Range(int64_t{0}, int64_t{4096}, ""));
  command->add_option("--device", flags->device, "auto, cpu or cuda (default auto)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  command->add_option("--precision", flags->precision, "fp32, or tf32 on a GPU (default fp32)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"fp32", "tf32"}));
  command->add_option("--out", request.out, "Images: .npz or .png")->type_name("FILE")->required();
  line.OnEveryRank(command, [flags](World& world) { return Run(world, *flags); });
}

}  // namespace shardit
