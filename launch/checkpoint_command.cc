// shardit checkpoint: list, describe, verify, compare, reshard and export the checkpoints of a run.
#include <spdlog/fmt/fmt.h>

#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "launch/command_line.h"
#include "launch/json/json.h"
#include "trainer/checkpoint/checkpoint_names.h"
#include "trainer/checkpoint_diff.h"
#include "trainer/checkpoint_export.h"
#include "trainer/checkpoint_reshard.h"
#include "trainer/export_diffusers.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

// What `checkpoint diff` leaves with where two checkpoints differ: 1, as diff(1) and cmp(1) do; errors are 64 and
// above.
constexpr ExitCode kDiffer{1};

struct PathFlags {
  std::string path;
  bool json = false;
};

// JSON is UTF-8: bytes of foreign names that are not are replaced.
// Bytes of every shard file, as the manifest states them.
int64_t TotalBytes(const Manifest& manifest) {
  int64_t bytes = 0;
  for (const StoredShard& shard : manifest.shards) bytes += shard.file_bytes;
  return bytes;
}

std::string LayoutText(const RunLayout& layout) {
  return fmt::format("dp{} tp{} pp{} z{}", layout.dp, layout.tp, layout.pp, layout.zero_stage);
}

Json LayoutJson(const RunLayout& layout) {
  return {{"world", layout.world},
          {"dp", layout.dp},
          {"tp", layout.tp},
          {"pp", layout.pp},
          {"zero_stage", layout.zero_stage}};
}

absl::Status List(const PathFlags& flags) {
  ASSIGN_OR_RETURN(const std::string folder, CheckpointsFolder(flags.path));
  if (KindOfPath(JoinPath(folder, std::string(kManifestFile))) == PathKind::kFile) {
    return WithExitCode(
        absl::InvalidArgumentError(absl::StrCat("checkpoint ls: expected a run folder, got ", Quoted(folder),
                                                ", which is a checkpoint; checkpoint show describes it")),
        ExitCode::kUsage);
  }
  ASSIGN_OR_RETURN(const std::vector<CommittedCheckpoint> checkpoints, ListCheckpoints(folder));
  Json rows = Json::array();
  constexpr const char* kRow = "{}{:>10} {:>14} {:>6}  {:<18} {:>8} {}";
  std::string table = fmt::format(kRow, "", "step", "bytes", "shards", "layout", "manifest", "folder");
  for (const CommittedCheckpoint& checkpoint : checkpoints) {
    const absl::StatusOr<CheckpointReader> reader = CheckpointReader::Open(checkpoint.folder);
    const int64_t bytes = reader.ok() ? TotalBytes(reader->manifest()) : 0;
    const size_t shards = reader.ok() ? reader->manifest().shards.size() : 0;
    const std::string error(reader.status().message());
    rows.push_back({{"step", checkpoint.step}, {"folder", checkpoint.folder}, {"good", reader.ok()}, {"bytes", bytes}});
    if (reader.ok()) rows.back()["shards"] = shards;
    if (reader.ok()) rows.back()["layout"] = LayoutJson(reader->state().layout);
    if (!reader.ok()) rows.back()["error"] = error;
    fmt::format_to(std::back_inserter(table), kRow, "\n", checkpoint.step, bytes, shards,
                   reader.ok() ? LayoutText(reader->state().layout) : "-", reader.ok() ? "good" : "bad",
                   reader.ok() ? absl::CHexEscape(checkpoint.folder) : error);
  }
  if (checkpoints.empty()) absl::StrAppend(&table, "\nno checkpoints in ", Quoted(folder));
  return Print(flags.json ? JsonText(rows) : table);
}

Json ManifestJson(const CheckpointReader& reader) {
  const RunState& state = reader.state();
  Json tensors = Json::array();
  for (const StoredTensor& tensor : reader.manifest().tensors) {
    tensors.push_back({{"group", std::string(GroupName(tensor.group))},
                       {"name", tensor.name},
                       {"shape", tensor.shape},
                       {"slices", tensor.slices.size()}});
  }
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
          {"layout", LayoutJson(state.layout)},
          {"bytes", TotalBytes(reader.manifest())},
          {"shards", reader.manifest().shards.size()},
          {"config", state.config_text},
          {"tensors", tensors}};
}

