#include "trainer/extractor/extractor_file.h"

#include "absl/strings/str_cat.h"
#include "core/base/file.h"

namespace shardit {

absl::StatusOr<std::unique_ptr<FeatureExtractor>> LoadExtractor(const std::string& path, RankContext& context,
                                                                ResizeMode resize) {
  return absl::UnimplementedError(absl::StrCat("extractor ", Quoted(path), ": this build has no extractor"));
}

}  // namespace shardit
