// shardit parity: one forward and backward on given tensors, to compare with other implementations.
#include <string>

#include "core/base/status_macros.h"
#include "launch/command_line.h"
#include "trainer/parity.h"
#include "trainer/train/compute_device.h"

namespace shardit {
namespace {

struct Flags {
  ConfigFlags config;
  std::string weights, inputs, outputs;
};

absl::Status Run(const Flags& flags) {
  ASSIGN_OR_RETURN(const ResolvedConfig config,
                   LoadRunConfig({flags.config.files, flags.config.sets}, ConfigUse::kModel, 1));
  const TrainOptions& train = config.options.train;
  World world = SelfWorld();
  ASSIGN_OR_RETURN(const Device device, ChooseDevice(world, train.device, train.precision));
  RankContext context = MakeRankContext({.device = device, .precision = train.precision, .deterministic = true},
                                        DivideCpus(world, train.threads));
  return RunParity(context, config.options, flags.weights, flags.inputs, flags.outputs);
}

}  // namespace

void AddParityCommand(CommandLine& line) {
  CLI::App* command = line.Add("parity", "One forward and backward on given tensors",
                               "shardit parity --config model.textproto --weights w.safetensors \\\n"
                               "      --inputs in.safetensors --outputs out.safetensors");
  Flags* flags = line.Keep<Flags>();
  AddConfigFlags(command, &flags->config, /*required=*/true);
  command->add_option("--weights", flags->weights, "Model parameters")->type_name("FILE")->required();
  command->add_option("--inputs", flags->inputs, "Tensors x, noise, t, y")->type_name("FILE")->required();
  command->add_option("--outputs", flags->outputs, "File to write")->type_name("FILE")->required();
  line.OnOneRank(command, [flags] { return Run(*flags); });
}

}  // namespace shardit
