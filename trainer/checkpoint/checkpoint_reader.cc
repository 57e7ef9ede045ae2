#include "trainer/checkpoint/checkpoint_reader.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/check.h"
#include "core/base/crc32c.h"
#include "core/base/status_macros.h"
#include "data/formats/safetensors.h"
#include "trainer/checkpoint/checkpoint_names.h"

namespace shardit {
namespace {

constexpr size_t kMaxOpenShards = 64;
constexpr int64_t kItem = sizeof(float);

absl::Status In(const std::string& place, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("checkpoint ", Quoted(place), ": ", status.message()));
}

std::string TensorText(StateGroup group, absl::string_view name) {
  return absl::StrCat("'", GroupName(group), "/", absl::CHexEscape(name), "'");
}

absl::Status Damaged(const RandomAccessFile& file, const std::string& tensor, int64_t begin, int64_t bytes) {
  return absl::DataLossError(absl::StrCat("shard ", Quoted(file.path()), " is damaged in bytes ", begin, " to ",
                                          begin + bytes, ", part of ", tensor, ": the CRC32C does not match"));
}

// Reads a slice by its checked blocks, one at a time, and adds them to `*counter` where there is one.
class BlockReader {
 public:
  BlockReader(const RandomAccessFile& file, const StoredSlice& slice, std::string tensor,
              std::atomic<uint64_t>* counter)
      : file_(file), slice_(slice), tensor_(std::move(tensor)), counter_(counter) {
    buffer_.resize(static_cast<size_t>(std::min(slice.bytes(), kCheckpointBlockBytes)));
  }

  // Makes block `index` current; its bytes are then at data() and have passed their CRC.
  absl::Status Load(int64_t index) {
    if (index == loaded_) return absl::OkStatus();
    loaded_ = -1;
    const int64_t begin = index * kCheckpointBlockBytes;
    bytes_ = std::min(kCheckpointBlockBytes, slice_.bytes() - begin);
    RETURN_IF_ERROR(file_.ReadAt(slice_.begin + begin, buffer_.data(), bytes_));
    if (Crc32c(buffer_.data(), static_cast<size_t>(bytes_)) != slice_.block_crcs[static_cast<size_t>(index)]) {
      return Damaged(file_, tensor_, slice_.begin + begin, bytes_);
    }
    loaded_ = index;
    if (counter_ != nullptr) ++*counter_;
    return absl::OkStatus();
  }
  const char* data() const { return buffer_.data(); }
  int64_t bytes() const { return bytes_; }

  // Copies bytes [begin, begin + bytes) of the slice.
  absl::Status Copy(int64_t begin, int64_t bytes, char* out) {
    while (bytes > 0) {
      RETURN_IF_ERROR(Load(begin / kCheckpointBlockBytes));
      const int64_t in_block = begin % kCheckpointBlockBytes;
      const int64_t piece = std::min(bytes, bytes_ - in_block);
      std::copy_n(buffer_.data() + in_block, piece, out);
      begin += piece, out += piece, bytes -= piece;
    }
    return absl::OkStatus();
  }

 private:
  const RandomAccessFile& file_;
  const StoredSlice& slice_;
  std::string tensor_;
  std::atomic<uint64_t>* counter_;
  std::vector<char> buffer_;
  int64_t loaded_ = -1;
  int64_t bytes_ = 0;
};

absl::Status VerifySlice(const RandomAccessFile& file, const StoredSlice& slice, const std::string& tensor,
                         std::atomic<uint64_t>* counter) {
  BlockReader reader(file, slice, tensor, counter);
  uint32_t crc = 0;
  for (int64_t block = 0; block < static_cast<int64_t>(slice.block_crcs.size()); ++block) {
    RETURN_IF_ERROR(reader.Load(block));
    crc = Crc32cExtend(crc, reader.data(), static_cast<size_t>(reader.bytes()));
  }
  if (crc != slice.crc) return Damaged(file, tensor, slice.begin, slice.bytes());
  return absl::OkStatus();
}

}  // namespace

