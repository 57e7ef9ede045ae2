// shardit data: import, describe and verify HDF5 files of latents.
#include <spdlog/fmt/fmt.h>

#include <string>

#include "absl/strings/escaping.h"
#include "core/base/status_macros.h"
#include "data/describe.h"
#include "data/import_idx.h"
#include "launch/command_line.h"
#include "launch/json/json.h"

namespace shardit {
namespace {

// JSON is UTF-8: bytes of foreign names that are not are replaced.
Json InfoJson(const DataInfo& info) {
  Json files = Json::array();
  for (const LatentFileInfo& file : info.files) {
    files.push_back({{"path", file.path},
                     {"bytes", file.file_bytes},
                     {"count", file.count},
                     {"kind", KindName(file.kind)},
                     {"type", TypeName(file.type)},
                     {"layout", LayoutName(file.layout)},
                     {"scale", file.scale},
                     {"classes", file.classes},
                     {"source", file.source},
                     {"flipped", file.flipped}});
  }
  return {{"count", info.count},
          {"channels", info.shape.channels},
          {"height", info.shape.height},
          {"width", info.shape.width},
          {"classes", info.classes},
          {"max_label", info.max_label},
          {"class_counts", info.class_counts},
          {"fingerprint", fmt::format("{:016x}", info.fingerprint)},
          {"files", files}};
}

std::string InfoText(const DataInfo& info) {
  std::string text =
      fmt::format("{} samples of {} x {} x {}, {} classes, labels 0 to {}, fingerprint {:016x}\n", info.count,
                  info.shape.channels, info.shape.height, info.shape.width,
                  info.classes == 0 ? "unstated" : std::to_string(info.classes), info.max_label, info.fingerprint);
  for (const LatentFileInfo& file : info.files) {
    fmt::format_to(std::back_inserter(text), "{}: {} {} {} {}, scale {}{}{}\n", absl::CHexEscape(file.path), file.count,
                   TypeName(file.type), KindName(file.kind), LayoutName(file.layout), file.scale,
                   file.flipped ? ", flipped copies inside" : "",
                   file.source.empty() ? "" : ", source " + absl::CHexEscape(file.source));
  }
  constexpr size_t kMostClasses = 20;
  text += "samples by class:";
  for (size_t i = 0; i < info.class_counts.size() && i < kMostClasses; ++i) {
    fmt::format_to(std::back_inserter(text), " {}", info.class_counts[i]);
  }
  if (info.class_counts.size() > kMostClasses) text += " ...";
  return text;
}

void AddImport(CommandLine& line, CLI::App* parent) {
  CLI::App* command = line.Add("import-idx", "Convert IDX images and labels (gzip or plain)",
                               "shardit data import-idx --images train-images-idx3-ubyte.gz \\\n"
                               "      --labels train-labels-idx1-ubyte.gz --out train.h5",
                               parent);
  auto* options = line.Keep<IdxImportOptions>();
  command->add_option("--images", options->images_path, "IDX file of images")->type_name("FILE")->required();
  command->add_option("--labels", options->labels_path, "IDX file of labels")->type_name("FILE")->required();
  command->add_option("--out", options->out_path, "HDF5 file to write")->type_name("FILE")->required();
  command->add_option("--side", options->side, "Pad images to this side (default 32)")->type_name("PIXELS");
  command->add_option("--classes", options->classes, "Number of classes (default 10)")->type_name("N");
  line.OnOneRank(command, [options]() -> absl::Status {
    ASSIGN_OR_RETURN(const IdxImportResult result, ImportIdx(*options));
    return Print(fmt::format("wrote {}: {} images of {} x {}, padded to {} x {}", absl::CHexEscape(options->out_path),
                             result.count, result.rows, result.columns, options->side, options->side));
  });
}

void AddInfo(CommandLine& line, CLI::App* parent) {
  struct Flags {
    std::string path;
    bool json = false;
  };
  CLI::App* command =
      line.Add("info", "Describe a file or a glob of files", "shardit data info train.h5 --json", parent);
  Flags* flags = line.Keep<Flags>();
  command->add_option("path", flags->path, "HDF5 file or quoted glob")->type_name("PATH")->required();
  command->add_flag("--json", flags->json, "Print one JSON object");
  line.OnOneRank(command, [flags]() -> absl::Status {
    ASSIGN_OR_RETURN(const DataInfo info, DescribeData(flags->path));
    return Print(flags->json ? JsonText(InfoJson(info)) : InfoText(info));
  });
}

void AddVerify(CommandLine& line, CLI::App* parent) {
  CLI::App* command = line.Add("verify", "Read every sample and check it", "shardit data verify train.h5", parent);
  std::string* path = line.Keep<std::string>();
  command->add_option("path", *path, "HDF5 file or quoted glob")->type_name("PATH")->required();
  line.OnOneRank(command, [path]() -> absl::Status {
    RETURN_IF_ERROR(VerifyData(*path));
    return Print(absl::CHexEscape(*path) + ": every sample is sound");
  });
}

}  // namespace

void AddDataCommand(CommandLine& line) {
  CLI::App* command = line.Add("data", "Import, describe and verify data sets", "shardit data info train.h5");
  command->require_subcommand(1);
  AddImport(line, command);
  AddInfo(line, command);
  AddVerify(line, command);
}

}  // namespace shardit
