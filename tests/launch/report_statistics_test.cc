// Numbers marked "golden" are scipy's and numpy's: tests/golden/make_report_golden.py prints them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "launch/report/paper_results.h"
#include "launch/report/statistics.h"

namespace shardit {
namespace {

constexpr double kRelative = 1e-12;

void ExpectClose(double got, double expected) { EXPECT_NEAR(got, expected, kRelative * std::abs(expected)); }

struct Points {
  std::vector<double> x, y;
};

Points PaperPoints() {
  Points points;
  for (const PaperResult& model : kPaperModels) {
    points.x.push_back(model.gflops);
    points.y.push_back(model.fid);
  }
  return points;
}

Points TiedPoints() { return {{1, 2, 2, 3, 5, 5, 5, 8}, {2, 1, 4, 4, 4, 7, 9, 9}}; }

TEST(Statistics, PowerLawOfThePaper) {  // golden
  const Points paper = PaperPoints();
  const auto law = FitPowerLaw(paper.x, paper.y);
  ASSERT_TRUE(law.has_value());
  EXPECT_EQ(law->n, 12);
  ExpectClose(law->exponent, -0.364752455974448);
  ExpectClose(*law->exponent_error, 0.0435206361768136);
  ExpectClose(law->factor, 137.767081232446);
  ExpectClose(*law->log_factor_error, 0.116663601151678);
  ExpectClose(law->r_squared, 0.875379273105724);
  ExpectClose(law->At(1), law->factor);
  ExpectClose(law->At(10) / law->At(1), std::pow(10, law->exponent));
}

TEST(Statistics, PearsonOfThePaper) {  // golden; the paper says -0.93 of log Gflops and FID
  const Points paper = PaperPoints();
  const auto on_logs = Pearson(Logs(paper.x), Logs(paper.y));
  ASSERT_TRUE(on_logs.has_value() && on_logs->interval.has_value());
  ExpectClose(on_logs->r, -0.935617054732183);
  ExpectClose(on_logs->interval->low, -0.982150733164855);
  ExpectClose(on_logs->interval->high, -0.781162098882475);
  const auto half_log = Pearson(Logs(paper.x), paper.y);
  ASSERT_TRUE(half_log.has_value() && half_log->interval.has_value());
  ExpectClose(half_log->r, -0.929849878479825);
  ExpectClose(half_log->interval->low, -0.980509893086306);
  ExpectClose(half_log->interval->high, -0.763251681581985);
  EXPECT_NEAR(half_log->r, kPaperCorrelation, 0.005);
  const auto ranks = Spearman(paper.x, paper.y);
  ASSERT_TRUE(ranks.has_value());
  ExpectClose(ranks->r, -0.916083916083916);
  EXPECT_FALSE(ranks->interval.has_value());
}

TEST(Statistics, Ties) {  // golden
  const Points tied = TiedPoints();
  const auto line = FitLine(tied.x, tied.y);
  ASSERT_TRUE(line.has_value());
  ExpectClose(line->intercept, 0.691525423728813);
  ExpectClose(*line->intercept_error, 1.27800356611602);
  ExpectClose(line->slope, 1.11186440677966);
  ExpectClose(*line->slope_error, 0.28848765463924);
  ExpectClose(line->r_squared, 0.71228813559322);
  const auto pearson = Pearson(tied.x, tied.y);
  ASSERT_TRUE(pearson.has_value());
  ExpectClose(pearson->r, 0.843971643832434);
  ExpectClose(pearson->interval->low, 0.343713185602441);
  ExpectClose(pearson->interval->high, 0.971105095062698);
  ExpectClose(Spearman(tied.x, tied.y)->r, 0.848101265822785);
}

TEST(Statistics, SpearmanSeesOrderOnly) {
  const std::vector<double> x = {1, 2, 3, 4, 5}, cubes = {-1, 8, 27, 64, 125e6};
  EXPECT_DOUBLE_EQ(Spearman(x, cubes)->r, 1.0);
  EXPECT_LT(Pearson(x, cubes)->r, 0.8);
}

TEST(Statistics, FewPoints) {
  const std::vector<double> none, one = {1}, two = {1, 2}, three = {1, 2, 4}, four = {1, 2, 4, 3};
  EXPECT_FALSE(FitLine(none, none).has_value());
  EXPECT_FALSE(FitLine(one, one).has_value());
  EXPECT_FALSE(Pearson(one, one).has_value());
  EXPECT_FALSE(Spearman(none, none).has_value());
  const auto through_two = FitLine(two, two);
  ASSERT_TRUE(through_two.has_value());
  EXPECT_DOUBLE_EQ(through_two->slope, 1);
  EXPECT_FALSE(through_two->slope_error.has_value());
  EXPECT_FALSE(through_two->intercept_error.has_value());
  EXPECT_TRUE(FitLine(three, three)->slope_error.has_value());
  EXPECT_FALSE(Pearson(three, std::vector<double>{1, 3, 2})->interval.has_value());
  EXPECT_TRUE(Pearson(std::vector<double>{1, 2, 3, 4}, four)->interval.has_value());
}

TEST(Statistics, Constants) {
  const std::vector<double> rising = {1, 2, 3, 4}, constant = {0.1, 0.1, 0.1, 0.1};
  EXPECT_FALSE(FitLine(constant, rising).has_value());
  EXPECT_FALSE(FitPowerLaw(constant, rising).has_value());
  EXPECT_FALSE(Pearson(constant, rising).has_value());
  EXPECT_FALSE(Pearson(rising, constant).has_value());
  EXPECT_FALSE(Spearman(rising, constant).has_value());
  const auto flat = FitLine(rising, constant);
  ASSERT_TRUE(flat.has_value());
  EXPECT_NEAR(flat->slope, 0, 1e-16);
  EXPECT_EQ(flat->r_squared, 1.0);
}

TEST(Statistics, ExactLaws) {
  const std::vector<double> x = {1, 10, 100, 1000}, falling = {8, 4, 2, 1};
  const auto law = FitPowerLaw(x, falling);
  ASSERT_TRUE(law.has_value());
  ExpectClose(law->exponent, -std::log10(2.0));
  ExpectClose(law->factor, 8);
  EXPECT_NEAR(*law->exponent_error, 0, 1e-12);
  const auto correlation = Pearson(x, x);
  ASSERT_TRUE(correlation.has_value() && correlation->interval.has_value());
  EXPECT_EQ(correlation->r, 1.0);
  EXPECT_EQ(correlation->interval->low, 1.0);
  EXPECT_EQ(correlation->interval->high, 1.0);
}

TEST(Statistics, NoLogarithmOfZero) {
  const std::vector<double> x = {1, 2, 3}, with_zero = {2, 0, 1}, with_negative = {2, -1, 1};
  EXPECT_FALSE(FitPowerLaw(x, with_zero).has_value());
  EXPECT_FALSE(FitPowerLaw(with_negative, x).has_value());
  EXPECT_DEATH(Logs(with_zero), "logarithm of 0");
  EXPECT_DEATH(Pearson(x, std::vector<double>{1, 2}), "x has 3 values, y has 2");
}

}  // namespace
}  // namespace shardit
