#include "trainer/checkpoint/checkpoint_writer.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/check.h"
#include "core/base/crc32c.h"
#include "core/base/status_macros.h"
#include "data/formats/safetensors.h"
#include "trainer/checkpoint/checkpoint_names.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/checkpoint/set_aside.h"

namespace shardit {
namespace {

SafetensorsSpec SpecOf(const SliceRef& slice) {
  return {SliceKey(slice.group, slice.name, slice.shape, slice.box), SafetensorsType::kF32, slice.box.extent};
}

constexpr int64_t kItem = sizeof(float);
static_assert(SliceRef::kReadElements * kItem % kCheckpointBlockBytes == 0, "pieces end where blocks end");

using OnBlock = absl::FunctionRef<void()>;  // called for each block written

// Writes the next bytes of a slice, which begin on a block boundary, block by block and adds their CRCs.
absl::Status WriteBlocks(const char* data, int64_t bytes, OnBlock on_block, SafetensorsWriter* writer,
                         StoredSlice* stored) {
  for (int64_t begin = 0; begin < bytes; begin += kCheckpointBlockBytes) {
    const int64_t block = std::min(kCheckpointBlockBytes, bytes - begin);
    stored->block_crcs.push_back(Crc32c(data + begin, static_cast<size_t>(block)));
    stored->crc = Crc32cExtend(stored->crc, data + begin, static_cast<size_t>(block));
    RETURN_IF_ERROR(writer->Append(data + begin, block));
    on_block();
  }
  return absl::OkStatus();
}

absl::Status WriteSlice(const SliceRef& slice, OnBlock on_block, SafetensorsWriter* writer, StoredSlice* stored) {
  if (slice.data != nullptr) {
    RETURN_IF_ERROR(WriteBlocks(reinterpret_cast<const char*>(slice.data), stored->bytes(), on_block, writer, stored));
  } else {
    const int64_t elements = Volume(slice.box);
    const int64_t piece = std::min(elements, SliceRef::kReadElements);
    const auto staged = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(piece));
    for (int64_t begin = 0; begin < elements; begin += piece) {
      const int64_t count = std::min(piece, elements - begin);
      RETURN_IF_ERROR(slice.read(begin, count, staged.get()));
      const char* bytes = reinterpret_cast<const char*>(staged.get());
      RETURN_IF_ERROR(WriteBlocks(bytes, count * kItem, on_block, writer, stored));
    }
  }
  KillPoint("checkpoint.slice_written");
  return absl::OkStatus();
}

absl::Status WriteAndSync(FileSystem& fs, const std::string& path, const std::string& content) {
  ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, fs.Create(path));
  RETURN_IF_ERROR(file->WriteAt(0, content.data(), static_cast<int64_t>(content.size())));
  RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

}  // namespace

RankExchange SingleRankExchange() {
  RankExchange exchange;
  exchange.agree = [](const absl::Status& mine) { return mine; };
  exchange.gather_to_root = [](const std::string& mine) { return std::vector<std::string>{mine}; };
  return exchange;
}

CheckpointWriter::CheckpointWriter(CheckpointWriterOptions options, RankExchange exchange)
    : options_(std::move(options)), exchange_(std::move(exchange)) {
  CHECK(IsValidRunId(options_.run_id) && IsValidAttempt(options_.attempt))
      << "[CheckpointWriter] run '" << options_.run_id << "', attempt '" << options_.attempt << "'";
}

absl::Status CheckpointWriter::Prepare() {
  absl::Status status;
  if (exchange_.rank == 0) {
    status = MakeFolders(*options_.fs, options_.checkpoints);
    if (status.ok()) status = RemoveTempFolders(*options_.fs, options_.checkpoints, options_.run_id);
  }
  return exchange_.agree(status);
}

void CheckpointWriter::Begin(const RunState& state) {
  CHECK_EQ(state.run_id, options_.run_id) << "[CheckpointWriter] the state belongs to another run";
  temp_folder_ = JoinPath(options_.checkpoints, TempFolderName(state.step, options_.run_id, options_.attempt));
  KillPoint("checkpoint.begin");
}

SaveReport CheckpointWriter::ReportOf(int64_t step) const {
  SaveReport report;
  report.step = step;
  report.folder = JoinPath(options_.checkpoints, StepFolderName(step));
  return report;
}