// A bounded set of open shard files: reading a model of another layout goes back and forth between them.
struct CheckpointReader::OpenShards {
  std::mutex mutex;
  std::map<int64_t, std::shared_ptr<const RandomAccessFile>> files;
};

CheckpointReader::CheckpointReader() : shards_(std::make_unique<OpenShards>()) {}
CheckpointReader::~CheckpointReader() = default;
CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;
CheckpointReader& CheckpointReader::operator=(CheckpointReader&&) noexcept = default;

absl::StatusOr<CheckpointReader> CheckpointReader::Open(const std::string& folder) {
  if (KindOfPath(folder) == PathKind::kMissing) {
    return absl::NotFoundError(absl::StrCat("there is no checkpoint ", Quoted(folder)));
  }
  auto file = ReadWholeFile(JoinPath(folder, kManifestFile), kMaxManifestBytes, RandomAccessFile::Links::kRefuse);
  if (!file.ok()) return In(folder, file.status());
  auto manifest = DecodeManifest(*file);
  if (!manifest.ok()) return In(folder, manifest.status());
  CheckpointReader reader;
  reader.folder_ = folder;
  reader.manifest_ = *std::move(manifest);
  for (int64_t i = 0; i < static_cast<int64_t>(reader.manifest_.shards.size()); ++i) {
    RETURN_IF_ERROR(reader.Shard(i).status());
  }
  return reader;
}

absl::StatusOr<std::shared_ptr<const RandomAccessFile>> CheckpointReader::Shard(int64_t index) const {
  const std::lock_guard<std::mutex> lock(shards_->mutex);
  if (const auto at = shards_->files.find(index); at != shards_->files.end()) return at->second;
  const StoredShard& shard = manifest_.shards[static_cast<size_t>(index)];
  auto file = RandomAccessFile::Open(JoinPath(folder_, shard.file), RandomAccessFile::Links::kRefuse);
  if (!file.ok()) return In(folder_, file.status());
  if (file->size() != shard.file_bytes) {
    return In(folder_, absl::DataLossError(absl::StrCat("shard '", shard.file, "' has ", file->size(),
                                                        " bytes, expected ", shard.file_bytes)));
  }
  if (shards_->files.size() >= kMaxOpenShards) shards_->files.clear();
  auto shared = std::make_shared<const RandomAccessFile>(*std::move(file));
  shards_->files.emplace(index, shared);
  return shared;
}

const StoredTensor* CheckpointReader::Find(StateGroup group, absl::string_view name) const {
  const auto key = std::pair(group, name);
  const auto at = std::lower_bound(manifest_.tensors.begin(), manifest_.tensors.end(), key,
                                   [](const StoredTensor& tensor, const auto& k) {
                                     return std::pair(tensor.group, absl::string_view(tensor.name)) < k;
                                   });
  return at != manifest_.tensors.end() && at->group == group && at->name == name ? &*at : nullptr;
}

absl::Status CheckpointReader::Require(std::span<const RequiredTensor> tensors) const {
  std::vector<std::string> missing;
  for (const RequiredTensor& required : tensors) {
    const StoredTensor* stored = Find(required.group, required.name);
    const std::string text = TensorText(required.group, required.name);
    if (stored == nullptr) {
      missing.push_back(text);
    } else if (stored->shape != required.shape) {
      return absl::InvalidArgumentError(absl::StrCat("checkpoint ", Quoted(folder_), ": ", text, " has shape [",
                                                     absl::StrJoin(stored->shape, ","), "], expected [",
                                                     absl::StrJoin(required.shape, ","), "]"));
    }
  }
  if (missing.empty()) return absl::OkStatus();
  const size_t count = missing.size();
  missing.resize(std::min<size_t>(count, 5));
  return absl::NotFoundError(absl::StrCat("checkpoint ", Quoted(folder_), " lacks ", count,
                                          " tensors: ", absl::StrJoin(missing, ", "), count > 5 ? ", ..." : ""));
}

