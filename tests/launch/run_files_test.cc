// Files of studies that come from elsewhere.
#include "launch/study/run_files.h"

#include "gtest/gtest.h"

namespace shardit {
namespace {

TEST(RunFiles, DeepDocumentsAreCutNotFollowed) {
  const std::string deep = "{\"step\": 1, \"loss\": " + std::string(200000, '[') + std::string(200000, ']') + "}";
  const nlohmann::ordered_json row = ParseJson(deep);
  ASSERT_TRUE(row.is_object());
  EXPECT_EQ(row["step"], 1);
  EXPECT_LT(row.dump().size(), 200u);
  EXPECT_TRUE(ParseJson("{\"step\": ").is_discarded());
}

TEST(RunFiles, NumbersAreNumbersOrAbsent) {
  const nlohmann::ordered_json row = ParseJson(R"({"a": 1, "b": 2.5, "c": "3", "d": {"e": 4}, "f": null})");
  EXPECT_EQ(NumberOr(row, "a", 7), 1);
  EXPECT_EQ(NumberOr(row, "c", 7), 7);
  EXPECT_EQ(IntegerOr(row, "a", 7), 1);
  EXPECT_EQ(IntegerOr(row, "b", 7), 7);
  EXPECT_EQ(IntegerOr(ObjectOr(row, "d"), "e", 7), 4);
  EXPECT_TRUE(ObjectOr(row, "f").empty());
}

}  // namespace
}  // namespace shardit
