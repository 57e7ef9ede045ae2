// From configuration text to the plain options of a run: the only translator between protocol buffers and option
// structs. Text comes from users and from files of earlier runs and is untrusted (see text_scan.h). Every error is one
// line, InvalidArgument with exit code 64, and is found before anything is allocated or written. Pure but for reading
// the files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/diffusion.h"
#include "model/dit_config.h"
#include "trainer/run_config/options.h"

namespace shardit {

struct RunOptions {
  DitConfig model;
  DiffusionOptions diffusion;
  DataOptions data;
  OptimizerOptions optimizer;
  EmaOptions ema;
  ParallelOptions parallel;
  TrainOptions train;
  CheckpointOptions checkpoint;
  LogOptions log;
};

// What the command needs: kModel checks and requires model and diffusion only (parity, sample); kTrain needs
// everything, and refuses what this version does not train.
enum class ConfigUse : uint8_t { kModel, kTrain };

struct ConfigSources {
  std::vector<std::string> files;  // text format, merged from left to right
  std::vector<std::string> sets;   // "section.field=value", after the files, from left to right
};

struct ResolvedConfig {
  RunOptions options;
  // Every field set, in text format: what config.textproto and checkpoints hold. Reads back to the same options.
  std::string text;
  // Of the fields that a resumed run must keep, by path and value: the same on every machine and for every spelling.
  uint64_t hash = 0;
};

// Loads, merges, checks and fills in defaults. `world` is the number of ranks: dp 0 becomes world / (tp pp),
// micro_batch 0 becomes global_batch / dp.
absl::StatusOr<ResolvedConfig> LoadRunConfig(const ConfigSources& sources, ConfigUse use, int64_t world);

// The same for one text, `name` standing for its file in errors.
absl::StatusOr<ResolvedConfig> ParseRunConfig(const std::string& text, const std::string& name, ConfigUse use,
                                              int64_t world);

// The model and diffusion sections of a resolved text, for the metadata of exported weights under this key.
inline constexpr char kConfigMetadataKey[] = "shardit.config";
absl::StatusOr<std::string> ModelConfigText(const std::string& resolved_text);

// What a resume would change, by what it means. One line a field: "train.seed: 0 -> 1" (saved -> now).
struct ConfigDiff {
  std::vector<std::string> frozen;    // refuse to resume
  std::vector<std::string> reported;  // allowed, changes the numbers
  std::vector<std::string> free;      // allowed, does not
};
absl::StatusOr<ConfigDiff> DiffRunConfigs(const std::string& saved_text, const std::string& text);

// OK, or InvalidArgument (exit code 64) with every frozen difference in one line.
absl::Status CheckResumable(const ConfigDiff& diff);

}  // namespace shardit
