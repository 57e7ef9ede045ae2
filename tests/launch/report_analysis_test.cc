#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launch/report/analysis.h"
#include "launch/report/parse_study.h"
#include "trainer/evaluate/evaluate_report.h"

namespace shardit {
namespace {

// What `evaluate` writes, and the step in front of it as a sweep keeps it.
Json EvaluationOf(int64_t step, double fd, const char* sha256 = "aa") {
  EvaluateReport report{.frechet = Score{fd, fd - 1, fd + 1}, .n = 2000, .n_reference = 10000, .has_extractor = true};
  report.extractor.weights_sha256 = sha256;
  report.extractor.resize = "none";
  report.samples = {{"path", "run/checkpoints/0001600"},
                    {"kind", "model"},
                    {"sha256", "cc"},
                    {"step", step},
                    {"weights", "ema"},
                    {"sampler", "ddim"},
                    {"steps", 50},
                    {"eta", 0.0},
                    {"cfg_scale", 1.0},
                    {"cfg_channels", 3},
                    {"seed", 0}};
  report.reference = {{"path", "test.h5"}, {"kind", "images"}, {"sha256", "dd"}};
  Json json = {{"step", step}, {"images", 64 * step}};
  json.update(ReportJson(report, "test"));
  return json;
}

Json RunOf(const char* name, double gmacs, const char* conditioning, Json evaluations) {
  return {{"name", name},
          {"model", "W64"},
          {"width", 64},
          {"patch", 4},
          {"conditioning", conditioning},
          {"gmacs_forward", gmacs},
          {"steps", 1600},
          {"evaluations", std::move(evaluations)}};
}

Sweep SweepOf(Json runs) {
  std::vector<std::vector<std::string>> grids;
  return ParseSweep({{"name", "study"}, {"runs", std::move(runs)}}, &grids);
}

std::vector<std::string> Names(const std::vector<ScoredRun>& runs) {
  std::vector<std::string> names;
  for (const ScoredRun& each : runs) names.push_back(each.run->name);
  return names;
}

TEST(ReportAnalysis, RunsAreComparedByTheirLastStep) {
  const Sweep sweep = SweepOf({RunOf("done", 1, "ADALN_ZERO", {EvaluationOf(1600, 50), EvaluationOf(800, 70)}),
                               RunOf("half-way", 2, "ADALN_ZERO", {EvaluationOf(800, 60)}),
                               RunOf("not evaluated", 4, "ADALN_ZERO", Json::array())});
  const SweepAnalysis analysis = Analyse(sweep);
  EXPECT_EQ(analysis.score_name, "fd");
  EXPECT_THAT(Names(analysis.scored), testing::ElementsAre("done"));
  EXPECT_EQ(analysis.scored[0].evaluation->score()->value, 50);
  EXPECT_EQ(analysis.by_gflops.n, 1);
  EXPECT_FALSE(analysis.by_gflops.law.has_value());
}

TEST(ReportAnalysis, ScoresOfAnotherExtractorAreLeftOut) {
  const Sweep sweep = SweepOf({RunOf("other", 1, "ADALN_ZERO", {EvaluationOf(1600, 5, "bb")}),
                               RunOf("a", 1, "ADALN_ZERO", {EvaluationOf(1600, 50)}),
                               RunOf("b", 2, "ADALN_ZERO", {EvaluationOf(1600, 40)})});
  const SweepAnalysis analysis = Analyse(sweep);
  EXPECT_EQ(analysis.evaluations_left_out, 1);
  EXPECT_THAT(Names(analysis.scored), testing::ElementsAre("a", "b"));
}

TEST(ReportAnalysis, EveryPartOfTheIdentityCounts) {
  for (const auto& [key, value] : std::vector<std::pair<std::string, Json>>{{"/n", 500},
                                                                            {"/n_reference", 7},
                                                                            {"/n_reference", nullptr},
                                                                            {"/reference/kind", "statistics"},
                                                                            {"/reference/sha256", "ee"},
                                                                            {"/reference", nullptr},
                                                                            {"/samples/sampler", "ddpm"},
                                                                            {"/samples/steps", 250},
                                                                            {"/samples/eta", 1.0},
                                                                            {"/samples/cfg_scale", 4.0},
                                                                            {"/samples/cfg_channels", 4},
                                                                            {"/samples/weights", "model"},
                                                                            {"/extractor/sha256", "bb"},
                                                                            {"/extractor/resize", "tf1"}}) {
    Json odd = EvaluationOf(1600, 50);
    odd[Json::json_pointer(key)] = value;
    const Sweep sweep =
        SweepOf({RunOf("a", 1, "ADALN_ZERO", {EvaluationOf(1600, 50)}),
                 RunOf("b", 2, "ADALN_ZERO", {EvaluationOf(1600, 50)}), RunOf("odd", 4, "ADALN_ZERO", {odd})});
    EXPECT_EQ(Analyse(sweep).evaluations_left_out, 1) << key << " " << value;
  }
}

TEST(ReportAnalysis, PathsAreNoPartOfTheIdentity) {
  Json moved = EvaluationOf(1600, 50);
  for (const char* side : {"samples", "reference", "extractor"}) moved[side]["path"] = "elsewhere";
  const Sweep sweep =
      SweepOf({RunOf("a", 1, "ADALN_ZERO", {EvaluationOf(1600, 50)}), RunOf("b", 2, "ADALN_ZERO", {moved})});
  EXPECT_EQ(Analyse(sweep).evaluations_left_out, 0);
}

TEST(ReportAnalysis, FidAndFdDoNotMix) {
  Json fid = EvaluationOf(1600, 50);
  fid.erase("fd");
  fid["fid"] = 12.5;
  const Sweep sweep = SweepOf({RunOf("a", 1, "ADALN_ZERO", {fid}), RunOf("b", 1, "ADALN_ZERO", {fid}),
                               RunOf("c", 2, "ADALN_ZERO", {EvaluationOf(1600, 40)})});
  const SweepAnalysis analysis = Analyse(sweep);
  EXPECT_EQ(analysis.score_name, "fid");
  EXPECT_THAT(Names(analysis.scored), testing::ElementsAre("a", "b"));
}

TEST(ReportAnalysis, OnlyTheMainGridIsFitted) {
  const Sweep sweep = SweepOf({RunOf("a", 1, "ADALN_ZERO", {EvaluationOf(1600, 40)}),
                               RunOf("b", 10, "adaLN-Zero", {EvaluationOf(1600, 20)}),
                               RunOf("c", 1, "IN_CONTEXT", {EvaluationOf(1600, 1000)})});
  const SweepAnalysis analysis = Analyse(sweep);
  ASSERT_TRUE(analysis.by_gflops.law.has_value());
  EXPECT_EQ(analysis.by_gflops.n, 2);
  EXPECT_NEAR(analysis.by_gflops.law->factor, 40, 1e-9);
  EXPECT_EQ(analysis.scored.size(), 3u);
  ASSERT_EQ(analysis.designs.size(), 1u);
  EXPECT_THAT(Names(analysis.designs[0].runs), testing::ElementsAre("b", "a", "c"));  // best first
}

TEST(ReportAnalysis, ADistanceOfZeroHasNoLogarithm) {
  const ScoreRelation relation = RelateScores({1, 2, 4, 8}, {3, 2, 1, 0});
  EXPECT_FALSE(relation.law.has_value());
  EXPECT_FALSE(relation.log_log.has_value());
  ASSERT_TRUE(relation.log_linear.has_value());
  EXPECT_NEAR(relation.log_linear->r, -1, 1e-12);
}

TEST(ReportAnalysis, TrainingComputeIsThreeForwards) {
  const Sweep sweep = SweepOf({RunOf("a", 0.5, "ADALN_ZERO", {EvaluationOf(1600, 40)})});
  EXPECT_DOUBLE_EQ(TrainingGflops(sweep.runs[0], sweep.runs[0].evaluations[0]), 3 * 0.5 * 64 * 1600);
}

TEST(ReportParse, WrongTypesCountAsAbsent) {
  Json run = RunOf("a", -1, "ADALN_ZERO", {EvaluationOf(1600, 40)});
  run["width"] = "wide";
  run["exit_code"] = 1.5;
  run["message"] = {1, 2};
  run["evaluations"][0]["fd_interval"] = {3, 2};
  const StudyRun parsed = SweepOf({run, 7, nullptr}).runs.at(0);
  EXPECT_EQ(parsed.width, 0);
  EXPECT_FALSE(parsed.gmacs_forward.has_value());
  EXPECT_FALSE(parsed.exit_code.has_value());
  EXPECT_EQ(parsed.message, "");
  EXPECT_FALSE(parsed.evaluations[0].score()->interval.has_value());
}

TEST(ReportParse, LossCurvePassesOverTornLines) {
  const LossCurve curve =
      ParseLossCurve("{\"images\":64,\"loss\":0.5}\n{\"images\":128,\"loss\":null}\n[]\n\n{\"images\":1");
  EXPECT_THAT(curve.images, testing::ElementsAre(64));
  EXPECT_THAT(curve.loss, testing::ElementsAre(0.5));
}

TEST(ReportParse, SettingsAreFlat) {
  const auto fields = Flatten({{"a", 1}, {"b", {{"c", "x\n"}, {"d", {1, 2.5}}}}, {"e", nullptr}});
  EXPECT_THAT(fields, testing::ElementsAre(testing::Pair("a", "1"), testing::Pair("b.c", "x?"),
                                           testing::Pair("b.d", "1, 2.5"), testing::Pair("e", "null")));
}

TEST(ReportParse, PointsKeepTheirSeries) {
  const Scaling scaling = ParseScaling({{"points", {{{"series", "tp2"}, {"mode", "weak"}, {"world", 2}}}}});
  ASSERT_EQ(scaling.points.size(), 1u);
  EXPECT_EQ(scaling.points[0].series, "tp2");
}

TEST(ReportParse, SettingsOfAnyDepth) {
  Json deep = 1;
  for (int i = 0; i < 2000; ++i) deep = Json{{"x", std::move(deep)}};
  EXPECT_EQ(Flatten(deep).size(), 1u);
}

}  // namespace
}  // namespace shardit
