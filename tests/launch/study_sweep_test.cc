#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "launch/study/run_files.h"
#include "launch/study/sweep.h"
#include "launch/study/sweep_cost.h"
#include "launch/study/sweep_results.h"
#include "launch/study/sweep_state.h"
#include "launch/study/sweep_tasks.h"
#include "model/dit_variants.h"
#include "tests/temp_folder.h"
#include "trainer/extractor/file_hash.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;
using ::testing::Not;
using ::testing::SizeIs;

constexpr char kRun[] =
    "name: 'study' out: 'nowhere' "
    "run { model { channels: 1 side: 8 classes: 3 depth: 2 } data { path: 'x.h5' } train { global_batch: 8 } } ";
constexpr char kModels[] =
    "grid { model { name: 'A' width: 32 heads: 2 } model { name: 'B' width: 48 heads: 2 } patch: 4 } ";
constexpr char kScores[] = "evaluation { reference: 'r.npz' extractor: 'e.safetensors' ";

absl::StatusOr<SweepStudy> Parse(const std::string& text, const std::vector<std::string>& sets = {}) {
  return ParseSweepText(absl::StrCat(kRun, text), "s.textproto", sets);
}

std::vector<std::string> Names(const absl::StatusOr<SweepStudy>& sweep) {
  EXPECT_TRUE(sweep.ok()) << sweep.status();
  std::vector<std::string> names;
  if (sweep.ok()) {
    for (const SweepRun& run : sweep->runs) names.push_back(run.name);
  }
  return names;
}

void ExpectRefused(const std::string& text, const std::string& named) {
  const absl::Status status = Parse(text).status();
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kUsage) << text;
  EXPECT_THAT(std::string(status.message()), HasSubstr(named)) << text;
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("\n"))) << text;
}

TEST(Sweep, IsTheProductOfItsGridsAndNamesARunOnce) {
  EXPECT_THAT(
      Names(Parse("grid { model { name: 'A' width: 32 heads: 2 } patch: [4, 2] conditioning: [ADALN, IN_CONTEXT] "
                  "seed: [0, 7] } grid { model { name: 'A' width: 32 heads: 2 } patch: 4 conditioning: ADALN }")),
      ElementsAre("A-p4-adaln-s0", "A-p4-adaln-s7", "A-p4-in_context-s0", "A-p4-in_context-s7", "A-p2-adaln-s0",
                  "A-p2-adaln-s7", "A-p2-in_context-s0", "A-p2-in_context-s7"));
}

TEST(Sweep, TakesWhatAGridLeavesOutFromTheRun) {
  EXPECT_THAT(Names(Parse("", {"run.model.width=32", "run.model.heads=2", "run.model.patch=8",
                               "run.model.conditioning=ADALN", "run.train.seed=3"})),
              ElementsAre("D2-W32-H2-p8-adaln-s3"));
}

TEST(Sweep, KnowsThePapersSizes) {
  const auto sweep = Parse("grid { model { size: 'S' } patch: [2, 16] }",
                           {"run.model.size=DiT-B/2", "run.model.depth=12", "run.model.side=32"});
  ASSERT_THAT(Names(sweep), ElementsAre("DiT-S-p2-adaln_zero-s0", "DiT-S-p16-adaln_zero-s0"));
  const DitConfig& model = sweep->runs[1].config.options.model;
  EXPECT_EQ(model.depth, FindVariant("DiT-S/2")->depth);
  EXPECT_EQ(model.width, FindVariant("DiT-S/2")->width);
  EXPECT_EQ(model.patch, 16);
}

TEST(Sweep, BudgetsBecomeSteps) {
  const auto images = Parse(absl::StrCat(kModels, "budget { images: 81 }"));
  ASSERT_TRUE(images.ok()) << images.status();
  EXPECT_EQ(images->runs[0].config.options.train.steps, 11);
  // What is spent on each model is the same, up to half a step.
  const auto compute = Parse(absl::StrCat(kModels, "budget { train_gflops: 5 }"));
  ASSERT_TRUE(compute.ok()) << compute.status();
  for (const SweepRun& run : compute->runs) {
    const double step = 8 * 1e-9 * TrainFlops(run.config.options.model);
    EXPECT_NEAR(static_cast<double>(run.config.options.train.steps) * step, 5, step / 2);
  }
  EXPECT_GT(compute->runs[0].config.options.train.steps, compute->runs[1].config.options.train.steps);
}

