// What a checkpoint says about itself: the run's scalars, the shard files, and for every tensor which box lies where,
// with checksums. The stored form is a protocol buffer (manifest.proto) between a magic number and a CRC32C; it is
// untrusted when read: size-bounded, every range checked, shard names fixed by their index.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tensor/box.h"

namespace shardit {

inline constexpr int64_t kCheckpointFormatVersion = 1;
inline constexpr int64_t kCheckpointBlockBytes = 1 << 20;  // what one block CRC covers
inline constexpr int64_t kMaxManifestBytes = 64 << 20;
inline constexpr size_t kMaxCheckpointRank = 6;

// The kinds of state a tensor can be. Every group holds the model's parameter names.
enum class StateGroup { kModel, kEma, kAdamM, kAdamV };
inline constexpr std::array<StateGroup, 4> kStateGroups = {StateGroup::kModel, StateGroup::kEma, StateGroup::kAdamM,
                                                           StateGroup::kAdamV};
absl::string_view GroupName(StateGroup group);  // "model", "ema", "adam_m", "adam_v"

// How the run was cut when it was saved: information for people, never needed for loading.
struct RunLayout {
  int64_t world = 1, dp = 1, tp = 1, pp = 1, zero_stage = 0;
};

// Exponentially weighted statistics of the loss over accepted steps, from which spikes are told.
struct LossStatistics {
  int64_t observed = 0;
  double mean = 0.0, variance = 0.0;
};

// Everything about a run that is not a tensor. All of it is always stored; a manifest that lacks a field is refused.
struct RunState {
  std::string run_id;
  uint64_t config_hash = 0;
  std::string config_text;  // the resolved configuration
  std::string program_version;
  RunLayout layout;
  int64_t step = 0;               // completed optimizer steps
  int64_t images_seen = 0;        // samples consumed, skipped steps included
  int64_t ema_updates = 0;        // the k of EMA warm-up
  int64_t optimizer_updates = 0;  // the t of Adam's bias correction
  int64_t skipped_steps = 0;      // non-finite, since the run began
  int64_t skipped_in_a_row = 0;   // up to and including the last step
  LossStatistics losses;
  uint64_t seed = 0;
  std::vector<std::pair<std::string, uint64_t>> rng_keys;  // keys beyond the seed, by purpose
};

// A box of a tensor in a shard file: row-major float32, little-endian.
struct StoredSlice {
  Box box;
  int64_t shard = 0;
  int64_t begin = 0;  // bytes from the start of the shard file
  uint32_t crc = 0;
  std::vector<uint32_t> block_crcs;

  int64_t bytes() const { return Volume(box) * static_cast<int64_t>(sizeof(float)); }
};

struct StoredTensor {
  StateGroup group = StateGroup::kModel;
  std::string name;
  std::vector<int64_t> shape;  // global
  std::vector<StoredSlice> slices;
};

struct StoredShard {
  std::string file;
  int64_t file_bytes = 0;
  int64_t header_bytes = 0;
  uint32_t header_crc = 0;
};

struct Manifest {
  RunState state;
  std::vector<StoredShard> shards;
  std::vector<StoredTensor> tensors;  // in order of group, then name
};

// "model/blocks.0.attn.qkv.weight" or, for a part, "model/blocks.0.attn.qkv.weight[0:96,0:384]": a shard file's key.
std::string SliceKey(StateGroup group, absl::string_view name, const std::vector<int64_t>& shape, const Box& box);

// Every rule that a manifest must keep, whether read or about to be written: valid names, none twice; ranks and sizes
// in range; slices that cover each tensor exactly once and each shard file to its last byte; one CRC per block.
absl::Status CheckManifest(const Manifest& manifest);

// The bytes of the MANIFEST file, and back (with CheckManifest). Errors say which rule, not which file.
std::string EncodeManifest(const Manifest& manifest);
absl::StatusOr<Manifest> DecodeManifest(absl::string_view file);

// What a rank tells rank 0 about the shard it wrote. Slices name no shard: it is the sender's rank.
struct RankTable {
  StoredShard shard;
  std::vector<StoredTensor> tensors;
};
std::string EncodeRankTable(const RankTable& table);
// Joins the tables of ranks 0, 1, ... into a manifest. Not yet checked.
absl::StatusOr<Manifest> JoinRankTables(const RunState& state, const std::vector<std::string>& tables);

}  // namespace shardit
