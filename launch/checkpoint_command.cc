// shardit checkpoint: list, describe, verify and export the checkpoints of a run.
#include <spdlog/fmt/fmt.h>

#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "launch/command_line.h"
#include "nlohmann/json.hpp"
#include "trainer/checkpoint_export.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

struct PathFlags {
  std::string path;
  bool json = false;
};

// JSON is UTF-8: bytes of foreign names that are not are replaced.
std::string Dump(const nlohmann::ordered_json& json) {
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

// Bytes of every shard file, as the manifest states them.
int64_t TotalBytes(const Manifest& manifest) {
  int64_t bytes = 0;
  for (const StoredShard& shard : manifest.shards) bytes += shard.file_bytes;
  return bytes;
}

absl::Status List(const PathFlags& flags) {
  ASSIGN_OR_RETURN(const std::string folder, CheckpointsFolder(flags.path));
  ASSIGN_OR_RETURN(const std::vector<CommittedCheckpoint> checkpoints, ListCheckpoints(folder));
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  std::string table = fmt::format("{:>10} {:>14} {:>8} {}", "step", "bytes", "manifest", "folder");
  for (const CommittedCheckpoint& checkpoint : checkpoints) {
    const absl::StatusOr<CheckpointReader> reader = CheckpointReader::Open(checkpoint.folder);
    const int64_t bytes = reader.ok() ? TotalBytes(reader->manifest()) : 0;
    const std::string error(reader.status().message());
    rows.push_back({{"step", checkpoint.step}, {"folder", checkpoint.folder}, {"good", reader.ok()}, {"bytes", bytes}});
    if (!reader.ok()) rows.back()["error"] = error;
    fmt::format_to(std::back_inserter(table), "\n{:>10} {:>14} {:>8} {}", checkpoint.step, bytes,
                   reader.ok() ? "good" : "bad", absl::CHexEscape(reader.ok() ? checkpoint.folder : error));
  }
  return Print(flags.json ? Dump(rows) : table);
}

nlohmann::ordered_json ManifestJson(const CheckpointReader& reader) {
  const RunState& state = reader.state();
  nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
  for (const StoredTensor& tensor : reader.manifest().tensors) {
    tensors.push_back({{"group", std::string(GroupName(tensor.group))},
                       {"name", tensor.name},
                       {"shape", tensor.shape},
                       {"slices", tensor.slices.size()}});
  }
  const RunLayout& layout = state.layout;
  return {{"folder", reader.folder()},
          {"run_id", state.run_id},
          {"program_version", state.program_version},
          {"step", state.step},
          {"images_seen", state.images_seen},
          {"ema_updates", state.ema_updates},
          {"optimizer_updates", state.optimizer_updates},
          {"skipped_steps", state.skipped_steps},
          {"seed", state.seed},
          {"config_hash", fmt::format("{:016x}", state.config_hash)},
          {"layout",
           {{"world", layout.world},
            {"dp", layout.dp},
            {"tp", layout.tp},
            {"pp", layout.pp},
            {"zero_stage", layout.zero_stage}}},
          {"bytes", TotalBytes(reader.manifest())},
          {"shards", reader.manifest().shards.size()},
          {"config", state.config_text},
          {"tensors", tensors}};
}

absl::Status Show(const PathFlags& flags) {
  ASSIGN_OR_RETURN(const CheckpointReader reader, OpenCheckpoint(flags.path));
  return Print(flags.json ? Dump(ManifestJson(reader)) : DescribeCheckpoint(reader));
}

absl::Status Verify(const PathFlags& flags) {
  ASSIGN_OR_RETURN(const CheckpointReader reader, OpenCheckpoint(flags.path));
  const std::vector<absl::Status> errors = reader.Verify();
  nlohmann::ordered_json lines = nlohmann::ordered_json::array();
  for (const absl::Status& error : errors) lines.push_back(std::string(error.message()));
  if (flags.json) {
    RETURN_IF_ERROR(Print(Dump({{"folder", reader.folder()},
                                {"step", reader.state().step},
                                {"bytes", TotalBytes(reader.manifest())},
                                {"good", errors.empty()},
                                {"errors", lines}})));
  } else if (errors.empty()) {
    RETURN_IF_ERROR(Print(fmt::format("{}: step {}, {} bytes, every checksum holds", absl::CHexEscape(reader.folder()),
                                      reader.state().step, TotalBytes(reader.manifest()))));
  }
  if (errors.empty()) return absl::OkStatus();
  const std::string more = errors.size() > 1 ? absl::StrCat(" (and ", errors.size() - 1, " more)") : "";
  return absl::DataLossError(absl::StrCat(std::string(errors.front().message()), more));
}

void AddPathCommand(CommandLine& line, CLI::App* parent, const std::string& name, const std::string& description,
                    absl::Status (*run)(const PathFlags&)) {
  CLI::App* command = line.Add(name, description, "shardit checkpoint " + name + " results/run", parent);
  auto* flags = line.Keep<PathFlags>();
  command->add_option("path", flags->path, "Run folder or checkpoint folder")->type_name("DIR")->required();
  command->add_flag("--json", flags->json, "Print one JSON document");
  line.OnOneRank(command, [flags, run] { return run(*flags); });
}

void AddExport(CommandLine& line, CLI::App* parent) {
  struct Flags {
    std::string path, weights = "ema", format = "dit", out;
  };
  CLI::App* command = line.Add("export", "Write the weights as one safetensors file",
                               "shardit checkpoint export results/run --out dit.safetensors", parent);
  auto* flags = line.Keep<Flags>();
  command->add_option("path", flags->path, "Run folder or checkpoint folder")->type_name("DIR")->required();
  command->add_option("--weights", flags->weights, "ema or model (default ema)")
      ->type_name("WHICH")
      ->check(CLI::IsMember({"ema", "model"}));
  command->add_option("--format", flags->format, "dit: the published names (default)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"dit"}));
  command->add_option("--out", flags->out, "File to write")->type_name("FILE")->required();
  line.OnOneRank(command, [flags]() -> absl::Status {
    ASSIGN_OR_RETURN(const CheckpointReader reader, OpenCheckpoint(flags->path));
    const StateGroup group = flags->weights == "ema" ? StateGroup::kEma : StateGroup::kModel;
    RETURN_IF_ERROR(ExportWeights(PosixFileSystem(), reader, group, flags->out));
    return Print(fmt::format("wrote {}: {} weights of step {}", absl::CHexEscape(flags->out), flags->weights,
                             reader.state().step));
  });
}

}  // namespace

void AddCheckpointCommand(CommandLine& line) {
  CLI::App* command =
      line.Add("checkpoint", "List, verify and export checkpoints", "shardit checkpoint ls results/run");
  command->require_subcommand(1);
  AddPathCommand(line, command, "ls", "List the committed checkpoints of a run", &List);
  AddPathCommand(line, command, "show", "Print what a checkpoint holds", &Show);
  AddPathCommand(line, command, "verify", "Read every byte and check it", &Verify);
  AddExport(line, command);
}

}  // namespace shardit
