#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "launch/report/gnuplot.h"
#include "launch/report/loss_figure.h"
#include "launch/report/plot_script.h"
#include "launch/report/scaling_figure.h"

namespace shardit {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(ReportFigures, TidySvgMakesIdsItsOwn) {
  const std::string raw =
      "<?xml version=\"1.0\"?>\n<svg xmlns=\"x\">\n<title>name</title><defs><circle id='gpPt6'/></defs>"
      "<g id=\"f_plot_1\" ><title>f_plot_1</title><use xlink:href='#gpPt6' fill=\"url(#grad)\"/>"
      "<text>id='gpPt6' url(#x) &lt;b></text></g><g id=\"f_plot_1\" ></g></svg>\n";
  const std::string svg = TidySvg(raw, {.name = "f", .title = "A & B"});
  EXPECT_EQ(
      svg,
      "<svg xmlns=\"x\">\n<title>A &amp; B</title><defs><circle id='f-gpPt6'/></defs><g>"
      "<use xlink:href='#f-gpPt6' fill=\"url(#f-grad)\"/><text>id='gpPt6' url(#x) &lt;b></text></g><g></g></svg>\n");
}

TEST(ReportFigures, Ticks) {
  EXPECT_EQ(TickText(0), "0");
  EXPECT_EQ(TickText(0.05), "0.05");
  EXPECT_EQ(TickText(20), "20");
  EXPECT_EQ(TickText(50000), "50000");
  EXPECT_EQ(TickText(1e5), "10⁵");
  EXPECT_EQ(TickText(2e12), "2·10¹²");
  EXPECT_EQ(TickText(5e-6), "5·10⁻⁶");
}

TEST(ReportFigures, LogAxisHoldsItsValues) {
  const std::string axis = AxisCommands({.scale = AxisScale::kLog, .label = "it's"}, {0.02, -1, 3, std::nan("")});
  EXPECT_THAT(axis, HasSubstr("set logscale x"));
  EXPECT_THAT(axis, HasSubstr("'0.05' 0.05, "));
  EXPECT_THAT(axis, HasSubstr("'2' 2, "));
  EXPECT_THAT(axis, HasSubstr("'' 0.03 1"));  // small, without a number
  EXPECT_THAT(axis, HasSubstr("set xlabel 'it''s'"));
  EXPECT_THAT(axis, Not(HasSubstr("nan")));
}

TEST(ReportFigures, AxesOfOneValueAndOfNone) {
  for (const AxisScale scale : {AxisScale::kLinear, AxisScale::kLog}) {
    for (const std::vector<double>& values : {std::vector<double>{}, {5}, {0, 0}, {1e300}, {1e-300, 1e300}}) {
      const std::string axis = AxisCommands({.name = "y", .scale = scale}, values);
      EXPECT_THAT(axis, HasSubstr("set ytics ('"));
      EXPECT_LT(axis.size(), 5000u);
    }
  }
}

TEST(ReportFigures, SmoothedKeepsMeans) {
  LossCurve curve;
  for (int i = 1; i <= 1000; ++i) {
    curve.images.push_back(i);
    curve.loss.push_back(i % 2 == 0 ? 1.0 : 3.0);
  }
  const LossCurve smooth = Smoothed(curve, 20);
  EXPECT_LE(smooth.images.size(), 20u);
  EXPECT_NEAR(smooth.loss.back(), 2.0, 0.05);
  EXPECT_TRUE(std::is_sorted(smooth.images.begin(), smooth.images.end()));
  EXPECT_THAT(Smoothed({{5}, {0.5}}, 20).loss, testing::ElementsAre(0.5));
  EXPECT_TRUE(Smoothed({{0, 5, 6}, {1, 0, -1}}, 20).loss.empty());
}

TEST(ReportFigures, LayoutKinds) {
  EXPECT_EQ(LayoutKind({.world = 1, .dp = 1, .tp = 1, .pp = 1}), "");
  EXPECT_EQ(LayoutKind({.world = 4, .dp = 4, .tp = 1, .pp = 1, .zero_stage = 2}), "dp, ZeRO 2");
  EXPECT_EQ(LayoutKind({.dp = 2, .tp = 2, .pp = 2, .sequence_parallel = true, .schedule = "ONE_F_ONE_B"}),
            "dp × tp + sequence × pp 1F1B");
}

TEST(ReportFigures, NothingToDraw) {
  Sweep sweep;
  sweep.runs.resize(2);
  EXPECT_FALSE(LossFigure(sweep).has_value());
  Scaling scaling;
  scaling.points = {{.mode = "weak", .world = 2, .dp = 2, .state = "failed"}};
  EXPECT_FALSE(ScalingFigure(scaling, "weak").has_value());
}

// A point of strong scaling; 0: not measured.
ScalingPoint PointOf(const char* series, int64_t world, double images_per_s, double efficiency) {
  ScalingPoint point{.mode = "strong", .series = series, .world = world, .dp = world, .tp = 1, .pp = 1};
  if (images_per_s > 0) point.images_per_s = images_per_s;
  if (efficiency > 0) point.efficiency = efficiency;
  point.planned_images_per_s = 100.0 * static_cast<double>(world);
  return point;
}

std::string StrongFigure(const std::vector<ScalingPoint>& points) {
  Scaling scaling;
  scaling.points = points;
  const auto figure = ScalingFigure(scaling, "strong");
  EXPECT_TRUE(figure.has_value());
  return figure.has_value() ? figure->commands : "";
}

TEST(ReportFigures, FailedPointsAreNoPartOfACurve) {
  const std::vector<ScalingPoint> points = {PointOf("a", 1, 100, 1), PointOf("a", 2, 200, 1), PointOf("a", 4, 0, 0)};
  EXPECT_THAT(StrongFigure(points), HasSubstr("$tmd0 << EOD\n1 100 \n2 200 \nEOD"));
  Scaling scaling;
  scaling.points = points;
  EXPECT_FALSE(ScalingFigure(scaling, "weak").has_value());
}

TEST(ReportFigures, ACurveIsASeries) {
  // Two series cut along the same axes, on the same worlds: two curves, with the document's efficiencies.
  const std::string figure = StrongFigure({PointOf("small", 1, 100, 1), PointOf("big", 1, 10, 1),
                                           PointOf("small", 2, 150, 0.75), PointOf("big", 2, 19, 0.95)});
  EXPECT_THAT(figure, HasSubstr("$tmd0 << EOD\n1 10 \n2 19 \nEOD"));
  EXPECT_THAT(figure, HasSubstr("$emd0 << EOD\n1 1 \n2 0.95 \nEOD"));
  EXPECT_THAT(figure, HasSubstr("$tmd1 << EOD\n1 100 \n2 150 \nEOD"));
  EXPECT_THAT(figure, HasSubstr("$emd1 << EOD\n1 1 \n2 0.75 \nEOD"));
  EXPECT_THAT(figure, HasSubstr("title 'big'"));
  EXPECT_THAT(figure, HasSubstr("title 'small'"));
  EXPECT_THAT(figure, HasSubstr("$ideal << EOD\n1 100 \n2 200 \nEOD"));
}

TEST(ReportFigures, ASeriesGrowsAlongOtherAxesThanItBegan) {
  ScalingPoint whole = PointOf("tp2", 2, 100, 1), cut = PointOf("tp2", 4, 150, 0.75);
  whole.dp = 1, cut.dp = 2;
  whole.tp = cut.tp = 2;
  const std::string figure = StrongFigure({whole, cut});
  EXPECT_THAT(figure, HasSubstr("$tmd0 << EOD\n2 100 \n4 150 \nEOD"));
  EXPECT_THAT(figure, Not(HasSubstr("$tmd1")));
}

TEST(ReportFigures, WithoutSeriesLayoutsTellCurvesApart) {
  ScalingPoint sharded = PointOf("", 2, 120, 0.6);
  sharded.zero_stage = 3;
  const std::string figure = StrongFigure({PointOf("", 1, 100, 1), PointOf("", 2, 150, 0.75), sharded});
  for (const char* name : {"title 'one rank'", "title 'dp'", "title 'dp, ZeRO 3'"})
    EXPECT_THAT(figure, HasSubstr(name));
}

TEST(ReportFigures, OnlyTheSmallestWorldIsABase) {
  // The document has no efficiency where that world failed; its prediction stays the base of what was predicted.
  const std::string figure = StrongFigure({PointOf("a", 1, 0, 0), PointOf("a", 2, 90, 0), PointOf("a", 4, 160, 0)});
  EXPECT_THAT(figure, HasSubstr("$tmd0 << EOD\n2 90 \n4 160 \nEOD"));
  EXPECT_THAT(figure, Not(HasSubstr("$emd0")));
  EXPECT_THAT(figure, HasSubstr("$epd0 << EOD\n2 1 \n4 1 \nEOD"));
  EXPECT_THAT(figure, Not(HasSubstr("$ideal")));
}

}  // namespace
}  // namespace shardit
