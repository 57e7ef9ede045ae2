// What a save costs: how long the training step waits (stall), how long the write behind it takes, how fast, and what
// CRC32C takes of it. Prints a table to standard error and one JSON document to standard output.
//
//   checkpoint_bench [--mib 528] [--mbps 50] [--saves 5] [--folder .]
//
// The state is `mib` MiB in four groups (528 are DiT-S/8's weights, EMA and both moments). Rows: the file system as it
// is, and throttled to `mbps` million bytes a second; each with memory reserved ahead and without. A stall is a copy:
// the save before has ended. `back to back` is the stall of a save that finds the one before in flight.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/base/check.h"
#include "core/base/crc32c.h"
#include "tests/bench/timing.h"
#include "trainer/checkpoint/async_checkpointer.h"

namespace shardit {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  int64_t mib = 528;
  double mbps = 50;
  int64_t saves = 5;
  std::string folder = ".";
};

// The real file system behind a device of a given speed, shared by all its files: a write returns when the device would
// have taken its bytes.
class ThrottledFileSystem final : public FileSystem {
 public:
  explicit ThrottledFileSystem(double bytes_per_second) : bytes_per_second_(bytes_per_second) {}

  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    auto file = real_.Create(path);
    if (!file.ok()) return file.status();
    return std::make_unique<File>(this, *std::move(file));
  }
  absl::Status Rename(const std::string& from, const std::string& to) override { return real_.Rename(from, to); }
  absl::Status Exchange(const std::string& a, const std::string& b) override { return real_.Exchange(a, b); }
  absl::Status SyncFolder(const std::string& path) override { return real_.SyncFolder(path); }
  absl::Status MakeFolder(const std::string& path) override { return real_.MakeFolder(path); }
  absl::Status RemoveFile(const std::string& path) override { return real_.RemoveFile(path); }
  absl::Status RemoveEmptyFolder(const std::string& path) override { return real_.RemoveEmptyFolder(path); }

 private:
  class File final : public WritableFile {
   public:
    File(ThrottledFileSystem* owner, std::unique_ptr<WritableFile> real) : owner_(owner), real_(std::move(real)) {}
    absl::Status WriteAt(int64_t offset, const void* data, int64_t bytes) override {
      owner_->Spend(bytes);
      return real_->WriteAt(offset, data, bytes);
    }
    absl::Status Sync() override { return real_->Sync(); }
    absl::Status Close() override { return real_->Close(); }

   private:
    ThrottledFileSystem* owner_;
    std::unique_ptr<WritableFile> real_;
  };

  void Spend(int64_t bytes) {
    Clock::time_point due;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const std::chrono::duration<double> cost(static_cast<double>(bytes) / bytes_per_second_);
      due_ = std::max(due_, Clock::now()) + std::chrono::duration_cast<Clock::duration>(cost);
      due = due_;
    }
    std::this_thread::sleep_until(due);
  }

  FileSystem& real_ = PosixFileSystem();
  const double bytes_per_second_;
  std::mutex mutex_;
  Clock::time_point due_;
};

// One rank's state: a tensor of each group.
struct State {
  explicit State(int64_t mib) {
    const int64_t rows = mib * 64;  // of 1024 elements, in each of four groups
    for (const StateGroup group : kStateGroups) {
      values.emplace_back(static_cast<size_t>(rows * 1024), 0.5f + static_cast<float>(group));
      slices.push_back({group, "w", {rows, 1024}, WholeBox({rows, 1024}), values.back().data()});
    }
    run.run_id = "bench";
  }
  RunState run;
  std::vector<std::vector<float>> values;
  std::vector<SliceRef> slices;
};