TEST(Sweep, KeepsTheStepsThatAreScored) {
  const auto steps = [](const std::string& which, const std::vector<std::string>& sets) {
    return Parse(absl::StrCat(kModels, kScores, which, " } budget { images: 8000 }"), sets);
  };
  const auto last = steps("", {"run.checkpoint.every_steps=300", "run.checkpoint.keep_last=1"});
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_THAT(last->runs[0].evaluated, ElementsAre(1000));
  EXPECT_EQ(last->runs[0].config.options.checkpoint.every_steps, 300);
  EXPECT_EQ(last->runs[0].config.options.checkpoint.keep_every, 0);

  const auto given = steps("at_steps: [600, 400, 1000]", {"run.checkpoint.every_steps=100"});
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_THAT(given->runs[0].evaluated, ElementsAre(400, 600, 1000));
  EXPECT_EQ(given->runs[0].config.options.checkpoint.every_steps, 100);
  EXPECT_EQ(given->runs[0].config.options.checkpoint.keep_every, 200);

  const auto unsaved = steps("at_steps: [250, 1000]", {});
  ASSERT_TRUE(unsaved.ok()) << unsaved.status();
  EXPECT_EQ(unsaved->runs[0].config.options.checkpoint.every_steps, 250);
  EXPECT_EQ(unsaved->runs[0].config.options.checkpoint.keep_every, 250);

  const auto parts =
      steps("fractions: [0.1, 0.5, 1]", {"run.checkpoint.every_steps=300", "run.checkpoint.keep_every=400"});
  ASSERT_TRUE(parts.ok()) << parts.status();
  EXPECT_THAT(parts->runs[0].evaluated, ElementsAre(300, 600, 1000));
  EXPECT_EQ(parts->runs[0].config.options.checkpoint.keep_every, 100);  // 400 stays kept
}

TEST(Sweep, RefusesWhatItCannotRun) {
  ExpectRefused("grid { modle { } }", "did you mean grid.model?");
  ExpectRefused("grid { patch: [4, 0] }", "grid[0].patch[1]: expected 1 to 256, got 0");
  ExpectRefused("grid { model { width: 32 heads: 2 } patch: 4 }", "name");
  ExpectRefused("grid { model { name: 'A' size: 'S' width: 32 } patch: 4 }", "both");
  ExpectRefused("grid { model { size: 'M' } patch: 4 }", "S, B, L or XL");
  ExpectRefused("grid { model { name: '$(x)' width: 32 heads: 2 } patch: 4 }", "grid.model.name");
  ExpectRefused("grid { model { name: 'A' width: 32 heads: 2 } model { name: 'A' width: 64 heads: 2 } patch: 4 }",
                "both called A-p4-adaln_zero-s0");
  ExpectRefused("grid { model { name: 'A' width: 33 heads: 2 } patch: 4 }", "A-p4-adaln_zero-s0");
  ExpectRefused(absl::StrCat(kModels, "launch { ranks: 3 }"), "global_batch");
  ExpectRefused(absl::StrCat(kModels, "launch { ranks: 8 } slurm { nodes: 2 tasks_per_node: 2 }"), "tasks_per_node");
  ExpectRefused(absl::StrCat(kModels, "evaluation { extractor: 'e' }"), "evaluation.reference");
  ExpectRefused(absl::StrCat(kModels, "evaluation { reference: 'r' }"), "evaluation.extractor");
  ExpectRefused(absl::StrCat(kModels, kScores, "metrics: 'fud' }"), "evaluation.metrics");
  ExpectRefused(absl::StrCat(kModels, kScores, "cfg_channels: 2 }"), "cfg_channels");
  ExpectRefused(absl::StrCat(kModels, kScores, "at_steps: 500 fractions: 0.5 }"), "got both");
  ExpectRefused(absl::StrCat(kModels, kScores, "at_steps: 2000 }"), "last step, 1000");
  std::string seeds;
  for (int i = 0; i < 200; ++i) absl::StrAppend(&seeds, "seed: ", i, " patch: ", i + 1, " ");
  ExpectRefused(absl::StrCat("grid { ", seeds, " }"), "at most 10000 runs");
  EXPECT_THAT(std::string(Parse(kModels, {"grid.patch=4"}).status().message()), HasSubstr("list"));
  EXPECT_THAT(std::string(Parse(kModels, {"run.model.size=DiT-B/2"}).status().message()), HasSubstr("got both"));
  EXPECT_THAT(std::string(Parse(kModels, {"launch.ranks=0"}).status().message()), HasSubstr("launch.ranks"));
}

