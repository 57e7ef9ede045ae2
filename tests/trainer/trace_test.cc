// The merged trace: figures on spans made by hand, clocks that are apart, and the file as a viewer reads it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "parallel/comm/world.h"
#include "tests/temp_folder.h"
#include "trainer/trace/clock_offset.h"
#include "trainer/trace/merged_trace.h"

namespace shardit {
namespace {

constexpr int64_t kMs = 1'000'000;

TraceSpan MakeSpan(SpanKind kind, int64_t step, int64_t begin_ms, int64_t end_ms) {
  return {.kind = kind, .name = "x", .step = step, .begin = begin_ms * kMs, .end = end_ms * kMs};
}

TEST(FiguresOf, IdleTimeExposureAndOverlap) {
  using enum SpanKind;
  const std::vector<RankTrace> ranks{
      {"a",
       {MakeSpan(kForward, 3, 100, 110), MakeSpan(kBackward, 3, 130, 150), MakeSpan(kWeights, 3, 150, 160),
        MakeSpan(kWait, 3, 110, 130), MakeSpan(kUpdate, 3, 200, 290), MakeSpan(kDataWait, 3, 90, 100),
        // 30 ms under way in all, of which 10 ms are waited for.
        MakeSpan(kCommunication, 3, 120, 140), MakeSpan(kCommunication, 3, 135, 150)}},
      {"b",
       {MakeSpan(kForward, 3, 110, 120), MakeSpan(kBackward, 3, 120, 180), MakeSpan(kForward, 4, 500, 510),
        MakeSpan(kWait, 2, 0, 50)}}};
  const std::vector<StepFigures> figures = FiguresOf(ranks);
  ASSERT_EQ(figures.size(), 2u) << "steps 3 and 4; step 2 has no pass";
  EXPECT_EQ(figures[0].step, 3);
  EXPECT_DOUBLE_EQ(figures[0].ms, 80);  // 100 to 180
  EXPECT_DOUBLE_EQ(figures[0].idle_share, 1 - (40.0 + 70) / 160);
  EXPECT_DOUBLE_EQ(figures[0].bubble, 160.0 / 110 - 1);
  EXPECT_THAT(figures[0].exposed_ms, testing::ElementsAre(20, 0));
  EXPECT_DOUBLE_EQ(figures[0].overlap_share, 1 - 10.0 / 30);
  EXPECT_EQ(figures[1].step, 4);
  EXPECT_DOUBLE_EQ(figures[1].idle_share, 0.5);
  EXPECT_DOUBLE_EQ(figures[1].overlap_share, 1);
}

TEST(ClockOffsets, AreMeasuredBetweenHosts) {
  RunThreadWorld(4, [](World& world) {
    // Ranks 2 and 3 are on a host that started 5,000 s earlier.
    const bool other_host = world.rank() >= 2;
    const auto now = [&] {
      const auto time = std::chrono::steady_clock::now().time_since_epoch();
      return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count() + (other_host ? 5'000'000 * kMs : 0);
    };
    const std::vector<int64_t> offsets = ClockOffsets(world.comm(), other_host ? "other" : "host", now);
    if (world.rank() != 0) {
      EXPECT_TRUE(offsets.empty());
      return;
    }
    ASSERT_EQ(offsets.size(), 4u);
    EXPECT_EQ(offsets[0], 0);
    EXPECT_EQ(offsets[1], 0) << "one clock";
    EXPECT_EQ(offsets[2], offsets[3]);
    EXPECT_NEAR(static_cast<double>(offsets[2]), -5e6 * kMs, 1e3 * kMs);
    EXPECT_EQ(world.comm().counters().TotalData().calls, 0) << "control messages only";
  });
}

Span::Time At(Span::Time origin, int64_t ms) { return origin + std::chrono::milliseconds(ms); }

// Rank r: a forward of 10 ms from 10 r on, a wait, and two messages that overlap.
void FillTimeline(Timeline& timeline, Span::Time origin, int rank) {
  timeline.Enable();
  timeline.BeginStep(7);
  timeline.Add({.kind = SpanKind::kForward,
                .name = "forward",
                .micro_batch = 2,
                .part = 1,
                .begin = At(origin, 10 * rank),
                .end = At(origin, 10 * rank + 10)});
  timeline.Add({.kind = SpanKind::kWait, .name = "wait", .begin = At(origin, 40), .end = At(origin, 45)});
  timeline.Add({.kind = SpanKind::kCommunication,
                .name = "send activations",
                .bytes = 1234,
                .begin = At(origin, 40),
                .end = At(origin, 60)});
  timeline.Add({.kind = SpanKind::kCommunication,
                .name = "gradients",
                .bytes = 99,
                .begin = At(origin, 50),
                .end = At(origin, 70)});
}

TEST(MergedTrace, IsOneFileOfAllRanks) {
  const TempFolder folder;
  const std::string path = folder / "trace.json";
  const Span::Time origin = std::chrono::steady_clock::now();
  RunThreadWorld(3, [&](World& world) {
    Timeline timeline;
    FillTimeline(timeline, origin, world.rank());
    SetThreadIdentity(absl::StrCat("rank ", world.rank(), " (pp=", world.rank(), ")"));
    const auto figures = WriteMergedTrace(world.comm(), timeline, PosixFileSystem(), path);
    ASSERT_TRUE(figures.ok()) << figures.status();
    ASSERT_EQ(figures->size(), world.rank() == 0 ? 1u : 0u);
    if (world.rank() == 0) {
      EXPECT_NEAR(figures->front().bubble, 2, 1e-9);
    }
  });
  const auto text = ReadWholeFile(path, 1 << 20);
  ASSERT_TRUE(text.ok());
  const nlohmann::json trace = nlohmann::json::parse(*text);
  std::map<std::pair<int, int>, double> row_end;
  std::map<std::string, int> count;
  for (const auto& event : trace["traceEvents"]) {
    const int rank = event["pid"];
    if (event["ph"] == "M") {
      if (event["name"] == "process_name") {
        EXPECT_EQ(event["args"]["name"], absl::StrCat("rank ", rank, " (pp=", rank, ")"));
      }
      continue;
    }
    ++count[event["name"]];
    EXPECT_EQ(event["args"]["step"], 7);
    double& end = row_end[{rank, event["tid"]}];
    EXPECT_GE(event["ts"], end) << "events of a row are disjoint";
    end = event["ts"].get<double>() + event["dur"].get<double>();
    if (event["name"] == "forward") {
      EXPECT_EQ(event["cat"], "forward");
      EXPECT_EQ(event["args"]["micro_batch"], 2);
      EXPECT_EQ(event["args"]["part"], 1);
      EXPECT_NEAR(event["ts"], 10'000.0 * rank, 1e-3);
      EXPECT_NEAR(event["dur"], 10'000.0, 1e-3);
    }
    if (event["name"] == "gradients") {
      EXPECT_EQ(event["args"]["bytes"], 99);
    }
  }
  EXPECT_EQ(count,
            (std::map<std::string, int>{{"forward", 3}, {"wait", 3}, {"send activations", 3}, {"gradients", 3}}));
  EXPECT_EQ(row_end.size(), 12u) << "compute, waits and two of communication on each rank";
  EXPECT_EQ(trace["figures"][0]["step"], 7);
  EXPECT_NEAR(trace["figures"][0]["exposed_ms"][2], 5, 1e-9);
  EXPECT_NEAR(trace["figures"][0]["overlap_share"], 1 - 5.0 / 30, 1e-6);
}

TEST(DrawTrace, HasALaneForEveryRankOfTheAxis) {
  const TempFolder folder;
  const std::string path = folder / "trace.json", chart = folder / "trace.svg";
  RunThreadWorld(4, [&](World& world) {
    Timeline timeline;
    FillTimeline(timeline, std::chrono::steady_clock::time_point(), world.rank());
    SetThreadIdentity(absl::StrCat("rank ", world.rank(), " (pp=", world.rank() / 2, " dp=", world.rank() % 2, ")"));
    ASSERT_TRUE(WriteMergedTrace(world.comm(), timeline, PosixFileSystem(), path).ok());
  });
  const auto draw = [&](const std::string& options) {
    const std::string script = std::string(SHARDIT_SOURCE_DIR) + "/launch/draw_trace.py";
    EXPECT_EQ(std::system(absl::StrCat("python3 -B ", script, " -o ", chart, " ", options, path, "=title").c_str()), 0);
    return ReadWholeFile(chart, 1 << 20).value();
  };
  EXPECT_THAT(draw(""), testing::AllOf(testing::HasSubstr("rank 3"), testing::HasSubstr("title"),
                                       testing::HasSubstr("forward, micro-batch 2, part 1: 30.00 to 40.00 ms")));
  EXPECT_THAT(draw("--axis pp "),
              testing::AllOf(testing::HasSubstr("rank 2"), testing::Not(testing::HasSubstr("rank 1"))));
}

TEST(MergedTrace, EveryRankLearnsOfAFailure) {
  RunThreadWorld(2, [](World& world) {
    Timeline timeline;
    const auto figures = WriteMergedTrace(world.comm(), timeline, PosixFileSystem(), "/nonexistent/folder/trace.json");
    ASSERT_FALSE(figures.ok());
    EXPECT_THAT(figures.status().message(), testing::HasSubstr("/nonexistent/folder"));
  });
}

}  // namespace
}  // namespace shardit
