// Shared by the checkpoint tests: a small model state that can be cut in several ways, ranks as threads, and a file
// system that records what is done to it or fails on demand.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/math.h"
#include "tests/temp_folder.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/checkpoint/checkpoint_writer.h"

namespace shardit::checkpoint_testing {

// Campaigns run whole, of which the plain run is a fixed-seed cut.
inline bool LongTests() { return getenv("SHARDIT_LONG_TESTS") != nullptr; }

struct NamedShape {
  std::string name;
  std::vector<int64_t> shape;
};
inline const std::vector<NamedShape>& TestModel() {
  static const std::vector<NamedShape> model = {{"blocks.0.attn.qkv.weight", {3, 4, 5, 20}},
                                                {"blocks.0.attn.qkv.bias", {60}},
                                                {"final.weight", {13, 7}},
                                                {"pos_embed", {1, 9, 4}},
                                                {"scale", {}}};
  return model;
}

// The value of one element: a function of everything that names it, so that no mix-up goes unnoticed.
inline float TestValue(uint64_t seed, StateGroup group, const std::string& name, int64_t element) {
  const uint64_t hash = HashBytes(name, seed * 4 + static_cast<uint64_t>(group)) + static_cast<uint64_t>(element);
  return static_cast<float>(hash * 0x9e3779b97f4a7c15u >> 40) * 0x1p-20f - 7;
}

inline RunState TestState(int64_t step) {
  RunState state;
  state.run_id = "run-1";
  state.config_hash = 0x1234abcd5678ef00u;
  state.config_text = "train { steps: 1000 }";
  state.program_version = "0.1.0";
  state.layout = {4, 2, 2, 1, 1};
  state.step = step;
  state.images_seen = step * 256;
  state.ema_updates = std::max<int64_t>(step - 1, 0);
  state.optimizer_updates = std::max<int64_t>(step - 2, 0);
  state.skipped_steps = 2;
  state.skipped_in_a_row = 1;
  state.seed = 0xfedcba9876543210u;
  state.rng_keys = {{"noise", 17}, {"order", 0xffffffffffffffffu}};
  return state;
}

// The data of one rank, with references to it.
struct RankSlices {
  std::vector<std::vector<float>> data;
  std::vector<SliceRef> slices;