TEST(Sweep, ItsTextSaysTheSame) {
  const auto sweep = Parse(absl::StrCat(kModels, kScores, "fractions: 0.5 } budget { images: 8000 }"),
                           {"run.checkpoint.every_steps=100", "launch.parallel_runs=2"});
  ASSERT_TRUE(sweep.ok()) << sweep.status();
  const auto again = ParseSweepText(sweep->text, "again", {});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->text, sweep->text);
  EXPECT_EQ(again->launch.parallel_runs, 2);
  for (size_t i = 0; i < sweep->runs.size(); ++i) EXPECT_EQ(again->runs[i].text, sweep->runs[i].text);
}

TEST(Sweep, TheStudyOfFashionMnistIsWhatIsSaid) {
  const auto sweep = LoadSweep(absl::StrCat(SHARDIT_SOURCE_DIR, "/configs/studies/fashion_mnist.textproto"), {});
  EXPECT_THAT(Names(sweep), SizeIs(12));
  EXPECT_THAT(Names(sweep), IsSupersetOf({"W64-p8-adaln_zero-s0", "W144-p2-adaln_zero-s0", "W96-p4-adaln_zero-s0",
                                          "W96-p4-adaln-s0", "W96-p4-cross_attention-s0", "W96-p4-in_context-s0"}));
  const SweepRun& run = sweep->runs[1];
  ASSERT_EQ(run.name, "W64-p4-adaln_zero-s0");
  const auto expected = ParseRunConfig(
      "model { channels: 1 side: 32 classes: 10 learn_sigma: false class_dropout: 0.1 depth: 4 width: 64 heads: 4 "
      "patch: 4 conditioning: ADALN_ZERO } diffusion { steps: 1000 schedule: COSINE prediction: V } "
      "data { path: 'results/data/fashion_mnist_train.h5' validation_path: 'results/data/fashion_mnist_t10k.h5' "
      "flip: false } optimizer { learning_rate: 1.5e-3 warmup_steps: 100 schedule: COSINE final_fraction: 0.05 "
      "clip_norm: 1 } ema { decay: 0.998 warmup: true } train { steps: 1600 global_batch: 64 seed: 0 } "
      "checkpoint { every_steps: 400 keep_last: 1 } log { every_steps: 20 tensorboard: false }",
      "expected", ConfigUse::kTrain, 1);
  ASSERT_TRUE(expected.ok()) << expected.status();
  EXPECT_EQ(run.config.text, expected->text);
  EXPECT_EQ(run.config.hash, expected->hash);
}

// A study in a folder of its own, with nothing run.
class SweepFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    auto sweep =
        Parse(absl::StrCat(kModels, kScores, "samples: 6 } budget { images: 80 }"), {absl::StrCat("out=", folder_)});
    ASSERT_TRUE(sweep.ok()) << sweep.status();
    sweep_ = *std::move(sweep);
    ASSERT_TRUE(WriteSweepFiles(sweep_).ok());
  }

  void Write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = std::filesystem::path(folder_) / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }

  nlohmann::ordered_json Collect() {
    const auto results = CollectSweep(folder_);
    EXPECT_TRUE(results.ok()) << results.status();
    return results.ok() ? *results : nlohmann::ordered_json();
  }

  const TempFolder temporary_;
  const std::string folder_ = temporary_ / "study";
  SweepStudy sweep_;
};

constexpr char kA[] = "runs/A-p4-adaln_zero-s0/";

