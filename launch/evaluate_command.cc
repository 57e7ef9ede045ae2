// shardit evaluate: scores of samples, of files or straight from a checkpoint.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "launch/build_info.h"
#include "launch/command_line.h"
#include "launch/json/json.h"
#include "launch/sampling_flags.h"
#include "trainer/evaluate/evaluate.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

struct Flags {
  EvaluateRequest request;
  SamplingFlags sampling;
  std::string metrics = "all";
  std::string resize = "bilinear";
  std::string out;
  bool json = false;
};

absl::Status ParseMetrics(const std::string& text, EvaluateRequest* request) {
  if (text == "all") return absl::OkStatus();
  request->all = false;
  for (const std::string& name : std::vector<std::string>(absl::StrSplit(text, ','))) {
    bool* metric = name == "fid"    ? &request->fid
                   : name == "sfid" ? &request->sfid
                   : name == "is"   ? &request->inception_score
                   : name == "pr"   ? &request->precision_recall
                                    : nullptr;
    if (metric == nullptr) {
      return WithExitCode(absl::InvalidArgumentError(
                              absl::StrCat("--metrics: expected all, or some of fid,sfid,is,pr, got \"", text, "\"")),
                          ExitCode::kUsage);
    }
    *metric = true;
  }
  return absl::OkStatus();
}

absl::Status Run(World& world, Flags& flags) {
  RETURN_IF_ERROR(ParseMetrics(flags.metrics, &flags.request));
  RETURN_IF_ERROR(flags.sampling.Apply(&flags.request.sampling));
  flags.request.tf1_resize = flags.resize == "tf1";
  flags.request.report_path = flags.out;
  ASSIGN_OR_RETURN(const EvaluateReport report, RunEvaluate(world, flags.request));
  if (world.rank() != 0) return absl::OkStatus();
  const std::string version = std::vector<std::string>(absl::StrSplit(kVersionText, '\n')).front();
  const std::string json = JsonText(ReportJson(report, version));
  if (!flags.out.empty()) RETURN_IF_ERROR(AtomicWriteFile(PosixFileSystem(), flags.out, json + "\n"));
  return Print(flags.json ? json : ReportText(report));
}

void AddInputs(CLI::App* command, Flags* flags) {
  EvaluateRequest& request = flags->request;
  command->add_option("--samples", request.samples, "Images, statistics or checkpoint")->type_name("PATH")->required();
  command->add_option("--reference", request.reference, "Images or statistics to compare with")->type_name("PATH");
  command->add_option("--extractor", request.extractor, "Feature extractor (shardit extractor)")->type_name("FILE");
  command->add_option("--metrics", flags->metrics, "all, or some of fid,sfid,is,pr")->type_name("LIST");
  command->add_option("--num,--num-fid-samples", request.num, "Samples to use or draw (default all)")
      ->type_name("N")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 40, ""));
  command->add_option("--reference-num", request.reference_num, "Reference images to use (default all)")
      ->type_name("N")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 40, ""));
  command->add_option("--batch", request.batch, "Images a pass of the extractor")
      ->type_name("N")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16, ""));
  command->add_option("--resize", flags->resize, "To Inception's size: bilinear or tf1")
      ->type_name("NAME")
      ->check(CLI::IsMember({"bilinear", "tf1"}));
  command->add_option("--bootstrap", request.replicates, "Resamples for intervals (default 200; 0: none)")
      ->type_name("N")
      ->check(CLI::Range(int64_t{0}, int64_t{100000}, ""));
  command->add_option("--k", request.neighbours, "Neighbours of precision, recall (default 3)")
      ->type_name("N")
      ->check(CLI::Range(int64_t{1}, int64_t{1000}, ""));
  command->add_option("--is-split", request.split, "Images of a split of IS (default 5000)")
      ->type_name("N")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 40, ""));
}

void AddOutputs(CLI::App* command, Flags* flags) {
  EvaluateRequest& request = flags->request;
  command->add_option("--work", request.work, "Keep features here: restarts, reuse")->type_name("DIR");
  command->add_option("--out", flags->out, "The JSON report, as a file")->type_name("FILE");
  command->add_option("--write-statistics", request.write_statistics, "mu, sigma of the samples: .npz")
      ->type_name("FILE");
  command->add_option("--write-features", request.write_features, "Features, logits, labels: .npz")->type_name("FILE");
  command->add_option("--write-samples", request.write_samples, "What the model draws: .npz")->type_name("FILE");
  command->add_option("--grid", request.write_grid, "Ten drawn images a class: .png")->type_name("FILE");
  command->add_flag("--json", flags->json, "One JSON object");
}

}  // namespace

void AddEvaluateCommand(CommandLine& line) {
  CLI::App* command = line.Add("evaluate", "Score samples: FID, IS, precision and recall",
                               "shardit evaluate --samples results/run --num 10000 \\\n"
                               "      --reference test.h5 --extractor classifier.safetensors");
  Flags* flags = line.Keep<Flags>();
  AddInputs(command, flags);
  flags->sampling.Add(command, &flags->request.sampling);
  AddOutputs(command, flags);
  line.OnEveryRank(command, [flags](World& world) { return Run(world, *flags); });
}

}  // namespace shardit
