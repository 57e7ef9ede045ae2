#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

#include "core/base/crc32c.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/temp_folder.h"
#include "trainer/metrics/run_reporter.h"
#include "trainer/metrics/tensorboard.pb.h"

namespace shardit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Folder(const std::string& name) {
  static const TempFolder base;
  const std::string path = base / name;
  std::filesystem::remove_all(path);
  std::filesystem::create_directories(path);
  return path;
}

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

MetricsRow RowOf(int64_t step) {
  MetricsRow row;
  row.step = step;
  row.loss = 0.1 * static_cast<double>(step);
  return row;
}

std::vector<int64_t> StepsIn(const std::string& path) {
  std::vector<int64_t> steps;
  std::istringstream text(ReadAll(path));
  for (std::string line; std::getline(text, line);) steps.push_back(nlohmann::json::parse(line)["step"]);
  return steps;
}

void AppendText(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::app) << text; }

TEST(MetricsRow, IsOneJsonObjectWithTheDocumentedFields) {
  MetricsRow row = RowOf(3);
  row.loss = 0.1 + 0.2;
  row.grad_norm = std::numeric_limits<double>::infinity();
  row.mfu = std::nan("");
  row.bytes_sent_dp = int64_t{1} << 60;
  const nlohmann::json json = nlohmann::json::parse(ToJson(row));
  for (const char* key : {"step", "images", "epoch", "loss", "mse", "vb", "grad_norm", "lr", "step_ms", "images_per_s",
                          "tflops", "mfu", "data_wait_ms", "exposed_comm_ms", "bytes_sent", "peak_bytes", "skipped"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(json["loss"].get<double>(), 0.1 + 0.2);
  EXPECT_TRUE(json["grad_norm"].is_null());
  EXPECT_TRUE(json["mfu"].is_null());
  EXPECT_EQ(json["bytes_sent"]["dp"].get<int64_t>(), int64_t{1} << 60);
  EXPECT_FALSE(json.contains("validation_loss"));
  EXPECT_THAT(ToJson(row), HasSubstr("\"loss\":0.30000000000000004,"));
  row.loss = 0.1;
  row.validation_loss = 0.5;
  EXPECT_THAT(ToJson(row), HasSubstr("\"loss\":0.1,"));
  EXPECT_EQ(nlohmann::json::parse(ToJson(row))["validation_loss"], 0.5);
}

TEST(MetricsRow, LogLineKeepsTheFormOfTheAuthorsCode) {
  MetricsRow row = RowOf(100);
  row.loss = 0.12344;
  row.grad_norm = 1.5;
  row.mfu = 0.123;
  EXPECT_EQ(ToLogLine(row, 5.678, 3723.4),
            "(step=0000100) Train Loss: 0.1234, Train Steps/Sec: 5.68, Grad Norm: 1.5000, MFU: 12.3%, ETA: 1:02:03");
  row.mfu = std::nan("");
  EXPECT_THAT(ToLogLine(row, 5.678, std::nan("")), Not(HasSubstr("MFU")));
  EXPECT_THAT(ToLogLine(row, 5.678, std::nan("")), HasSubstr("ETA: ?"));
}

TEST(MetricsFile, ResumeKeepsRowsUpToTheStepAndAppends) {
  const std::string path = Folder("resume") + "/metrics.jsonl";
  {
    auto file = MetricsFile::Open(path, 0);
    ASSERT_TRUE(file.ok()) << file.status();
    for (const int64_t step : {1, 2, 4, 6}) ASSERT_TRUE(file->Append(RowOf(step)).ok());
    ASSERT_TRUE(file->Sync().ok());
  }
  AppendText(path, "{\"step\":8,\"lo");
  const std::string prefix = ReadAll(path).substr(0, ReadAll(path).find("{\"step\":6"));
  auto file = MetricsFile::Open(path, 4);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->last_step(), 4);
  EXPECT_EQ(ReadAll(path), prefix);
  ASSERT_TRUE(file->Append(RowOf(5)).ok());
  EXPECT_THAT(StepsIn(path), ElementsAre(1, 2, 4, 5));
}

TEST(MetricsFile, AFreshRunStartsEmpty) {
  const std::string path = Folder("fresh") + "/metrics.jsonl";
  AppendText(path, ToJson(RowOf(1)) + "\n");
  auto file = MetricsFile::Open(path, 0);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(ReadAll(path), "");
}

// A torn line is cut here and there, as a crash may leave it.
TEST(MetricsFile, TornEndsAreDropped) {
  const std::string path = Folder("torn") + "/metrics.jsonl";
  const std::string first = ToJson(RowOf(1)) + "\n", second = ToJson(RowOf(2)) + "\n";
  for (size_t cut = 0; cut < second.size(); cut += 29) {
    std::ofstream(path, std::ios::trunc) << first << second.substr(0, cut);
    auto file = MetricsFile::Open(path, 2);
    ASSERT_TRUE(file.ok()) << cut << ": " << file.status();
    EXPECT_EQ(file->last_step(), 1);
    EXPECT_EQ(ReadAll(path), first) << cut;
  }
}

TEST(MetricsFile, DamageBeforeKeptRowsIsAnError) {
  const std::string path = Folder("damage") + "/metrics.jsonl";
  AppendText(path, ToJson(RowOf(1)) + "\nnonsense\n" + ToJson(RowOf(3)) + "\n");
  EXPECT_THAT(std::string(MetricsFile::Open(path, 3).status().message()), HasSubstr("line 2"));
  EXPECT_EQ(MetricsFile::Open(path, 3).status().code(), absl::StatusCode::kDataLoss);
  auto file = MetricsFile::Open(path, 1);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(StepsIn(path), ElementsAre(1));
}

// Reads frames back by the TFRecord definition.
std::vector<tensorboard::Event> EventsIn(const std::string& path) {
  std::vector<tensorboard::Event> events;
  const std::string bytes = ReadAll(path);
  for (size_t at = 0; at < bytes.size();) {
    uint64_t length;
    uint32_t length_crc, data_crc;
    std::memcpy(&length, &bytes[at], 8);
    std::memcpy(&length_crc, &bytes[at + 8], 4);
    EXPECT_EQ(length_crc, MaskTfRecordCrc(Crc32c(&bytes[at], 8)));
    std::memcpy(&data_crc, &bytes[at + 12 + length], 4);
    EXPECT_EQ(data_crc, MaskTfRecordCrc(Crc32c(&bytes[at + 12], length)));
    tensorboard::Event event;
    EXPECT_TRUE(event.ParseFromArray(&bytes[at + 12], static_cast<int>(length)));
    events.push_back(event);
    at += 16 + length;
  }
  return events;
}

TEST(EventFile, HoldsVersionScalarsAndImages) {
  const std::string folder = Folder("events");
  auto file = EventFile::Create(folder, 0);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(file->AddScalars(7, {{"loss", 0.5}, {"lr", 0.25}}).ok());
  ASSERT_TRUE(file->AddImage(8, "samples", "PNG", 4, 3, 1).ok());
  EXPECT_THAT(file->path(), HasSubstr("/events.out.tfevents."));
  const auto events = EventsIn(file->path());
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0].file_version(), "brain.Event:2");
  // A start before this one may have left rows and no checkpoint.
  EXPECT_EQ(events[1].session_log().status(), tensorboard::SessionLog::START);
  EXPECT_EQ(events[1].step(), 1);
  EXPECT_EQ(events[2].step(), 7);
  EXPECT_EQ(events[2].summary().value(1).tag(), "lr");
  EXPECT_EQ(events[2].summary().value(1).simple_value(), 0.25f);
  EXPECT_EQ(events[3].summary().value(0).image().encoded_image_string(), "PNG");
  EXPECT_EQ(events[3].summary().value(0).image().width(), 4);

  auto resumed = EventFile::Create(folder, 7);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_NE(resumed->path(), file->path());
  const auto start = EventsIn(resumed->path());
  ASSERT_EQ(start.size(), 2u);
  EXPECT_EQ(start[1].session_log().status(), tensorboard::SessionLog::START);
  EXPECT_EQ(start[1].step(), 8);
}

