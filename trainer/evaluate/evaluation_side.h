// The two sides of an evaluation, samples and reference: what lies at a path, and what is known of it.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "core/tensor/rank_context.h"
#include "trainer/evaluate/image_source.h"
#include "trainer/evaluate/statistics_file.h"
#include "trainer/model_sampler.h"
#include "trainer/sample.h"

namespace shardit {

enum class SideKind { kFile, kModel };  // kFile: images or statistics

// What rank 0 finds out about a path and tells the others: as ModelIdentity, of files too; one rank reads for the hash.
struct SideIdentity : ModelIdentity {
  SideKind kind = SideKind::kFile;

  std::string Pack() const;
  static SideIdentity Unpack(const std::string& packed);
};
// Reads all of the file or files.
absl::StatusOr<SideIdentity> IdentifySide(const std::string& path);

struct EvaluationSide {
  std::optional<ReferenceStatistics> statistics;
  std::unique_ptr<ImageSource> images;  // null: statistics only
  std::optional<int64_t> count;         // images that a Frechet distance is of; not there: statistics do not say
  nlohmann::ordered_json description;   // for the report
  int64_t chunk = 512;                  // images that are done and stored at once
};

// The first `num` images (0: all) at an identified path, or its statistics. Of an npz that holds both the statistics
// are taken too, where `take_statistics` and no number of images is asked for. InvalidArgument (exit code 64) where
// there are fewer.
absl::StatusOr<EvaluationSide> OpenFileSide(const SideIdentity& identity, int64_t num, bool take_statistics);

// `num` samples of a model as `request` says.
absl::StatusOr<EvaluationSide> OpenModelSide(RankContext& context, const SideIdentity& identity, int64_t num,
                                             SampleRequest request);

}  // namespace shardit
