#include "launch/study/sweep_results.h"
namespace shardit {
absl::StatusOr<nlohmann::ordered_json> CollectSweep(const std::string& study_folder) {
  return absl::UnimplementedError("sweep results");
}
}  // namespace shardit
