#include "trainer/checkpoint/manifest.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/check.h"
#include "core/base/crc32c.h"
#include "core/base/status_macros.h"
#include "trainer/checkpoint/manifest.pb.h"

namespace shardit {
namespace {

// Frame: magic, payload length (u64), payload, CRC32C of all bytes before it (u32).
constexpr absl::string_view kMagic = "SHRDITCK";
constexpr size_t kPrefixBytes = 16;
constexpr size_t kFrameBytes = kPrefixBytes + 4;

checkpoint_v1::Group GroupToProto(StateGroup group) {
  switch (group) {
    case StateGroup::kModel:
      return checkpoint_v1::MODEL;
    case StateGroup::kEma:
      return checkpoint_v1::EMA;
    case StateGroup::kAdamM:
      return checkpoint_v1::ADAM_M;
    case StateGroup::kAdamV:
      return checkpoint_v1::ADAM_V;
  }
  CHECK(false) << "[checkpoint] group";
  return checkpoint_v1::GROUP_UNSPECIFIED;
}

std::vector<int64_t> FromRepeated(const google::protobuf::RepeatedField<int64_t>& field) {
  return std::vector<int64_t>(field.begin(), field.end());
}

void StateToProto(const RunState& state, checkpoint_v1::State* proto) {
  proto->set_run_id(state.run_id);
  proto->set_config_hash(state.config_hash);
  proto->set_config_text(state.config_text);
  proto->set_program_version(state.program_version);
  checkpoint_v1::Layout* layout = proto->mutable_layout();
  layout->set_world(state.layout.world);
  layout->set_dp(state.layout.dp);
  layout->set_tp(state.layout.tp);
  layout->set_pp(state.layout.pp);
  layout->set_zero_stage(state.layout.zero_stage);
  proto->set_step(state.step);
  proto->set_images_seen(state.images_seen);
  proto->set_ema_updates(state.ema_updates);
  proto->set_optimizer_updates(state.optimizer_updates);
  proto->set_skipped_steps(state.skipped_steps);
  proto->set_skipped_in_a_row(state.skipped_in_a_row);
  if (state.losses.observed > 0) {
    checkpoint_v1::Losses* losses = proto->mutable_losses();
    losses->set_observed(state.losses.observed);
    losses->set_mean(state.losses.mean);
    losses->set_variance(state.losses.variance);
  }
  proto->set_seed(state.seed);
  for (const auto& [name, value] : state.rng_keys) {
    checkpoint_v1::RngKey* key = proto->add_rng_keys();
    key->set_name(name);
    key->set_value(value);
  }
}

absl::StatusOr<RunState> StateFromProto(const checkpoint_v1::State& proto) {
  const std::pair<bool, absl::string_view> required[] = {{proto.has_layout(), "layout"},
                                                         {proto.has_step(), "step"},
                                                         {proto.has_images_seen(), "images_seen"},
                                                         {proto.has_ema_updates(), "ema_updates"},
                                                         {proto.has_optimizer_updates(), "optimizer_updates"},
                                                         {proto.has_skipped_steps(), "skipped_steps"},
                                                         {proto.has_skipped_in_a_row(), "skipped_in_a_row"},
                                                         {proto.has_seed(), "seed"}};
  for (const auto& [present, name] : required) {
    if (!present) return absl::DataLossError(absl::StrCat("state '", name, "' is missing"));
  }
  RunState state;
  state.run_id = proto.run_id();
  state.config_hash = proto.config_hash();
  state.config_text = proto.config_text();
  state.program_version = proto.program_version();
  state.layout = {proto.layout().world(), proto.layout().dp(), proto.layout().tp(), proto.layout().pp(),
                  proto.layout().zero_stage()};
  state.step = proto.step();
  state.images_seen = proto.images_seen();
  state.ema_updates = proto.ema_updates();
  state.optimizer_updates = proto.optimizer_updates();
  state.skipped_steps = proto.skipped_steps();
  state.skipped_in_a_row = proto.skipped_in_a_row();
  state.losses = {proto.losses().observed(), proto.losses().mean(), proto.losses().variance()};
  state.seed = proto.seed();
  for (const checkpoint_v1::RngKey& key : proto.rng_keys()) state.rng_keys.emplace_back(key.name(), key.value());
  return state;
}

void ShardToProto(const StoredShard& shard, checkpoint_v1::Shard* proto) {
  proto->set_file(shard.file);
  proto->set_file_bytes(shard.file_bytes);
  proto->set_header_bytes(shard.header_bytes);
  proto->set_header_crc(shard.header_crc);
}

StoredShard ShardFromProto(const checkpoint_v1::Shard& proto) {
  return {proto.file(), proto.file_bytes(), proto.header_bytes(), proto.header_crc()};
}

void TensorToProto(const StoredTensor& tensor, checkpoint_v1::Tensor* proto) {
  proto->set_group(GroupToProto(tensor.group));
  proto->set_name(tensor.name);
  proto->mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
  proto->set_dtype(checkpoint_v1::F32);
  for (const StoredSlice& slice : tensor.slices) {
    checkpoint_v1::Slice* out = proto->add_slices();
    out->mutable_offset()->Add(slice.box.offset.begin(), slice.box.offset.end());
    out->mutable_extent()->Add(slice.box.extent.begin(), slice.box.extent.end());
    out->set_shard(slice.shard);
    out->set_begin(slice.begin);
    out->set_crc(slice.crc);
    out->mutable_block_crc()->Add(slice.block_crcs.begin(), slice.block_crcs.end());
  }
}

absl::StatusOr<StoredTensor> TensorFromProto(const checkpoint_v1::Tensor& proto) {
  StoredTensor tensor;
  const auto group = std::find_if(kStateGroups.begin(), kStateGroups.end(),
                                  [&](StateGroup g) { return GroupToProto(g) == proto.group(); });
  if (group == kStateGroups.end() || proto.dtype() != checkpoint_v1::F32) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", absl::CHexEscape(proto.name()), "' has an unknown group or dtype"));
  }
  tensor.group = *group;
  tensor.name = proto.name();
  tensor.shape = FromRepeated(proto.shape());
  for (const checkpoint_v1::Slice& slice : proto.slices()) {
    tensor.slices.push_back({{FromRepeated(slice.offset()), FromRepeated(slice.extent())},
                             slice.shard(),
                             slice.begin(),
                             slice.crc(),
                             {slice.block_crc().begin(), slice.block_crc().end()}});
  }
  return tensor;
}

std::string Frame(const std::string& payload) {
  const uint64_t length = payload.size();
  std::string file(kMagic);
  file.append(reinterpret_cast<const char*>(&length), sizeof(length));
  file += payload;
  const uint32_t crc = Crc32c(file.data(), file.size());
  file.append(reinterpret_cast<const char*>(&crc), sizeof(crc));
  return file;
}

absl::StatusOr<absl::string_view> Unframe(absl::string_view file) {
  if (file.size() < kFrameBytes || file.substr(0, kMagic.size()) != kMagic) {
    return absl::DataLossError("the manifest is truncated, or not one");
  }
  uint64_t length = 0;
  uint32_t crc = 0;
  std::memcpy(&length, file.data() + kMagic.size(), sizeof(length));
  std::memcpy(&crc, file.data() + file.size() - sizeof(crc), sizeof(crc));
  if (length != file.size() - kFrameBytes) {
    return absl::DataLossError(absl::StrCat("the manifest has ", file.size(), " bytes, expected ", length, " + ",
                                            kFrameBytes, "; it is truncated"));
  }
  const uint32_t actual = Crc32c(file.data(), file.size() - sizeof(crc));
  if (actual != crc) {
    return absl::DataLossError(absl::StrCat("the manifest has CRC32C ", absl::Hex(actual, absl::kZeroPad8),
                                            ", expected ", absl::Hex(crc, absl::kZeroPad8), "; it is damaged"));
  }
  return file.substr(kPrefixBytes, static_cast<size_t>(length));
}

}  // namespace

