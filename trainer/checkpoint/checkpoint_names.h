// Names of folders and files in a run's `checkpoints/`. Committed folders are "0000400" (the step, at least 7 digits);
// folders being written or removed are "0000400.tmp-<run>-<attempt>", those kept out of the way "0000400.aside-<k>".
// Names are the only thing read before a manifest, so parsing is exact: one spelling per meaning.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace shardit {

inline constexpr absl::string_view kManifestFile = "MANIFEST";
inline constexpr absl::string_view kLatestFile = "latest";

std::string StepFolderName(int64_t step);
// The step of a committed folder's name; nullopt for every other name.
std::optional<int64_t> ParseStepFolderName(absl::string_view name);

// Run ids are 1 to 128 letters, digits, '_' and '-'; attempts the same without '-'.
bool IsValidRunId(absl::string_view run_id);
bool IsValidAttempt(absl::string_view attempt);

std::string TempFolderName(int64_t step, absl::string_view run_id, absl::string_view attempt);
// Whether `name` is a temporary folder of exactly this run, from any attempt.
bool IsTempFolderOfRun(absl::string_view name, absl::string_view run_id);

// The k-th folder, from 1, that once had the name of this step (trainer/checkpoint/set_aside.h).
std::string AsideFolderName(int64_t step, int64_t k);

// Whether `name` is that of an unfinished replacement of `latest`: "latest.tmp-123".
bool IsTempOfLatest(absl::string_view name);

// "shard-00003-of-00008.safetensors": rank counts from 0.
std::string ShardFileName(int64_t rank, int64_t world);

}  // namespace shardit