TEST_F(SweepFolder, EveryRunShowsBeforeAnythingRan) {
  const nlohmann::ordered_json results = Collect();
  ASSERT_EQ(results["runs"].size(), 2);
  for (const auto& run : results["runs"]) {
    EXPECT_EQ(run["state"], "missing");
    EXPECT_EQ(run["steps"], 10);
    EXPECT_EQ(run["steps_done"], 0);
    EXPECT_TRUE(run["final_loss"].is_null());
    EXPECT_TRUE(run["evaluations"].empty());
  }
  EXPECT_EQ(results["budget"]["images"], 80);
  EXPECT_EQ(results["settings"]["samples"], 6);
  EXPECT_TRUE(results["settings"]["extractor"]["sha256"].is_null());
  EXPECT_THAT(SweepTable(results), HasSubstr("missing"));
}

TEST_F(SweepFolder, DamagedFilesCostTheirFieldsOnly) {
  Write(absl::StrCat(kA, "metrics.jsonl"),
        "{\"step\":1,\"loss\":2.5,\"step_ms\":10}\ngarbage\n{\"step\":4,\"loss\":1.5,\"step_ms\":20,"
        "\"validation_loss\":1.25}\n{\"step\":\"x\"}\n{\"step\":5,\"lo");
  Write(absl::StrCat(kA, "task.json"), "{ torn");
  Write(absl::StrCat(kA, "evaluation/0000010.json"), "[1, 2");
  Write(absl::StrCat(kA, "checkpoints/0000010/MANIFEST"), "no manifest");
  Write(absl::StrCat(kA, "config.textproto"), "no { config");
  const nlohmann::ordered_json run = Collect()["runs"][0];
  EXPECT_EQ(run["state"], "interrupted");
  EXPECT_THAT(run["message"].get<std::string>(), HasSubstr("damaged"));
  EXPECT_EQ(run["steps_done"], 4);
  EXPECT_EQ(run["images"], 32);
  EXPECT_DOUBLE_EQ(run["train_seconds"], 0.010 + 3 * 0.020);
  EXPECT_EQ(run["final_loss"], 1.5);
  EXPECT_EQ(run["validation_loss"], 1.25);
  EXPECT_TRUE(run["evaluations"].empty());
}

TEST_F(SweepFolder, ScoresCountOnlyIfTheyAreTheseOnes) {
  const std::string good =
      R"({"fd": 3, "n": 6, "bootstrap": 200, "reference": {"path": "r.npz"}, "extractor": {"sha256": "0"}, "samples":)"
      R"( {"step": 10, "sampler": "ddpm", "steps": 250, "cfg_scale": 1.0, "cfg_channels": 3, "seed": 0,)"
      R"( "weights": "ema"}, "grid": "/etc/passwd", "step": 3})";
  const auto has = [&](const std::string& text) {
    Write(absl::StrCat(kA, "evaluation/0000010.json"), text);
    return Collect()["runs"][0]["evaluations"];
  };
  const nlohmann::ordered_json evaluations = has(good);
  ASSERT_EQ(evaluations.size(), 1);
  EXPECT_EQ(evaluations[0]["fd"], 3);
  EXPECT_EQ(evaluations[0]["step"], 10);          // the file's name says it
  EXPECT_TRUE(evaluations[0]["grid"].is_null());  // as for pictures, so no file of others is shown
  for (const auto& [old_text, new_text] :
       std::vector<std::pair<std::string, std::string>>{{"\"n\": 6", "\"n\": 7"},
                                                        {"ddpm", "ddim"},
                                                        {"250", "25"},
                                                        {"1.0", "1.5"},
                                                        {"\"seed\": 0", "\"seed\": 1"},
                                                        {"ema", "model"},
                                                        {"r.npz", "q.npz"},
                                                        {"200", "0"},
                                                        {"\"step\": 10", "\"step\": 5"}}) {
    std::string other = good;
    other.replace(other.find(old_text), old_text.size(), new_text);
    EXPECT_THAT(has(other), IsEmpty()) << new_text;
  }
}