struct Row {
  std::string name;
  double first_stall_ms = 0, stall_ms = 0, back_to_back_ms = 0, write_ms = 0, mb_per_second = 0;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Row MeasureSaves(const Options& options, const std::string& folder, FileSystem& fs, bool reserve, State* state) {
  CheckpointWriter writer({folder, "bench", "1", {}, &fs}, SingleRankExchange());
  CHECK(writer.Prepare().ok());
  AsyncCheckpointer checkpointer(std::move(writer), true);
  if (reserve) checkpointer.Reserve(state->slices);
  std::vector<double> stalls, writes;
  Row row;
  const auto save = [&](bool wait) {
    state->run.step = 1;  // replaced again and again: one folder on the disk
    const auto begin = std::chrono::steady_clock::now();
    const absl::Status before = checkpointer.Wait();
    CHECK(before.ok()) << before;
    checkpointer.Save(state->run, state->slices, begin);
    const absl::Status status = wait ? checkpointer.Wait() : absl::OkStatus();
    CHECK(status.ok()) << status;
    return checkpointer.TakeReport();
  };
  row.first_stall_ms = save(true)->stall_ms;
  for (int64_t i = 0; i < options.saves; ++i) {
    const CheckpointTiming timing = *save(true);
    stalls.push_back(timing.stall_ms);
    writes.push_back(timing.write_ms);
    row.mb_per_second = static_cast<double>(timing.save.bytes) / 1e3 / Median(writes);
  }
  save(false);
  row.back_to_back_ms = save(true)->stall_ms;
  row.stall_ms = Median(stalls);
  row.write_ms = Median(writes);
  std::filesystem::remove_all(folder);
  return row;
}

double CrcGbPerSecond(uint32_t (*crc)(uint32_t, const void*, size_t), const State& state) {
  const std::vector<float>& data = state.values[0];
  const size_t bytes = std::min<size_t>(data.size() * sizeof(float), 64 << 20);
  const bench::Timing timing = bench::Measure(1, 5, [&] {
    volatile uint32_t sink = crc(0, data.data(), bytes);
    (void)sink;
  });
  return static_cast<double>(bytes) / timing.median / 1e9;
}

void Print(const Row& row, nlohmann::ordered_json* rows) {
  std::fprintf(stderr, "%-28s %12.1f %10.1f %14.1f %10.1f %10.1f\n", row.name.c_str(), row.first_stall_ms, row.stall_ms,
               row.back_to_back_ms, row.write_ms, row.mb_per_second);
  rows->push_back({{"name", row.name},
                   {"first_stall_ms", row.first_stall_ms},
                   {"stall_ms", row.stall_ms},
                   {"back_to_back_stall_ms", row.back_to_back_ms},
                   {"write_ms", row.write_ms},
                   {"mb_per_second", row.mb_per_second}});
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("What a save costs");
  app.add_option("--mib", options.mib, "State of the rank, MiB")->check(CLI::Range(4, 1 << 20));
  app.add_option("--mbps", options.mbps, "Speed of the throttled device, million bytes a second");
  app.add_option("--saves", options.saves, "Saves a row")->check(CLI::Range(1, 1000));
  app.add_option("--folder", options.folder, "Where to write");
  CLI11_PARSE(app, argc, argv);
  State state(options.mib);
  const std::string folder = JoinPath(options.folder, "checkpoint_bench");
  ThrottledFileSystem slow(options.mbps * 1e6);
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  std::fprintf(stderr, "%-28s %12s %10s %14s %10s %10s\n", "", "first stall", "stall ms", "back to back", "write ms",
               "MB/s");
  for (const bool reserve : {false, true}) {
    const std::string memory = reserve ? ", reserved" : "";
    for (FileSystem* fs : {&PosixFileSystem(), static_cast<FileSystem*>(&slow)}) {
      Row row = MeasureSaves(options, folder, *fs, reserve, &state);
      row.name = (fs == &slow ? "throttled" : "as it is") + memory;
      Print(row, &rows);
    }
  }
  const double tables = CrcGbPerSecond(&internal::Crc32cExtendTables, state);
  const double used = CrcGbPerSecond(&Crc32cExtend, state);
  std::fprintf(stderr, "CRC32C: %.2f GB/s (tables alone: %.2f)\n", used, tables);
  const nlohmann::ordered_json document = {{"mib", options.mib},
                                           {"mbps", options.mbps},
                                           {"rows", rows},
                                           {"crc_gb_per_second", used},
                                           {"crc_tables_gb_per_second", tables}};
  std::printf("%s\n", document.dump(2).c_str());
  return 0;
}

}  // namespace
}  // namespace shardit

int main(int argc, char** argv) { return shardit::Main(argc, argv); }