absl::Status Show(const PathFlags& flags) {
  ASSIGN_OR_RETURN(const CheckpointReader reader, OpenCheckpoint(flags.path));
  return Print(flags.json ? JsonText(ManifestJson(reader)) : DescribeCheckpoint(reader));
}

absl::Status Verify(const PathFlags& flags) {
  ASSIGN_OR_RETURN(const CheckpointReader reader, OpenCheckpoint(flags.path));
  const std::vector<absl::Status> errors = reader.Verify();
  Json lines = Json::array();
  for (const absl::Status& error : errors) lines.push_back(std::string(error.message()));
  if (flags.json) {
    RETURN_IF_ERROR(Print(JsonText({{"folder", reader.folder()},
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

Json DiffJson(const CheckpointDiff& diff) {
  Json tensors = Json::array();
  for (const TensorDifference& tensor : diff.tensors) {
    tensors.push_back({{"group", std::string(GroupName(tensor.group))},
                       {"name", tensor.name},
                       {"elements", tensor.elements},
                       {"differing", tensor.differing},
                       {"max_abs", tensor.max_abs},  // null where a value is not finite
                       {"max_rel", tensor.max_rel}});
  }
  return {{"equal", diff.equal()}, {"compared", diff.compared},   {"scalars", diff.scalars},
          {"config", diff.config}, {"only_in_a", diff.only_in_a}, {"only_in_b", diff.only_in_b},
          {"shapes", diff.shapes}, {"tensors", tensors},          {"notes", diff.notes}};
}

void AddDiff(CommandLine& line, CLI::App* parent) {
  struct Flags {
    std::string a, b;
    bool json = false;
  };
  CLI::App* command = line.Add("diff", "Compare two: exit code 0 if equal, 1 if not",
                               "shardit checkpoint diff results/a results/b/checkpoints/0000400", parent);
  auto* flags = line.Keep<Flags>();
  command->add_option("a", flags->a, "Run folder or checkpoint folder")->type_name("DIR")->required();
  command->add_option("b", flags->b, "The same, to compare with")->type_name("DIR")->required();
  command->add_flag("--json", flags->json, "Print one JSON document");
  line.OnOneRank(command, [flags]() -> absl::Status {
    ASSIGN_OR_RETURN(const CheckpointReader a, OpenCheckpoint(flags->a));
    ASSIGN_OR_RETURN(const CheckpointReader b, OpenCheckpoint(flags->b));
    ASSIGN_OR_RETURN(const CheckpointDiff diff, DiffCheckpoints(a, b));
    RETURN_IF_ERROR(Print(flags->json ? JsonText(DiffJson(diff)) : DescribeDiff(diff)));
    if (diff.equal()) return absl::OkStatus();
    return WithExitCode(absl::FailedPreconditionError("the checkpoints differ"), kDiffer);
  });
}

struct ReshardFlags {
  std::string path, out;
  RunLayout layout{.world = 0, .dp = 0};
};

// The named axes' product is the world; dp is what tp and pp leave of it.
absl::Status ResolveLayout(RunLayout* layout) {
  const int64_t rest = layout->tp * layout->pp;
  if (layout->dp == 0) layout->dp = layout->world / rest;
  if (layout->dp * rest == layout->world) return absl::OkStatus();
  return WithExitCode(
      absl::InvalidArgumentError(absl::StrCat("--world ", layout->world, " is not dp ", layout->dp, " x tp ",
                                              layout->tp, " x pp ", layout->pp, "; change one of them")),
      ExitCode::kUsage);
}

absl::Status Reshard(ReshardFlags flags) {
  RETURN_IF_ERROR(ResolveLayout(&flags.layout));
  ASSIGN_OR_RETURN(const CheckpointReader reader, OpenCheckpoint(flags.path));
  ASSIGN_OR_RETURN(const SaveReport report, ReshardForLayout(reader, flags.layout, flags.out));
  return Print(fmt::format("wrote {}: step {}, {} bytes in {} shards for {}, every checksum holds",
                           absl::CHexEscape(report.folder), report.step, report.bytes, flags.layout.world,
                           LayoutText(flags.layout)));
}

void AddReshard(CommandLine& line, CLI::App* parent) {
  CLI::App* command = line.Add("reshard", "Cut a checkpoint's shards for another layout",
                               "shardit checkpoint reshard results/run --out moved --world 8 --tp 2", parent);
  constexpr int64_t kMaxAxis = 65536;
  auto* flags = line.Keep<ReshardFlags>();
  const auto axis = [&](const char* name, int64_t* value, const char* description, int64_t least) {
    return command->add_option(name, *value, description)->type_name("N")->check(CLI::Range(least, kMaxAxis));
  };
  command->add_option("path", flags->path, "Run folder or checkpoint folder")->type_name("DIR")->required();
  command->add_option("--out", flags->out, "Folder in which the step appears")->type_name("DIR")->required();
  axis("--world", &flags->layout.world, "Ranks, and so shards", 1)->required();
  axis("--dp", &flags->layout.dp, "Data axis (default world / (tp pp))", 1);
  axis("--tp", &flags->layout.tp, "Tensor axis (default 1)", 1);
  axis("--pp", &flags->layout.pp, "Pipeline axis (default 1)", 1);
  command->add_option("--zero-stage", flags->layout.zero_stage, "ZeRO stage, 0 to 3 (default 0)")
      ->type_name("N")
      ->check(CLI::Range(0, 3));
  line.OnOneRank(command, [flags] { return Reshard(*flags); });
}

void AddExport(CommandLine& line, CLI::App* parent) {
  struct Flags {
    std::string path, weights = "ema", format = "dit", out;
  };
  CLI::App* command = line.Add("export", "Write the weights for other programs",
                               "shardit checkpoint export results/run --out dit.safetensors", parent);
  auto* flags = line.Keep<Flags>();
  command->add_option("path", flags->path, "Run folder or checkpoint folder")->type_name("DIR")->required();
  command->add_option("--weights", flags->weights, "ema or model (default ema)")
      ->type_name("WHICH")
      ->check(CLI::IsMember({"ema", "model"}));
  command->add_option("--format", flags->format, "dit: one file (default), or diffusers: a folder")
      ->type_name("NAME")
      ->check(CLI::IsMember({"dit", "diffusers"}));
  command->add_option("--out", flags->out, "File or folder to write")->type_name("PATH")->required();
  line.OnOneRank(command, [flags]() -> absl::Status {
    ASSIGN_OR_RETURN(const CheckpointReader reader, OpenCheckpoint(flags->path));
    const StateGroup group = flags->weights == "ema" ? StateGroup::kEma : StateGroup::kModel;
    const auto write = flags->format == "diffusers" ? &ExportDiffusers : &ExportWeights;
    RETURN_IF_ERROR(write(PosixFileSystem(), reader, group, flags->out));
    return Print(fmt::format("wrote {}: {} weights of step {}", absl::CHexEscape(flags->out), flags->weights,
                             reader.state().step));
  });
}

}  // namespace

void AddCheckpointCommand(CommandLine& line) {
  CLI::App* command =
      line.Add("checkpoint", "List, verify, compare and export checkpoints", "shardit checkpoint ls results/run");
  command->require_subcommand(1);
  AddPathCommand(line, command, "ls", "List the committed checkpoints of a run", &List);
  AddPathCommand(line, command, "show", "Print what a checkpoint holds", &Show);
  AddPathCommand(line, command, "verify", "Read every byte and check it", &Verify);
  AddDiff(line, command);
  AddReshard(line, command);
  AddExport(line, command);
}

}  // namespace shardit