absl::string_view GroupName(StateGroup group) {
  switch (group) {
    case StateGroup::kModel:
      return "model";
    case StateGroup::kEma:
      return "ema";
    case StateGroup::kAdamM:
      return "adam_m";
    case StateGroup::kAdamV:
      return "adam_v";
  }
  return "";
}

std::string SliceKey(StateGroup group, absl::string_view name, const std::vector<int64_t>& shape, const Box& box) {
  return absl::StrCat(GroupName(group), "/", name, IsWhole(shape, box) ? "" : BoxText(box));
}

std::string EncodeManifest(const Manifest& manifest) {
  checkpoint_v1::Manifest proto;
  proto.set_format_version(kCheckpointFormatVersion);
  StateToProto(manifest.state, proto.mutable_state());
  for (const StoredShard& shard : manifest.shards) ShardToProto(shard, proto.add_shards());
  for (const StoredTensor& tensor : manifest.tensors) TensorToProto(tensor, proto.add_tensors());
  return Frame(proto.SerializeAsString());
}

absl::StatusOr<Manifest> DecodeManifest(absl::string_view file) {
  ASSIGN_OR_RETURN(const absl::string_view payload, Unframe(file));
  checkpoint_v1::Manifest proto;
  if (!proto.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
    return absl::DataLossError("the manifest is not a protocol buffer of its kind");
  }
  if (proto.format_version() != kCheckpointFormatVersion) {
    return absl::UnimplementedError(absl::StrCat("format version ", proto.format_version(), ", this program reads ",
                                                 kCheckpointFormatVersion, "; use the program that wrote it"));
  }
  Manifest manifest;
  ASSIGN_OR_RETURN(manifest.state, StateFromProto(proto.state()));
  for (const checkpoint_v1::Shard& shard : proto.shards()) manifest.shards.push_back(ShardFromProto(shard));
  for (const checkpoint_v1::Tensor& tensor : proto.tensors()) {
    ASSIGN_OR_RETURN(StoredTensor stored, TensorFromProto(tensor));
    manifest.tensors.push_back(std::move(stored));
  }
  RETURN_IF_ERROR(CheckManifest(manifest));
  return manifest;
}