  void Add(uint64_t seed, StateGroup group, const NamedShape& tensor, const Box& box) {
    std::vector<float> values(static_cast<size_t>(Volume(box)));
    const Box whole = WholeBox(tensor.shape);
    const auto fill = [&](int64_t from, int64_t to, int64_t count) {
      for (int64_t i = 0; i < count; ++i) {
        values[static_cast<size_t>(to + i)] = TestValue(seed, group, tensor.name, from + i);
      }
      return absl::OkStatus();
    };
    EXPECT_TRUE(ForEachRun(box, whole, box, fill).ok());
    data.push_back(std::move(values));
    slices.push_back({group, tensor.name, tensor.shape, box, data.back().data()});
  }
};

enum class Cut { kFlat, kFirstDim, kLastDim };

// What rank `rank` of `world` stores: flat ranges of every tensor (ZeRO), or rows, or columns; indivisible tensors go
// to the last rank.
inline std::unique_ptr<RankSlices> CutState(uint64_t seed, Cut cut, int64_t rank, int64_t world,
                                            const std::vector<NamedShape>& model = TestModel()) {
  auto slices = std::make_unique<RankSlices>();
  for (const StateGroup group : kStateGroups) {
    for (const NamedShape& tensor : model) {
      const Box whole = WholeBox(tensor.shape);
      if (cut == Cut::kFlat) {
        const Range range = PartRange(Volume(whole), world, rank);
        for (const Box& box : BoxesOfFlatRange(tensor.shape, range.begin, range.end)) {
          slices->Add(seed, group, tensor, box);
        }
        continue;
      }
      const size_t dim = cut == Cut::kFirstDim || tensor.shape.empty() ? 0 : tensor.shape.size() - 1;
      if (tensor.shape.empty() || tensor.shape[dim] < world) {
        if (rank == world - 1) slices->Add(seed, group, tensor, whole);
        continue;
      }
      const Range range = PartRange(tensor.shape[dim], world, rank);
      Box box = whole;
      box.offset[dim] = range.begin;
      box.extent[dim] = range.size();
      slices->Add(seed, group, tensor, box);
    }
  }
  return slices;
}

// Runs body once per rank, each on a thread, with an exchange between them.
inline void RunRanks(int64_t world, const std::function<void(const RankExchange&)>& body) {
  std::barrier meeting(world);
  std::mutex mutex;
  std::vector<std::string> strings(static_cast<size_t>(world));
  std::vector<absl::Status> verdicts(static_cast<size_t>(world));
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < world; ++rank) {
    threads.emplace_back([&, rank] {
      RankExchange exchange;
      exchange.rank = rank;
      exchange.world = world;
      exchange.agree = [&, rank](const absl::Status& mine) {
        verdicts[static_cast<size_t>(rank)] = mine;
        meeting.arrive_and_wait();
        absl::Status all;
        for (const absl::Status& status : verdicts) {
          if (status.ok()) continue;
          all = absl::Status(status.code(), absl::StrCat(all.message(), all.ok() ? "" : "; ", status.message()));
        }
        meeting.arrive_and_wait();
        return all;
      };
      exchange.gather_to_root = [&, rank](const std::string& mine) -> absl::StatusOr<std::vector<std::string>> {
        strings[static_cast<size_t>(rank)] = mine;
        meeting.arrive_and_wait();
        std::vector<std::string> all;
        if (rank == 0) all = strings;
        meeting.arrive_and_wait();
        return all;
      };
      body(exchange);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

struct SaveOptions {
  int64_t world = 2;
  Cut cut = Cut::kFlat;
  Retention retention = {};
  FileSystem* fs = &PosixFileSystem();
  std::string attempt = "1";
  std::string run_id = "run-1";
  std::string config_text = TestState(0).config_text;
  std::vector<NamedShape> model = TestModel();
};

// Saves the state of seed `step` as step `step`; all ranks must agree on the result, which is returned.
inline absl::StatusOr<SaveReport> SaveStep(const std::string& checkpoints, int64_t step,
                                           const SaveOptions& options = {}) {
  std::vector<absl::StatusOr<SaveReport>> results(static_cast<size_t>(options.world));
  RunRanks(options.world, [&](const RankExchange& exchange) {
    absl::StatusOr<SaveReport>& result = results[static_cast<size_t>(exchange.rank)];
    CheckpointWriter writer({checkpoints, options.run_id, options.attempt, options.retention, options.fs}, exchange);
    if (const absl::Status prepared = writer.Prepare(); !prepared.ok()) {
      result = prepared;
      return;
    }
    const auto mine = CutState(static_cast<uint64_t>(step), options.cut, exchange.rank, exchange.world, options.model);
    RunState state = TestState(step);
    state.run_id = options.run_id;
    state.config_text = options.config_text;
    result = writer.Save(state, mine->slices);
  });
  for (const auto& result : results) EXPECT_EQ(result.status(), results[0].status());
  return results[0];
}

// Whether the reader returns exactly the state of seed `step`, tensor by tensor.
inline testing::AssertionResult HoldsStep(const CheckpointReader& reader, int64_t step) {
  if (reader.state().step != step) return testing::AssertionFailure() << "step " << reader.state().step;
  for (const StateGroup group : kStateGroups) {
    for (const NamedShape& tensor : TestModel()) {
      const Box whole = WholeBox(tensor.shape);
      std::vector<float> values(static_cast<size_t>(Volume(whole)));
      const absl::Status status = reader.ReadBox(group, tensor.name, whole, values.data());
      if (!status.ok()) return testing::AssertionFailure() << status;
      for (size_t i = 0; i < values.size(); ++i) {
        if (values[i] != TestValue(static_cast<uint64_t>(step), group, tensor.name, static_cast<int64_t>(i))) {
          return testing::AssertionFailure() << GroupName(group) << "/" << tensor.name << " element " << i;
        }
      }
    }
  }
  return testing::AssertionSuccess();
}

// One change to a file system.
struct FileOperation {
  enum class Kind { kCreate, kWrite, kSync, kRename, kExchange, kSyncFolder, kMakeFolder, kRemoveFile, kRemoveFolder };
  Kind kind;
  std::string path, other;  // `other`: the second name of renames
  int64_t offset = 0;
  std::string data;
};

// The real file system, with a log, and with failures: the disk fills after some bytes, or the k-th operation (from 0)
// fails as a broken device would, or operations wait until Open is called. Thread-safe.
class FaultFileSystem final : public FileSystem {
 public:
  int64_t bytes_left = INT64_MAX;
  int64_t fail_operation = -1;
  bool fail_only_syncs = false;  // count only fsyncs of files and folders for fail_operation
  bool no_exchange = false;
  bool closed = false;

  void Open() {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed = false;
    opened_.notify_all();
  }

  std::vector<FileOperation> log() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return log_;
  }

  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    const absl::Status status = Do({FileOperation::Kind::kCreate, path, "", 0, ""});
    if (!status.ok()) return status;
    auto file = real_.Create(path);
    if (!file.ok()) return file.status();
    return std::make_unique<File>(this, path, *std::move(file));
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    const absl::Status status = Do({FileOperation::Kind::kRename, from, to, 0, ""});
    return status.ok() ? real_.Rename(from, to) : status;
  }
  absl::Status Exchange(const std::string& a, const std::string& b) override {
    if (no_exchange) return absl::UnimplementedError("no exchange");
    const absl::Status status = Do({FileOperation::Kind::kExchange, a, b, 0, ""});
    return status.ok() ? real_.Exchange(a, b) : status;
  }
  absl::Status SyncFolder(const std::string& path) override {
    const absl::Status status = Do({FileOperation::Kind::kSyncFolder, path, "", 0, ""});
    return status.ok() ? real_.SyncFolder(path) : status;
  }
  absl::Status MakeFolder(const std::string& path) override {
    const absl::Status status = Do({FileOperation::Kind::kMakeFolder, path, "", 0, ""});
    return status.ok() ? real_.MakeFolder(path) : status;
  }
  absl::Status RemoveFile(const std::string& path) override {
    const absl::Status status = Do({FileOperation::Kind::kRemoveFile, path, "", 0, ""});
    return status.ok() ? real_.RemoveFile(path) : status;
  }
  absl::Status RemoveEmptyFolder(const std::string& path) override {
    const absl::Status status = Do({FileOperation::Kind::kRemoveFolder, path, "", 0, ""});
    return status.ok() ? real_.RemoveEmptyFolder(path) : status;
  }

 private:
  class File final : public WritableFile {
   public:
    File(FaultFileSystem* owner, std::string path, std::unique_ptr<WritableFile> real)
        : owner_(owner), path_(std::move(path)), real_(std::move(real)) {}
    absl::Status WriteAt(int64_t offset, const void* data, int64_t bytes) override {
      const int64_t room = owner_->TakeRoom(bytes);
      const std::string written(static_cast<const char*>(data), static_cast<size_t>(room));
      absl::Status status = owner_->Do({FileOperation::Kind::kWrite, path_, "", offset, written});
      if (status.ok()) status = real_->WriteAt(offset, data, room);
      if (status.ok() && room < bytes) return ErrnoStatus(ENOSPC, absl::StrCat("cannot write ", Quoted(path_)));
      return status;
    }
    absl::Status Sync() override {
      const absl::Status status = owner_->Do({FileOperation::Kind::kSync, path_, "", 0, ""});
      return status.ok() ? real_->Sync() : status;
    }
    absl::Status Close() override { return real_->Close(); }

   private:
    FaultFileSystem* owner_;
    std::string path_;
    std::unique_ptr<WritableFile> real_;
  };

  int64_t TakeRoom(int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const int64_t room = std::min(bytes, bytes_left);
    bytes_left -= room;
    return room;
  }

  absl::Status Do(FileOperation operation) {
    std::unique_lock<std::mutex> lock(mutex_);
    opened_.wait(lock, [&] { return !closed; });
    const bool is_sync =
        operation.kind == FileOperation::Kind::kSync || operation.kind == FileOperation::Kind::kSyncFolder;
    if ((!fail_only_syncs || is_sync) && count_++ == fail_operation) {
      return ErrnoStatus(EIO, absl::StrCat("cannot change ", Quoted(operation.path)));
    }
    log_.push_back(std::move(operation));
    return absl::OkStatus();
  }

  FileSystem& real_ = PosixFileSystem();
  std::mutex mutex_;
  std::condition_variable opened_;
  std::vector<FileOperation> log_;
  int64_t count_ = 0;
};

}  // namespace shardit::checkpoint_testing
