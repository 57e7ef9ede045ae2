#include "core/base/check.h"

#include "core/base/hash.h"
#include "core/base/math.h"
#include "gtest/gtest.h"

namespace shardit {
namespace {

TEST(CheckDeathTest, SaysWhereWhatWhoAndTheReport) {
  CHECK(true) << "not evaluated";
  EXPECT_DEATH(CHECK_EQ(1 + 1, 3) << "[sum]", "check_test.cc:[0-9]+: CHECK failed: .*\\(2 vs 3\\) \\[sum\\]");
  EXPECT_DEATH(
      {
        SetThreadIdentity("rank 3 (pp=0 dp=1 tp=1)");
        SetFailureReport([] { return std::string("last operations: linear\n"); });
        CHECK(false);
      },
      "\\[rank 3 \\(pp=0 dp=1 tp=1\\)\\] .*CHECK failed: false.*\nlast operations: linear");
}

TEST(MathTest, PartsCoverTheWholeInOrder) {
  for (const int64_t count : {0, 1, 7, 16, 1000}) {
    for (const int64_t parts : {1, 2, 3, 16}) {
      int64_t next = 0;
      for (int64_t part = 0; part < parts; ++part) {
        const Range range = PartRange(count, parts, part);
        EXPECT_EQ(range.begin, next);
        EXPECT_LE(range.size(), CeilDiv(count, parts));
        next = range.end;
      }
      EXPECT_EQ(next, count);
    }
  }
  EXPECT_EQ(RoundUp(17, 16), 32);
  EXPECT_FALSE(CheckedMul(int64_t{1} << 40, int64_t{1} << 40).has_value());
  EXPECT_FALSE(CheckedAdd(INT64_MAX, 1).has_value());
  EXPECT_EQ(CheckedMul(3, 4), 12);
}

// Initial weights and manifests depend on it: these values must never change. From the FNV reference vectors.
TEST(HashTest, KnownValues) {
  EXPECT_EQ(HashBytes(""), 0xcbf29ce484222325ull);
  EXPECT_EQ(HashBytes("a"), 0xaf63dc4c8601ec8cull);
  EXPECT_EQ(HashBytes("foobar"), 0x85944171f73967e8ull);
}

}  // namespace
}  // namespace shardit
