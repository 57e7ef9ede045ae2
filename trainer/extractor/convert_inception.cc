#include "trainer/extractor/convert_inception.h"

#include <algorithm>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "core/tensor/rank_context.h"
#include "data/formats/pth.h"
#include "model/inception.h"
#include "trainer/extractor/extractor_file.h"
#include "trainer/extractor/file_hash.h"
#include "trainer/extractor/inception_extractor.h"

namespace shardit {
namespace {

// By which a dictionary of weights is known.
constexpr char kFirstTensor[] = "Conv2d_1a_3x3.conv.weight";
constexpr char kAdvice[] = "expected the FID variant of Inception-v3, pt_inception-2015-12-05-6726825d.pth";

absl::Status Bad(const PthReader& file, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("weights ", Quoted(file.path()), ": ", what, "; ", kAdvice));
}

bool IsLeftOut(absl::string_view name) { return name == "fc.bias" || absl::EndsWith(name, ".num_batches_tracked"); }

absl::StatusOr<std::string> GroupOf(const PthReader& file) {
  for (const PthTensor& tensor : file.tensors()) {
    if (tensor.name == kFirstTensor) return tensor.group;
  }
  return Bad(file, absl::StrCat("has no tensor '", kFirstTensor, "'"));
}

// Before memory is taken.
absl::Status Check(const PthReader& file, const std::string& group, const ParameterList& parameters) {
  for (const PthTensor& tensor : file.tensors()) {
    if (tensor.group != group || IsLeftOut(tensor.name)) continue;
    const Parameter* parameter = parameters.Find(tensor.name);
    const std::string what = absl::StrCat("tensor '", absl::CHexEscape(tensor.name), "' ");
    if (parameter == nullptr) return Bad(file, absl::StrCat(what, "is of another network"));
    const Shape expected = FileShape(parameter->shape);
    if (std::equal(tensor.shape.begin(), tensor.shape.end(), expected.begin(), expected.end())) continue;
    return Bad(file, absl::StrCat(what, "has shape [", absl::StrJoin(tensor.shape, ", "), "], expected ",
                                  expected.ToString()));
  }
  for (const auto& parameter : parameters.all()) {
    if (file.Find(group, parameter->name) == nullptr) {
      return Bad(file, absl::StrCat("has no tensor '", parameter->name, "'"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ConvertedInception> ConvertInception(const std::string& pth, const std::string& out) {
  ASSIGN_OR_RETURN(PthReader file, PthReader::Open(pth));
  ASSIGN_OR_RETURN(const std::string group, GroupOf(file));
  InceptionV3 network;
  ParameterList& parameters = network.parameters();
  RETURN_IF_ERROR(Check(file, group, parameters));
  RETURN_IF_ERROR(file.Verify());
  RankContext context(1);
  parameters.Allocate(context.allocator());
  for (const auto& parameter : parameters.all()) {
    ASSIGN_OR_RETURN(const std::vector<float> values, file.ReadAsFloat(*file.Find(group, parameter->name)));
    RETURN_IF_ERROR(CheckWeights(pth, parameter->name, values));
    FromFileOrder(values.data(), parameter->shape, parameter->value.data());
  }
  ConvertedInception result{.tensors = static_cast<int64_t>(parameters.size()), .parameters = parameters.elements()};
  ASSIGN_OR_RETURN(result.source_sha256, Sha256OfFile(pth));
  result.is_fid = absl::StartsWith(result.source_sha256, kFidWeightsHash);
  RETURN_IF_ERROR(WriteInception(PosixFileSystem(), out, parameters, {{kSourceKey, result.source_sha256}}));
  ASSIGN_OR_RETURN(result.sha256, Sha256OfFile(out));
  return result;
}

}  // namespace shardit