absl::StatusOr<SaveReport> CheckpointWriter::Save(const RunState& state, std::span<const SliceRef> slices) {
  const bool is_root = exchange_.rank == 0;
  Begin(state);
  RETURN_IF_ERROR(exchange_.agree(is_root ? MakeTempFolder(state.step) : absl::OkStatus()));

  const absl::StatusOr<RankTable> table = WriteShard(exchange_.rank, exchange_.world, slices);
  absl::Status status = exchange_.agree(table.status());
  KillPoint("checkpoint.shards_agreed");
  if (status.ok()) {
    const auto tables = exchange_.gather_to_root(EncodeRankTable(*table));
    status = tables.status();
    if (status.ok() && is_root) status = Commit(state, *tables);
    status = exchange_.agree(status);
  }
  if (!status.ok()) {
    // Give the space back; what cannot be removed now goes with the next Prepare.
    if (is_root) RemoveTree(*options_.fs, temp_folder_).IgnoreError();
    return status;
  }

  SaveReport report = ReportOf(state.step);
  report.bytes = table->shard.file_bytes;
  if (options_.retention.keep_last > 0) {
    RETURN_IF_ERROR(exchange_.agree(VerifyOwnShard(state.step)));
    KillPoint("checkpoint.verified");
  }
  if (is_root) TidyUp(state.step, &report);
  KillPoint("checkpoint.end");
  return report;
}

absl::StatusOr<SaveReport> CheckpointWriter::SaveShards(
    const RunState& state, int64_t shards, absl::FunctionRef<std::vector<SliceRef>(int64_t shard)> slices) {
  CHECK(exchange_.world == 1 && options_.retention.keep_last == 0)
      << "[CheckpointWriter] SaveShards is for one process";
  Begin(state);
  RETURN_IF_ERROR(MakeTempFolder(state.step));
  SaveReport report = ReportOf(state.step);
  const auto write = [&]() -> absl::Status {
    std::vector<std::string> tables;
    for (int64_t shard = 0; shard < shards; ++shard) {
      ASSIGN_OR_RETURN(const RankTable table, WriteShard(shard, shards, slices(shard)));
      report.bytes += table.shard.file_bytes;
      tables.push_back(EncodeRankTable(table));
    }
    return Commit(state, tables);
  };
  if (const absl::Status status = write(); !status.ok()) {
    RemoveTree(*options_.fs, temp_folder_).IgnoreError();  // the first error is the one to report
    return status;
  }
  TidyUp(state.step, &report);
  return report;
}

absl::Status CheckpointWriter::MakeTempFolder(int64_t step) {
  RETURN_IF_ERROR(CheckReplaceable(JoinPath(options_.checkpoints, StepFolderName(step))));
  // An earlier save of this step, by this very attempt, may have failed halfway.
  RETURN_IF_ERROR(RemoveTree(*options_.fs, temp_folder_));
  RETURN_IF_ERROR(options_.fs->MakeFolder(temp_folder_));
  KillPoint("checkpoint.folder_made");
  return absl::OkStatus();
}

absl::Status CheckpointWriter::CheckReplaceable(const std::string& final_folder) const {
  const auto existing = CheckpointReader::Open(final_folder);
  if (!existing.ok() || existing->state().run_id == options_.run_id) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(Quoted(final_folder), " belongs to run '", existing->state().run_id,
                                               "', expected '", options_.run_id, "'; choose another run folder"));
}

absl::StatusOr<RankTable> CheckpointWriter::WriteShard(int64_t rank, int64_t world, std::span<const SliceRef> slices) {
  RankTable table;
  table.shard.file = ShardFileName(rank, world);
  const std::string path = JoinPath(temp_folder_, table.shard.file);
  const absl::Status status = WriteSlices(slices, path, &table);
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat("rank ", rank, ": ", status.message()));
  }
  KillPoint("checkpoint.shard_written");
  return table;
}

absl::Status CheckpointWriter::WriteSlices(std::span<const SliceRef> slices, const std::string& path,
                                           RankTable* table) {
  std::vector<SafetensorsSpec> specs;
  for (const SliceRef& slice : slices) specs.push_back(SpecOf(slice));
  ASSIGN_OR_RETURN(SafetensorsWriter writer,
                   SafetensorsWriter::Create(*options_.fs, path, specs, {{"format", "shardit.checkpoint.1"}}));
  table->shard.file_bytes = writer.file_bytes();
  table->shard.header_bytes = writer.header_bytes();
  table->shard.header_crc = Crc32c(writer.header().data(), writer.header().size());
  int64_t synced = 0;  // bytes of the file
  for (size_t i = 0; i < slices.size(); ++i) {
    StoredSlice stored;
    stored.box = slices[i].box;
    stored.begin = writer.begin(i);
    RETURN_IF_ERROR(WriteSlice(
        slices[i], [this] { CountPiece(); }, &writer, &stored));
    const int64_t written = stored.begin + stored.bytes();
    if (written - synced >= options_.sync_bytes) {
      RETURN_IF_ERROR(writer.Sync());
      CountPiece();
      synced = written;
    }
    table->tensors.push_back({slices[i].group, slices[i].name, slices[i].shape, {std::move(stored)}});
  }
  RETURN_IF_ERROR(writer.Finish());
  CountPiece();
  return absl::OkStatus();
}

