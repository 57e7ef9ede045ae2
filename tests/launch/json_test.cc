// Documents that come from elsewhere.
#include "launch/json/json.h"

#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launch/report/json_fields.h"
#include "launch/report/parse_study.h"
#include "tests/temp_folder.h"

namespace shardit {
namespace {

// Deep enough that whatever copies, prints or compares it by recursion runs out of stack.
std::string DeepDocument() {
  return "{\"step\": 1, \"images\": 2, \"loss\": " + std::string(400000, '[') + std::string(400000, ']') + "}";
}

TEST(Json, DeepDocumentsAreCutNotFollowed) {
  const Json row = ParseJson(DeepDocument());
  ASSERT_TRUE(row.is_object());
  EXPECT_EQ(row["step"], 1);
  EXPECT_LT(JsonText(row).size(), 4000u);
  EXPECT_TRUE(ParseJson("{\"step\": ").is_discarded());
}

TEST(Json, FilesOfAReportMayBeDeepToo) {
  const TempFolder folder;
  std::ofstream(folder / "deep.json") << DeepDocument();
  const absl::StatusOr<Json> document = ReadJsonObject(folder / "deep.json");
  ASSERT_TRUE(document.ok());
  const Json copy = *document;
  EXPECT_LT(JsonText(copy).size(), 4000u);
  EXPECT_TRUE(ParseLossCurve(DeepDocument()).loss.empty());
}

TEST(Json, FieldsOfAnotherTypeAreAbsent) {
  const Json row = ParseJson(R"({"a": 1, "b": 2.5, "c": "3", "d": {"e": 4}, "f": null, "g": 3.0, "h": 1e300})");
  EXPECT_EQ(NumberField(row, "a"), 1);
  EXPECT_EQ(NumberField(row, "b"), 2.5);
  EXPECT_EQ(NumberField(row, "c"), std::nullopt);
  EXPECT_EQ(NumberField(row, "z"), std::nullopt);
  EXPECT_EQ(IntegerField(row, "a"), 1);
  EXPECT_EQ(IntegerField(row, "b"), std::nullopt);
  EXPECT_EQ(IntegerField(row, "g"), 3);
  EXPECT_EQ(IntegerField(row, "h"), std::nullopt);
  EXPECT_EQ(IntegerField(Member(row, "d"), "e"), 4);
  EXPECT_EQ(IntegerField(Member(row, "f"), "e"), std::nullopt);
  EXPECT_EQ(IntegerField(Json::array({1, 2}), "e"), std::nullopt);
}

TEST(Json, BytesThatAreNoTextAreShownAsSuch) {
  EXPECT_THAT(JsonText({{"path", "runs/\xff"}}), ::testing::HasSubstr("runs/\xEF\xBF\xBD"));
}

}  // namespace
}  // namespace shardit