absl::Status CheckpointReader::ReadBox(StateGroup group, absl::string_view name, const Box& box, float* out) const {
  const StoredTensor* tensor = Find(group, name);
  if (tensor == nullptr) {
    return absl::NotFoundError(absl::StrCat("checkpoint ", Quoted(folder_), " lacks ", TensorText(group, name)));
  }
  const Box whole = WholeBox(tensor->shape);
  CHECK(Intersect(whole, box) == box) << "[ReadBox] " << tensor->name << " " << BoxText(box) << " of "
                                      << BoxText(whole);
  for (const StoredSlice& slice : tensor->slices) {
    const std::optional<Box> region = Intersect(slice.box, box);
    if (!region) continue;
    ASSIGN_OR_RETURN(const std::shared_ptr<const RandomAccessFile> file, Shard(slice.shard));
    BlockReader blocks(*file, slice, TensorText(group, name), blocks_read_);
    RETURN_IF_ERROR(ForEachRun(*region, slice.box, box, [&](int64_t from, int64_t to, int64_t count) {
      return blocks.Copy(from * kItem, count * kItem, reinterpret_cast<char*>(out + to));
    }));
  }
  return absl::OkStatus();
}

// The header's own CRC, and that a reader of plain safetensors would find what the manifest says.
absl::Status CheckpointReader::CheckHeader(int64_t shard) const {
  const StoredShard& stored = manifest_.shards[static_cast<size_t>(shard)];
  ASSIGN_OR_RETURN(const std::shared_ptr<const RandomAccessFile> file, Shard(shard));
  std::string header(static_cast<size_t>(std::min(stored.header_bytes, 8 + kMaxSafetensorsHeaderBytes)), '\0');
  RETURN_IF_ERROR(file->ReadAt(0, header.data(), static_cast<int64_t>(header.size())));
  if (Crc32c(header.data(), header.size()) != stored.header_crc) {
    return Damaged(*file, "its header", 0, stored.header_bytes);
  }
  ASSIGN_OR_RETURN(const SafetensorsReader reader, SafetensorsReader::Open(file->path()));
  for (const StoredTensor& tensor : manifest_.tensors) {
    for (const StoredSlice& slice : tensor.slices) {
      if (slice.shard != shard) continue;
      const std::string key = SliceKey(tensor.group, tensor.name, tensor.shape, slice.box);
      const SafetensorsEntry* entry = reader.Find(key);
      if (entry == nullptr || entry->begin != slice.begin || entry->shape != slice.box.extent ||
          entry->type != SafetensorsType::kF32) {
        return absl::DataLossError(absl::StrCat("shard ", Quoted(file->path()), " and the manifest disagree about '",
                                                absl::CHexEscape(key), "'"));
      }
    }
  }
  return absl::OkStatus();
}

std::vector<absl::Status> CheckpointReader::VerifyShard(int64_t shard) const {
  std::vector<absl::Status> errors;
  const auto note = [&](const absl::Status& status) {
    if (!status.ok()) errors.push_back(status);
  };
  const auto file = Shard(shard);
  if (!file.ok()) return {file.status()};
  note(CheckHeader(shard));
  for (const StoredTensor& tensor : manifest_.tensors) {
    for (const StoredSlice& slice : tensor.slices) {
      if (slice.shard != shard) continue;
      note(VerifySlice(**file, slice, TensorText(tensor.group, tensor.name), blocks_read_));
    }
  }
  return errors;
}

std::vector<absl::Status> CheckpointReader::Verify() const {
  std::vector<absl::Status> errors;
  for (int64_t shard = 0; shard < static_cast<int64_t>(manifest_.shards.size()); ++shard) {
    for (absl::Status& status : VerifyShard(shard)) errors.push_back(std::move(status));
  }
  return errors;
}

