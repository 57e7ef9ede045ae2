// shardit extractor: networks that describe images, for evaluate: train a classifier, convert Inception's weights.
#include <sched.h>
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <string>
#include <thread>

#include "absl/strings/escaping.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "launch/command_line.h"
#include "launch/json/json.h"
#include "trainer/extractor/convert_inception.h"
#include "trainer/extractor/extractor_file.h"
#include "trainer/extractor/train_classifier.h"

namespace shardit {
namespace {

// Processors that this process may run on.
int Cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// JSON is UTF-8: bytes of foreign metadata that are not are replaced.
void AddConvert(CommandLine& line, CLI::App* parent) {
  struct Flags {
    std::string in, out;
    bool json = false;
  };
  CLI::App* command = line.Add("convert", "Convert pytorch-fid's Inception weights",
                               "shardit extractor convert \\\n"
                               "      --in pt_inception-2015-12-05-6726825d.pth --out inception.safetensors",
                               parent);
  Flags* flags = line.Keep<Flags>();
  command->add_option("--in", flags->in, "Weights of torch.save (.pth)")->type_name("FILE")->required();
  command->add_option("--out", flags->out, "Extractor file to write")->type_name("FILE")->required();
  command->add_flag("--json", flags->json, "Print one JSON object");
  line.OnOneRank(command, [flags]() -> absl::Status {
    ASSIGN_OR_RETURN(const ConvertedInception result, ConvertInception(flags->in, flags->out));
    if (!result.is_fid) {
      LOG_WARN("these are not the published weights (SHA-256 6726825d...): scores on them are FD, not FID");
    }
    if (flags->json) {
      return Print(JsonText({{"architecture", kInceptionArchitecture},
                             {"tensors", result.tensors},
                             {"parameters", result.parameters},
                             {"source_sha256", result.source_sha256},
                             {"sha256", result.sha256},
                             {"is_fid", result.is_fid}}));
    }
    return Print(fmt::format("wrote {}: {}, {} tensors, {} parameters\nsource SHA-256 {}\nresult SHA-256 {}",
                             absl::CHexEscape(flags->out), kInceptionArchitecture, result.tensors, result.parameters,
                             result.source_sha256, result.sha256));
  });
}

Json ReportJson(const ClassifierReport& report) {
  Json json = {{"architecture", kClassifierArchitecture},
               {"channels", report.config.channels},
               {"height", report.config.height},
               {"width", report.config.width},
               {"classes", report.config.classes},
               {"parameters", report.parameters},
               {"images", report.images},
               {"steps", report.steps},
               {"loss", report.loss},
               {"accuracy", nullptr},
               {"seconds", report.seconds},
               {"sha256", report.sha256}};
  if (report.accuracy) json["accuracy"] = *report.accuracy;
  return json;
}

std::string ReportText(const std::string& out, const ClassifierReport& report) {
  return fmt::format("wrote {}: {} parameters, trained on {} images in {:.0f} s, {}\nSHA-256 {}", absl::CHexEscape(out),
                     report.parameters, report.images, report.seconds,
                     report.accuracy ? fmt::format("held-out accuracy {:.4f}", *report.accuracy)
                                     : "accuracy not measured (no --validation)",
                     report.sha256);
}

void AddTrain(CommandLine& line, CLI::App* parent) {
  struct Flags {
    ClassifierTraining training;
    int threads = 0;
    bool json = false;
  };
  CLI::App* command = line.Add("train", "Train a small classifier on labelled images",
                               "shardit extractor train --data train.h5 \\\n"
                               "      --validation test.h5 --out classifier.safetensors",
                               parent);
  Flags* flags = line.Keep<Flags>();
  ClassifierTraining& training = flags->training;
  command->add_option("--data", training.data, "HDF5 file or quoted glob of images")->type_name("PATH")->required();
  command->add_option("--validation", training.validation, "Held-out images, for the accuracy")->type_name("PATH");
  command->add_option("--out", training.out, "Extractor file to write")->type_name("FILE")->required();
  command->add_option("--epochs", training.epochs, "Passes over the data (default 5)")->type_name("N");
  command->add_option("--batch", training.batch, "Images a step (default 128)")->type_name("N");
  command->add_option("--learning-rate", training.learning_rate, "Peak (default 0.002)")->type_name("X");
  command->add_option("--weight-decay", training.weight_decay, "AdamW's (default 0.01)")->type_name("X");
  command->add_option("--first-channels", training.first_channels, "Width of the network (default 16)")->type_name("N");
  command->add_option("--seed", training.seed, "Of weights, order and shifts (default 0)")->type_name("N");
  command->add_flag("--flip", training.flip, "Mirror half of the images");
  command->add_option("--threads", flags->threads, "Threads (default 0: all cores)")
      ->type_name("N")
      ->check(CLI::Range(0, 4096, ""));
  command->add_flag("--json", flags->json, "Print one JSON object");
  line.OnOneRank(command, [flags]() -> absl::Status {
    RankContext context(flags->threads > 0 ? flags->threads : Cores());
    ASSIGN_OR_RETURN(const ClassifierReport report, TrainClassifier(context, flags->training));
    return Print(flags->json ? JsonText(ReportJson(report)) : ReportText(flags->training.out, report));
  });
}

Json SummaryJson(const ExtractorSummary& summary) {
  const ExtractorInfo& info = summary.info;
  return {{"architecture", info.architecture},
          {"weights_sha256", info.weights_sha256},
          {"source_sha256", info.source_sha256},
          {"resize", info.resize},
          {"feature_dim", info.feature_dim},
          {"spatial_dim", info.spatial_dim},
          {"classes", info.classes},
          {"is_fid", info.is_fid},
          {"parameters", summary.parameters},
          {"flops_per_image", summary.flops_per_image},
          {"metadata", summary.metadata}};
}

std::string SummaryText(const ExtractorSummary& summary) {
  const ExtractorInfo& info = summary.info;
  std::string text = fmt::format(
      "{}: {} parameters, {:.4g} Gflops an image, features {}, spatial features {}, {} classes\n"
      "images: {}\nits Frechet distance is {}\nSHA-256 {}",
      info.architecture, summary.parameters, static_cast<double>(summary.flops_per_image) / 1e9, info.feature_dim,
      info.spatial_dim, info.classes, info.resize, info.is_fid ? "FID" : "FD on features of its own, not FID",
      info.weights_sha256);
  for (const auto& [key, value] : summary.metadata) {
    text += fmt::format("\n{} = {}", absl::CHexEscape(key), absl::CHexEscape(value));
  }
  return text;
}

void AddShow(CommandLine& line, CLI::App* parent) {
  struct Flags {
    std::string path;
    bool json = false;
  };
  CLI::App* command = line.Add("show", "Tell what an extractor file holds",
                               "shardit extractor show classifier.safetensors --json", parent);
  Flags* flags = line.Keep<Flags>();
  command->add_option("path", flags->path, "Extractor file")->type_name("FILE")->required();
  command->add_flag("--json", flags->json, "Print one JSON object");
  line.OnOneRank(command, [flags]() -> absl::Status {
    RankContext context(1);
    ASSIGN_OR_RETURN(const ExtractorSummary summary, DescribeExtractor(flags->path, context));
    return Print(flags->json ? JsonText(SummaryJson(summary)) : SummaryText(summary));
  });
}

}  // namespace

void AddExtractorCommand(CommandLine& line) {
  CLI::App* command = line.Add("extractor", "Train or convert the networks that judge samples",
                               "shardit extractor show classifier.safetensors");
  command->require_subcommand(1);
  AddConvert(line, command);
  AddTrain(line, command);
  AddShow(line, command);
}

}  // namespace shardit
