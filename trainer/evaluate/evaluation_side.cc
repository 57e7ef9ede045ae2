#include "trainer/evaluate/evaluation_side.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "data/formats/npz.h"
#include "trainer/evaluate/sampled_images.h"
#include "trainer/model_sampler.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

// Drawing is slow: a signal should not have to wait for many samples.
constexpr int64_t kDrawnChunk = 64;

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

std::string SideIdentity::Pack() const {
  return absl::StrCat(kind == SideKind::kModel ? "m" : "f", ModelIdentity::Pack());
}

SideIdentity SideIdentity::Unpack(const std::string& packed) {
  return {ModelIdentity::Unpack(packed.substr(1)), packed[0] == 'm' ? SideKind::kModel : SideKind::kFile};
}

absl::StatusOr<SideIdentity> IdentifySide(const std::string& path) {
  if (!IsModelPath(path)) {
    ASSIGN_OR_RETURN(const std::string sha256, ImageSourceSha256(path));
    return SideIdentity{{path, sha256}, SideKind::kFile};
  }
  ASSIGN_OR_RETURN(const ModelIdentity model, IdentifyModel(path));
  return SideIdentity{model, SideKind::kModel};
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
  has_statistics = has_statistics && ((take_statistics && num == 0) || !has_images);
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
  if (has_statistics) {
    side.description["images"] = side.images->shape().count;
  } else {
    side.count = side.images->shape().count;
  }
  return side;
}

absl::StatusOr<EvaluationSide> OpenModelSide(RankContext& context, const SideIdentity& identity, int64_t num,
                                             SampleRequest request) {
  request.checkpoint = identity.path;
  ASSIGN_OR_RETURN(ModelSampler sampler, ModelSampler::Load(context, request));
  EvaluationSide side;
  side.chunk = kDrawnChunk;
  side.description = DescribeSampling(identity, sampler, request);
  ASSIGN_OR_RETURN(side.images, MakeSampledImages(std::move(sampler), num));
  DescribeImages(side.images->shape(), &side.description);
  side.count = num;
  return side;
}

}  // namespace shardit
