#include <algorithm>
#include <tuple>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "trainer/checkpoint/checkpoint_names.h"
#include "trainer/checkpoint/manifest.h"

namespace shardit {
namespace {

constexpr size_t kMaxNameBytes = 1024;
constexpr int64_t kMaxTensorBytes = int64_t{1} << 50;

absl::Status Bad(absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat("the manifest's ", what)); }

absl::Status CheckState(const RunState& state) {
  if (!IsValidRunId(state.run_id)) return Bad(absl::StrCat("run id '", absl::CHexEscape(state.run_id), "' is not one"));
  const int64_t least = std::min({state.step, state.images_seen, state.ema_updates, state.optimizer_updates,
                                  state.skipped_steps, state.skipped_in_a_row, state.losses.observed});
  if (least < 0) return Bad(absl::StrCat("counters must not be negative, got ", least));
  return absl::OkStatus();
}

absl::Status CheckShards(const std::vector<StoredShard>& shards) {
  const int64_t world = static_cast<int64_t>(shards.size());
  if (world == 0) return Bad("shard list is empty");
  for (int64_t rank = 0; rank < world; ++rank) {
    const StoredShard& shard = shards[static_cast<size_t>(rank)];
    // The name follows from the index, so no stored name can lead out of the folder.
    if (shard.file != ShardFileName(rank, world)) {
      return Bad(absl::StrCat("shard ", rank, " is called '", absl::CHexEscape(shard.file), "', expected '",
                              ShardFileName(rank, world), "'"));
    }
    if (shard.header_bytes < 8 || shard.file_bytes < shard.header_bytes) {
      return Bad(
          absl::StrCat("shard ", rank, " has ", shard.file_bytes, " bytes with a header of ", shard.header_bytes));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckShape(const StoredTensor& tensor) {
  int64_t bytes = sizeof(float);
  bool fits = tensor.shape.size() <= kMaxCheckpointRank;
  for (const int64_t dim : tensor.shape) {
    const auto product = dim < 1 ? std::nullopt : CheckedMul(bytes, dim);
    fits = fits && product && *product <= kMaxTensorBytes;
    if (!fits) break;
    bytes = *product;
  }
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("shape [", absl::StrJoin(tensor.shape, ","), "] is out of range"));
}

absl::Status CheckSlice(const StoredTensor& tensor, const StoredSlice& slice, const std::vector<StoredShard>& shards) {
  const size_t rank = tensor.shape.size();
  if (slice.box.offset.size() != rank || slice.box.extent.size() != rank) {
    return absl::InvalidArgumentError("a slice has another rank than its tensor");
  }
  for (size_t d = 0; d < rank; ++d) {
    const int64_t offset = slice.box.offset[d], extent = slice.box.extent[d], dim = tensor.shape[d];
    if (offset < 0 || extent < 1 || offset > dim || extent > dim - offset) {
      return absl::InvalidArgumentError("a slice leaves its tensor");
    }
  }
  const std::string box = BoxText(slice.box);
  if (slice.shard < 0 || slice.shard >= static_cast<int64_t>(shards.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("slice ", box, " is in shard ", slice.shard, ", which is not there"));
  }
  const StoredShard& shard = shards[static_cast<size_t>(slice.shard)];
  if (slice.begin < shard.header_bytes || slice.begin > shard.file_bytes ||
      slice.bytes() > shard.file_bytes - slice.begin) {
    return absl::InvalidArgumentError(absl::StrCat("slice ", box, " leaves its shard file"));
  }
  if (static_cast<int64_t>(slice.block_crcs.size()) != CeilDiv(slice.bytes(), kCheckpointBlockBytes)) {
    return absl::InvalidArgumentError(absl::StrCat("slice ", box, " has ", slice.block_crcs.size(), " block CRCs"));
  }
  return absl::OkStatus();
}

absl::Status CheckTensor(const StoredTensor& tensor, const std::vector<StoredShard>& shards) {
  const auto is_control = [](unsigned char c) { return c < 0x20 || c == 0x7f; };
  if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes ||
      std::any_of(tensor.name.begin(), tensor.name.end(), is_control)) {
    return absl::InvalidArgumentError("the name is empty, too long, or holds control characters");
  }
  RETURN_IF_ERROR(CheckShape(tensor));
  std::vector<Box> boxes;
  for (const StoredSlice& slice : tensor.slices) {
    RETURN_IF_ERROR(CheckSlice(tensor, slice, shards));
    boxes.push_back(slice.box);
  }
  return CheckTiling(tensor.shape, boxes);
}

// Slices follow each other in every shard file from its header to its last byte: then their CRCs cover all of it.
absl::Status CheckShardCoverage(const Manifest& manifest) {
  std::vector<std::tuple<int64_t, int64_t, int64_t>> runs;  // shard, begin, bytes
  for (const StoredTensor& tensor : manifest.tensors) {
    for (const StoredSlice& slice : tensor.slices) runs.emplace_back(slice.shard, slice.begin, slice.bytes());
  }
  std::sort(runs.begin(), runs.end());
  size_t next = 0;
  for (size_t shard = 0; shard < manifest.shards.size(); ++shard) {
    int64_t cursor = manifest.shards[shard].header_bytes;
    for (; next < runs.size() && std::get<0>(runs[next]) == static_cast<int64_t>(shard); ++next) {
      if (std::get<1>(runs[next]) != cursor) break;
      cursor += std::get<2>(runs[next]);
    }
    if (cursor != manifest.shards[shard].file_bytes) {
      return Bad(absl::StrCat("slices do not cover shard ", shard, " exactly once at byte ", cursor));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckManifest(const Manifest& manifest) {
  RETURN_IF_ERROR(CheckState(manifest.state));
  RETURN_IF_ERROR(CheckShards(manifest.shards));
  const StoredTensor* previous = nullptr;
  for (const StoredTensor& tensor : manifest.tensors) {
    const std::string name = absl::StrCat("tensor '", GroupName(tensor.group), "/", absl::CHexEscape(tensor.name), "'");
    if (previous != nullptr && std::tie(previous->group, previous->name) >= std::tie(tensor.group, tensor.name)) {
      return Bad(absl::StrCat(name, " is there twice or out of order"));
    }
    const absl::Status status = CheckTensor(tensor, manifest.shards);
    if (!status.ok()) return Bad(absl::StrCat(name, ": ", status.message()));
    previous = &tensor;
  }
  return CheckShardCoverage(manifest);
}

}  // namespace shardit
