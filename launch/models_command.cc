// shardit models: the 12 sizes x 4 conditionings and what they cost.
#include <spdlog/fmt/fmt.h>

#include <string>

#include "launch/command_line.h"
#include "launch/json/json.h"
#include "model/dit_variants.h"

namespace shardit {
namespace {

std::string ModelsJson() {
  Json rows = Json::array();
  for (const DitConfig& model : AllVariants()) {
    rows.push_back({{"name", model.name},
                    {"conditioning", std::string(Name(model.conditioning))},
                    {"parameters", ParameterCount(model)},
                    {"gmacs_forward", GmacsForward(model)},
                    {"flops_train", TrainFlops(model)}});
  }
  return JsonText(rows);
}

std::string ModelsTable() {
  std::string table = fmt::format("{:<9} {:<16} {:>13} {:>14} {:>17}\n", "name", "conditioning", "parameters",
                                  "GMACs forward", "GFLOPs train");
  for (const DitConfig& model : AllVariants()) {
    fmt::format_to(std::back_inserter(table), "{:<9} {:<16} {:>13} {:>14.2f} {:>17.2f}\n", model.name,
                   Name(model.conditioning), ParameterCount(model), GmacsForward(model), 1e-9 * TrainFlops(model));
  }
  table +=
      "Per image: 4 x 32 x 32 latents, 1000 classes, learned sigma. The paper's \"Gflops\"\n"
      "are multiply-accumulates (GMACs); training is 3 forwards of 2 operations each.";
  return table;
}

}  // namespace

void AddModelsCommand(CommandLine& line) {
  CLI::App* command = line.Add("models", "List the paper's models and their cost", "shardit models --json");
  bool* json = line.Keep<bool>();
  command->add_flag("--json", *json, "Print one JSON array");
  line.OnOneRank(command, [json] { return Print(*json ? ModelsJson() : ModelsTable()); });
}

}  // namespace shardit
