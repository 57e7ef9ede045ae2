#include "model/dit_config.h"

#include <spdlog/fmt/fmt.h>

#include <array>
#include <utility>

#include "core/base/status_macros.h"

namespace shardit {
namespace {

constexpr std::array<std::pair<Conditioning, std::string_view>, 4> kConditioningNames = {{
    {Conditioning::kAdaLnZero, "ADALN_ZERO"},
    {Conditioning::kAdaLn, "ADALN"},
    {Conditioning::kCrossAttention, "CROSS_ATTENTION"},
    {Conditioning::kInContext, "IN_CONTEXT"},
}};

// The limits leave room for every product of sizes below 2^63, and for models far above the paper's.
absl::Status CheckRange(std::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("model.{0}: expected {1} to {2}, got {3}; set model.{0} (or model.size for a named size)", field, low,
                  high, value));
}

}  // namespace

std::string_view Name(Conditioning conditioning) {
  return kConditioningNames[static_cast<size_t>(conditioning)].second;
}

absl::StatusOr<Conditioning> ParseConditioning(std::string_view name) {
  for (const auto& [conditioning, spelling] : kConditioningNames) {
    if (spelling == name) return conditioning;
  }
  return absl::InvalidArgumentError(
      fmt::format("model.conditioning: expected ADALN_ZERO, ADALN, CROSS_ATTENTION or IN_CONTEXT, got \"{}\"", name));
}

absl::Status DitConfig::Validate() const {
  RETURN_IF_ERROR(CheckRange("depth", depth, 1, 1 << 12));
  RETURN_IF_ERROR(CheckRange("width", width, 4, 1 << 17));
  RETURN_IF_ERROR(CheckRange("heads", heads, 1, 1 << 12));
  RETURN_IF_ERROR(CheckRange("patch", patch, 1, 1 << 8));
  RETURN_IF_ERROR(CheckRange("channels", channels, 1, 1 << 12));
  RETURN_IF_ERROR(CheckRange("side", side, 1, 1 << 12));
  RETURN_IF_ERROR(CheckRange("classes", classes, 1, 1 << 24));
  if (width % heads != 0) {
    return absl::InvalidArgumentError(
        fmt::format("model.heads: expected a divisor of model.width {}, got {}; change heads or width", width, heads));
  }
  if (width % 4 != 0) {
    return absl::InvalidArgumentError(fmt::format(
        "model.width: expected a multiple of 4 (the position table holds sine and cosine of two coordinates), got {}; "
        "change width",
        width));
  }
  if (side % patch != 0) {
    return absl::InvalidArgumentError(
        fmt::format("model.patch: expected a divisor of model.side {}, got {}; change patch or side", side, patch));
  }
  if (!(class_dropout >= 0.0f && class_dropout <= 1.0f)) {
    return absl::InvalidArgumentError(fmt::format(
        "model.class_dropout: expected a probability from 0 to 1, got {}; change class_dropout", class_dropout));
  }
  return absl::OkStatus();
}

}  // namespace shardit