std::string DescribeCheckpoint(const CheckpointReader& reader) {
  const RunState& state = reader.state();
  const RunLayout& layout = state.layout;
  std::string text = absl::StrCat("checkpoint ", Quoted(reader.folder()), "\n  step ", state.step, ", ",
                                  state.images_seen, " images, ", state.skipped_steps, " steps skipped\n  run ",
                                  state.run_id, ", program ", absl::CHexEscape(state.program_version), ", config hash ",
                                  absl::Hex(state.config_hash, absl::kZeroPad16), ", seed ", state.seed,
                                  "\n  optimizer updates ", state.optimizer_updates, ", EMA updates ",
                                  state.ema_updates, "\n  written by ", layout.world, " ranks (dp ", layout.dp, ", tp ",
                                  layout.tp, ", pp ", layout.pp, ", ZeRO ", layout.zero_stage, ")\n");
  for (const StateGroup group : kStateGroups) {
    int64_t tensors = 0, slices = 0, elements = 0;
    for (const StoredTensor& tensor : reader.manifest().tensors) {
      if (tensor.group != group) continue;
      ++tensors;
      slices += static_cast<int64_t>(tensor.slices.size());
      elements += Volume(WholeBox(tensor.shape));
    }
    absl::StrAppend(&text, "  ", GroupName(group), ": ", tensors, " tensors in ", slices, " slices, ", elements,
                    " elements, ", elements * kItem, " bytes\n");
  }
  return text;
}

absl::StatusOr<std::vector<CommittedCheckpoint>> ListCheckpoints(const std::string& checkpoints) {
  std::vector<CommittedCheckpoint> found;
  const absl::StatusOr<std::vector<FolderEntry>> entries = ListFolder(checkpoints);
  // A folder that is there and cannot be read is not an empty one.
  if (absl::IsNotFound(entries.status())) return found;
  RETURN_IF_ERROR(entries.status());
  for (const FolderEntry& entry : *entries) {
    const std::optional<int64_t> step = ParseStepFolderName(entry.name);
    if (step) found.push_back({*step, JoinPath(checkpoints, entry.name)});
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return found;
}

namespace {

// A folder under a step's name must hold that step: someone may have renamed a copy.
absl::StatusOr<CheckpointReader> OpenAs(const CommittedCheckpoint& checkpoint) {
  ASSIGN_OR_RETURN(CheckpointReader reader, CheckpointReader::Open(checkpoint.folder));
  if (reader.state().step == checkpoint.step) return reader;
  return absl::DataLossError(absl::StrCat("checkpoint ", Quoted(checkpoint.folder), " holds step ", reader.state().step,
                                          ", expected ", checkpoint.step));
}

}  // namespace

absl::StatusOr<FoundCheckpoint> FindNewestCheckpoint(const std::string& checkpoints, std::optional<int64_t> below) {
  ASSIGN_OR_RETURN(std::vector<CommittedCheckpoint> all, ListCheckpoints(checkpoints));
  FoundCheckpoint found;
  for (; !all.empty(); all.pop_back()) {
    if (below && all.back().step >= *below) continue;
    auto reader = OpenAs(all.back());
    if (reader.ok()) {
      found.reader = *std::move(reader);
      break;
    }
    found.skipped.emplace_back(reader.status().message());
  }
  return found;
}

absl::StatusOr<CheckpointReader> OpenCheckpointStep(const std::string& checkpoints, int64_t step) {
  ASSIGN_OR_RETURN(const std::vector<CommittedCheckpoint> all, ListCheckpoints(checkpoints));
  std::vector<std::string> steps;
  for (const CommittedCheckpoint& checkpoint : all) {
    if (checkpoint.step == step) return OpenAs(checkpoint);
    steps.push_back(absl::StrCat(checkpoint.step));
  }
  return absl::NotFoundError(absl::StrCat("no checkpoint of step ", step, " in ", Quoted(checkpoints),
                                          "; there are: ", steps.empty() ? "none" : absl::StrJoin(steps, ", ")));
}

}  // namespace shardit