void CheckpointWriter::CountPiece() const {
  if (options_.pieces != nullptr) ++*options_.pieces;
}

absl::Status CheckpointWriter::Commit(const RunState& state, const std::vector<std::string>& tables) {
  ASSIGN_OR_RETURN(const Manifest manifest, JoinRankTables(state, tables));
  const std::string file = EncodeManifest(manifest);
  // The reader's own rules, before anything is published: a hole between ranks is found now, not at resume.
  RETURN_IF_ERROR(DecodeManifest(file).status());
  if (static_cast<int64_t>(file.size()) > kMaxManifestBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the manifest would have ", file.size(), " bytes, more than ", kMaxManifestBytes));
  }
  FileSystem& fs = *options_.fs;
  const std::string path = JoinPath(temp_folder_, kManifestFile);
  RETURN_IF_ERROR(WriteAndSync(fs, absl::StrCat(path, ".tmp"), file));
  KillPoint("checkpoint.manifest_written");
  RETURN_IF_ERROR(fs.Rename(absl::StrCat(path, ".tmp"), path));
  KillPoint("checkpoint.manifest_renamed");
  RETURN_IF_ERROR(fs.SyncFolder(temp_folder_));
  KillPoint("checkpoint.folder_synced");
  return Publish(state.step);
}

// Gives the finished folder its final name, durably.
absl::Status CheckpointWriter::Publish(int64_t step) {
  FileSystem& fs = *options_.fs;
  const std::string final_folder = JoinPath(options_.checkpoints, StepFolderName(step));
  // Another program, or this one at another time, may read what this one cannot: nothing of the kind is removed.
  if (KindOfPath(final_folder) != PathKind::kMissing && !OpenCheckpointStep(options_.checkpoints, step).ok()) {
    RETURN_IF_ERROR(SetAside(fs, options_.checkpoints, step).status());
  }
  std::string replaced;  // where the folder that had this name is now
  if (KindOfPath(final_folder) == PathKind::kMissing) {
    RETURN_IF_ERROR(fs.Rename(temp_folder_, final_folder));
  } else if (const absl::Status exchanged = fs.Exchange(temp_folder_, final_folder); exchanged.ok()) {
    replaced = temp_folder_;
  } else if (absl::IsUnimplemented(exchanged)) {
    // Between these two renames neither has the name; older steps remain, and the file system offers nothing better.
    replaced = JoinPath(options_.checkpoints,
                        TempFolderName(step, options_.run_id, absl::StrCat(options_.attempt, "_replaced")));
    RETURN_IF_ERROR(fs.Rename(final_folder, replaced));
    RETURN_IF_ERROR(fs.Rename(temp_folder_, final_folder));
  } else {
    return exchanged;
  }
  KillPoint("checkpoint.renamed");
  RETURN_IF_ERROR(fs.SyncFolder(options_.checkpoints));
  KillPoint("checkpoint.committed");
  // The old one is durably out of the way; failing to remove it now is left to the next Prepare.
  if (!replaced.empty()) RemoveTree(fs, replaced).IgnoreError();
  return absl::OkStatus();
}

absl::Status CheckpointWriter::VerifyOwnShard(int64_t step) const {
  const std::string folder = JoinPath(options_.checkpoints, StepFolderName(step));
  auto reader = CheckpointReader::Open(folder);
  if (reader.ok()) reader->CountBlocks(options_.pieces);
  const std::vector<absl::Status> errors =
      reader.ok() ? reader->VerifyShard(exchange_.rank) : std::vector<absl::Status>{reader.status()};
  if (errors.empty()) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("the checkpoint just written does not verify, nothing was removed: ", errors.front().message()));
}

// What follows a commit: failures here do not undo it.
void CheckpointWriter::TidyUp(int64_t step, SaveReport* report) {
  const std::string latest = JoinPath(options_.checkpoints, kLatestFile);
  const absl::Status hinted = AtomicWriteFile(*options_.fs, latest, absl::StrCat(StepFolderName(step), "\n"));
  if (!hinted.ok()) report->warnings.emplace_back(hinted.message());
  KillPoint("checkpoint.latest_replaced");
  auto removed =
      ApplyRetention(*options_.fs, options_.checkpoints, options_.run_id, options_.attempt, step, options_.retention);
  if (removed.ok()) {
    report->removed = *std::move(removed);
  } else {
    report->warnings.emplace_back(removed.status().message());
  }
}

}  // namespace shardit
