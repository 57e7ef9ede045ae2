// shardit sample: images from a checkpoint or a weight file.
#include <string>

#include "core/base/status_macros.h"
#include "launch/command_line.h"
#include "launch/sampling_flags.h"
#include "trainer/sample.h"

namespace shardit {
namespace {

struct Flags {
  SampleRequest request;
  SamplingFlags sampling;
};

absl::Status Run(World& world, Flags& flags) {
  RETURN_IF_ERROR(flags.sampling.Apply(&flags.request));
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
  command->add_option("--num,--num-fid-samples", request.num, "Number of samples")
      ->type_name("N")
      ->required()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40, ""));
  flags->sampling.Add(command, &request);
  command->add_option("--batch", request.batch, "Samples a forward pass (0: chosen)")
      ->type_name("N")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20, ""));
  command->add_option("--out", request.out, "Samples: .npz, or a .png grid")->type_name("FILE")->required();
  line.OnEveryRank(command, [flags](World& world) { return Run(world, *flags); });
}

}  // namespace shardit