TEST_F(SweepFolder, ScoresCountAgainstTheReferenceThatIsThere) {
  Write("reference.h5", "images");
  const std::string reference = folder_ + "/reference.h5";
  Write("sweep.textproto", absl::StrReplaceAll(sweep_.text, {{"r.npz", reference}}));
  const auto count = [&](const std::string& path, const std::string& sha256) {
    Write(absl::StrCat(kA, "evaluation/0000010.json"),
          absl::StrCat(R"({"fd": 3, "n": 6, "bootstrap": 200, "reference": {"path": ")", path,
                       R"(", "kind": "images", "sha256": ")", sha256, R"("}, "extractor": {"sha256": "0"}, "samples":)",
                       R"( {"step": 10, "sampler": "ddpm", "steps": 250, "cfg_scale": 1.0, "cfg_channels": 3,)",
                       R"( "seed": 0, "weights": "ema"}})"));
    return Collect()["runs"][0]["evaluations"].size();
  };
  const std::string before = *Sha256OfFile(reference);
  EXPECT_EQ(count(reference, before), 1);
  EXPECT_EQ(count("moved.h5", before), 1);
  EXPECT_EQ(count(reference, std::string(64, '0')), 0);
  Write("reference.h5", "other images");  // in place
  EXPECT_EQ(count(reference, before), 0);
  EXPECT_EQ(count(reference, *Sha256OfFile(reference)), 1);
  std::filesystem::remove(reference);
  EXPECT_EQ(count(reference, before), 1);
  EXPECT_EQ(count("moved.h5", before), 0);
}

TEST_F(SweepFolder, AnotherRunInAFolderIsAnError) {
  const std::string other = sweep_.runs[1].config.text;
  Write(absl::StrCat(kA, "config.textproto"), other);
  const nlohmann::ordered_json run = Collect()["runs"][0];
  EXPECT_EQ(run["state"], "failed");
  EXPECT_THAT(run["message"].get<std::string>(), HasSubstr("model.width: 48 -> 32"));
  EXPECT_EQ(ExitCodeOf(TrainingIsDone(sweep_, sweep_.runs[0], false).status()), ExitCode::kUsage);
}

TEST_F(SweepFolder, CellsAreNoFormulas) {
  Write(absl::StrCat(kA, "task.json"),
        R"({"state": "failed", "attempts": 2, "last_exit_code": 65, "message": "=cmd(), \"x\""})");
  const auto results = WriteSweepResults(folder_);
  ASSERT_TRUE(results.ok()) << results.status();
  std::ifstream file(folder_ + "/results.csv");
  std::string header, row;
  std::getline(file, header);
  std::getline(file, row);
  EXPECT_THAT(row, HasSubstr(",failed,65,\"'=cmd(), \"\"x\"\"\",2,"));
  EXPECT_EQ(*ReadJson(folder_ + "/results.json"), *results);
}

TEST_F(SweepFolder, BelongsToOneStudy) {
  SweepStudy other = sweep_;
  other.name = "other";
  EXPECT_EQ(ExitCodeOf(WriteSweepFiles(other)), ExitCode::kUsage);
  EXPECT_TRUE(WriteSweepFiles(sweep_).ok());
  EXPECT_FALSE(CollectSweep(folder_ + "/runs").ok());
}

TEST_F(SweepFolder, NamesNoFilesBeyondIt) {
  Write("base.textproto", "private: words");
  Write("sweep.textproto", absl::StrCat("base: \"", folder_, "/base.textproto\"\n", sweep_.text));
  EXPECT_THAT(std::string(CollectSweep(folder_).status().message()),
              ::testing::EndsWith("sweep.textproto: base: expected none in a study's folder"));
}

TEST_F(SweepFolder, CostsWhatThePlannerSays) {
  sweep_.cluster = absl::StrCat(SHARDIT_SOURCE_DIR, "/configs/clusters/cpu_2_cores.textproto");
  const auto cost = CostOfSweep(sweep_);
  ASSERT_TRUE(cost.ok()) << cost.status();
  const RunCost& first = cost->runs[0];
  const DitConfig& model = sweep_.runs[0].config.options.model;
  EXPECT_EQ(first.parameters, ParameterCount(model));
  EXPECT_EQ(first.images, 80);
  EXPECT_DOUBLE_EQ(first.train_eflop, 1e-18 * TrainFlops(model) * 80);
  // A third of a training step an image and sampling step: 6 images of 250 steps against 80 trained.
  EXPECT_NEAR(first.sampling_hours / first.train_hours, 6.0 * 250 / 3 / 80, 1e-9);
  EXPECT_EQ(cost->HoursLeft(), cost->Hours());
  EXPECT_EQ(CostJson(sweep_, *cost)["runs"][0]["there"], "-");
}

}  // namespace
}  // namespace shardit