std::string EncodeRankTable(const RankTable& table) {
  checkpoint_v1::RankTable proto;
  ShardToProto(table.shard, proto.mutable_shard());
  for (const StoredTensor& tensor : table.tensors) TensorToProto(tensor, proto.add_tensors());
  return proto.SerializeAsString();
}

absl::StatusOr<Manifest> JoinRankTables(const RunState& state, const std::vector<std::string>& tables) {
  Manifest manifest;
  manifest.state = state;
  std::map<std::pair<StateGroup, std::string>, StoredTensor> tensors;
  for (size_t rank = 0; rank < tables.size(); ++rank) {
    checkpoint_v1::RankTable proto;
    if (!proto.ParseFromString(tables[rank])) {
      return absl::InternalError(absl::StrCat("rank ", rank, " sent a slice table that cannot be parsed"));
    }
    manifest.shards.push_back(ShardFromProto(proto.shard()));
    for (const checkpoint_v1::Tensor& entry : proto.tensors()) {
      ASSIGN_OR_RETURN(StoredTensor part, TensorFromProto(entry));
      for (StoredSlice& slice : part.slices) slice.shard = static_cast<int64_t>(rank);
      const auto [at, is_new] = tensors.try_emplace({part.group, part.name}, part);
      if (is_new) continue;
      if (at->second.shape != part.shape) {
        return absl::InvalidArgumentError(absl::StrCat("tensor '", GroupName(part.group), "/",
                                                       absl::CHexEscape(part.name), "' has shape [",
                                                       absl::StrJoin(part.shape, ","), "] on rank ", rank, ", [",
                                                       absl::StrJoin(at->second.shape, ","), "] on a lower one"));
      }
      for (StoredSlice& slice : part.slices) at->second.slices.push_back(std::move(slice));
    }
  }
  for (auto& [key, tensor] : tensors) manifest.tensors.push_back(std::move(tensor));
  return manifest;
}

}  // namespace shardit
