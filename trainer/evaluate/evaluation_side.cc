#include "trainer/evaluate/evaluation_side.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "data/formats/npz.h"
#include "model/sampler.h"
#include "trainer/checkpoint/checkpoint_names.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/checkpoint_export.h"
#include "trainer/evaluate/sampled_images.h"
#include "trainer/extractor/file_hash.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

constexpr size_t kSha256Digits = 64;

// Drawing is slow: a signal should not have to wait for many samples.
constexpr int64_t kDrawnChunk = 64;

bool HoldsCheckpoints(const std::string& folder) {
  if (KindOfPath(JoinPath(folder, std::string(kManifestFile))) == PathKind::kFile) return true;
  if (KindOfPath(JoinPath(folder, "checkpoints")) == PathKind::kFolder) return true;
  const auto steps = ListCheckpoints(folder);
  return steps.ok() && !steps->empty();
}

absl::Status TooFew(const std::string& path, int64_t count, int64_t num) {
  return WithExitCode(absl::InvalidArgumentError(
                          absl::StrCat(Quoted(path), ": asked for the first ", num, " images, but it holds ", count)),
                      ExitCode::kUsage);
}

void DescribeImages(const ImageShape& shape, nlohmann::ordered_json* description) {
  (*description)["height"] = shape.height;
  (*description)["width"] = shape.width;
  (*description)["channels"] = shape.channels;
}

}  // namespace

std::string SideIdentity::Pack() const { return absl::StrCat(kind == SideKind::kModel ? "m" : "f", sha256, path); }

SideIdentity SideIdentity::Unpack(const std::string& packed) {
  return {packed[0] == 'm' ? SideKind::kModel : SideKind::kFile, packed.substr(1 + kSha256Digits),
          packed.substr(1, kSha256Digits)};
}

absl::StatusOr<SideIdentity> IdentifySide(const std::string& path) {
  SideIdentity identity{SideKind::kFile, path, ""};
  if (absl::EndsWith(path, ".safetensors")) {
    identity.kind = SideKind::kModel;
    ASSIGN_OR_RETURN(identity.sha256, Sha256OfFile(path));
  } else if (KindOfPath(path) == PathKind::kFolder && HoldsCheckpoints(path)) {
    identity.kind = SideKind::kModel;
    ASSIGN_OR_RETURN(const CheckpointReader reader, OpenCheckpoint(path));
    identity.path = reader.folder();
    ASSIGN_OR_RETURN(identity.sha256, Sha256OfFile(JoinPath(identity.path, std::string(kManifestFile))));
  } else {
    ASSIGN_OR_RETURN(identity.sha256, ImageSourceSha256(path));
  }
  return identity;
}

absl::StatusOr<EvaluationSide> OpenFileSide(const SideIdentity& identity, int64_t num, bool take_statistics) {
  EvaluationSide side;
  side.description["path"] = identity.path;
  bool has_statistics = false, has_images = true;
  if (absl::EndsWith(identity.path, ".npz")) {
    ASSIGN_OR_RETURN(has_statistics, HoldsStatistics(identity.path));
    ASSIGN_OR_RETURN(const NpzReader npz, NpzReader::Open(identity.path));
    const std::vector<std::string> names = npz.names();
    has_images = !has_statistics || std::find(names.begin(), names.end(), "arr_0") != names.end();
  }
  has_statistics = has_statistics && (take_statistics || !has_images);
  side.description["kind"] = has_statistics ? "statistics" : "images";
  side.description["sha256"] = identity.sha256;
  if (has_statistics) {
    ASSIGN_OR_RETURN(side.statistics, ReadStatisticsFile(identity.path));
  }
  if (!has_images) {
    if (num > 0) return TooFew(identity.path, 0, num);
    return side;
  }
  ASSIGN_OR_RETURN(side.images, OpenImageSource(identity.path));
  const int64_t count = side.images->shape().count;
  if (num > count) return TooFew(identity.path, count, num);
  if (num > 0 && num < count) side.images = FirstImages(std::move(side.images), num);
  DescribeImages(side.images->shape(), &side.description);
  return side;
}

absl::StatusOr<EvaluationSide> OpenModelSide(RankContext& context, const SideIdentity& identity, int64_t num,
                                             SampleRequest request) {
  request.checkpoint = identity.path;
  ASSIGN_OR_RETURN(ModelSampler sampler, ModelSampler::Load(context, request));
  EvaluationSide side;
  side.chunk = kDrawnChunk;
  nlohmann::ordered_json& description = side.description;
  description["path"] = identity.path;
  description["kind"] = "model";
  description["sha256"] = identity.sha256;
  const std::optional<int64_t>& step = sampler.trained_steps();
  description["step"] = step.has_value() ? nlohmann::ordered_json(*step) : nlohmann::ordered_json(nullptr);
  if (!absl::EndsWith(identity.path, ".safetensors")) description["weights"] = request.ema ? "ema" : "model";
  description["sampler"] = std::string(Name(request.ddim ? SamplerKind::kDdim : SamplerKind::kDdpm));
  description["steps"] = request.steps;
  description["eta"] = request.eta;
  description["cfg_scale"] = request.cfg_scale;
  description["cfg_channels"] = request.cfg_channels;
  description["seed"] = request.seed;
  description["classes"] = sampler.classes();
  ASSIGN_OR_RETURN(side.images, MakeSampledImages(std::move(sampler), num));
  DescribeImages(side.images->shape(), &description);
  return side;
}

}  // namespace shardit