TEST(ProgressBar, FitsTheTerminal) {
  EXPECT_THAT(ProgressBar(50, 100, 0.25, 2.0, 25.0, 80),
              HasSubstr("[############------------]  50% 50/100 loss 0.2500"));
  for (const int columns : {0, 1, 10, 40, 80}) EXPECT_LE(ProgressBar(50, 100, 0.25, 2.0, 25.0, columns).size(), 79u);
  EXPECT_EQ(ProgressBar(50, 100, 0.25, 2.0, 25.0, 10).size(), 9u);
  EXPECT_THAT(ProgressBar(1, 100, 0.25, std::nan(""), std::nan(""), 80), Not(HasSubstr("nan")));
}

TEST(StatusLineSink, LinesPassAboveTheStatusOnTerminalsOnly) {
  char* text = nullptr;
  size_t size = 0;
  for (const bool terminal : {true, false}) {
    std::FILE* stream = open_memstream(&text, &size);
    {
      auto sink = std::make_shared<StatusLineSink>(stream, terminal, false);
      spdlog::logger logger("test", sink);
      logger.set_pattern("%v");
      sink->SetStatus("BAR");
      logger.warn("line");
    }
    std::fclose(stream);
    EXPECT_EQ(std::string(text, size), terminal ? "\r\x1b[KBAR\r\x1b[Kline\nBAR" : "line\n");
    std::free(text);
  }
}

TEST(RunReporter, WritesEveryFileOfTheRunFolder) {
  const std::string folder = Folder("reporter");
  {
    auto reporter = RunReporter::Open({.run_folder = folder, .steps = 10, .resumed_step = 0, .tensorboard = true});
    ASSERT_TRUE(reporter.ok()) << reporter.status();
    (*reporter)->StepDone(1, 0.5);
    ASSERT_TRUE((*reporter)->Log(RowOf(1)).ok());
    (*reporter)->StepDone(2, 0.5);
    ASSERT_TRUE((*reporter)->Log(RowOf(2)).ok());
    ASSERT_TRUE((*reporter)->Sync().ok());
  }
  EXPECT_THAT(StepsIn(folder + "/metrics.jsonl"), ElementsAre(1, 2));
  EXPECT_THAT(ReadAll(folder + "/log.txt"), HasSubstr("(step=0000002) Train Loss: 0.2000"));
  EXPECT_FALSE(std::filesystem::is_empty(folder + "/tensorboard"));
}

}  // namespace
}  // namespace shardit
