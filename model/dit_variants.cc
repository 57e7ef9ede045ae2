#include "model/dit_variants.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cctype>
#include <numeric>
#include <string>

#include "core/base/check.h"

namespace shardit {
namespace {

constexpr std::array<DitVariant, 12> kVariants = {{
    {"DiT-S/8", 12, 384, 6, 8},
    {"DiT-S/4", 12, 384, 6, 4},
    {"DiT-S/2", 12, 384, 6, 2},
    {"DiT-B/8", 12, 768, 12, 8},
    {"DiT-B/4", 12, 768, 12, 4},
    {"DiT-B/2", 12, 768, 12, 2},
    {"DiT-L/8", 24, 1024, 16, 8},
    {"DiT-L/4", 24, 1024, 16, 4},
    {"DiT-L/2", 24, 1024, 16, 2},
    {"DiT-XL/8", 28, 1152, 16, 8},
    {"DiT-XL/4", 28, 1152, 16, 4},
    {"DiT-XL/2", 28, 1152, 16, 2},
}};

constexpr int64_t kFrequencies = 256;       // width of the sinusoidal timestep embedding
constexpr int64_t kConditioningTokens = 2;  // t, y

constexpr int64_t Linear(int64_t in, int64_t out) { return in * out + out; }
constexpr int64_t AffineNorm(int64_t width) { return 2 * width; }

// How the designs differ, in multiples of D: what the counts below need to know of them.
struct Design {
  int64_t block_modulation;  // adaLN outputs of a block
  int64_t final_modulation;  // adaLN outputs of the final layer
  int64_t block_norms;       // affine norms of a block
  int64_t final_norms;
  bool cross_attention;
  int64_t extra_tokens;
};

Design DesignOf(Conditioning conditioning) {
  switch (conditioning) {
    case Conditioning::kAdaLnZero:
      return {6, 2, 0, 0, false, 0};
    case Conditioning::kAdaLn:
      return {4, 2, 0, 0, false, 0};
    case Conditioning::kCrossAttention:
      return {0, 0, 3, 1, true, 0};
    case Conditioning::kInContext:
      return {0, 0, 2, 1, false, kConditioningTokens};
  }
  CHECK(false) << "conditioning " << static_cast<int>(conditioning);
  return {};
}

int64_t BlockParameters(const DitConfig& config, const Design& design) {
  const int64_t d = config.width;
  int64_t count = Linear(d, 3 * d) + Linear(d, d);                                      // self-attention
  count += Linear(d, config.mlp_width()) + Linear(config.mlp_width(), d);               // MLP
  if (design.cross_attention) count += Linear(d, d) + Linear(d, 2 * d) + Linear(d, d);  // q, kv, proj
  if (design.block_modulation > 0) count += Linear(d, design.block_modulation * d);
  return count + design.block_norms * AffineNorm(d);
}

double BlockMacs(const DitConfig& config, const Design& design) {
  const double d = config.width;
  const double tokens = config.tokens() + design.extra_tokens;
  double macs = tokens * (3 * d * d + d * d + 2 * d * config.mlp_width());
  macs += 2 * tokens * tokens * d;
  if (design.cross_attention) {
    macs += tokens * 2 * d * d + kConditioningTokens * 2 * d * d;
    macs += 2 * tokens * kConditioningTokens * d;
  }
  return macs + design.block_modulation * d * d;
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

// Levenshtein's distance, letter case aside: a wrong name is answered with the one it was probably meant to be.
int64_t EditDistance(std::string_view raw_a, std::string_view raw_b) {
  const std::string a = Lower(raw_a), b = Lower(raw_b);
  std::vector<int64_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

DitConfig FromVariant(const DitVariant& variant) {
  DitConfig config;
  config.name = std::string(variant.name);
  config.depth = variant.depth;
  config.width = variant.width;
  config.heads = variant.heads;
  config.patch = variant.patch;
  return config;
}

}  // namespace

std::span<const DitVariant> DitVariants() { return kVariants; }

absl::StatusOr<DitConfig> FindVariant(std::string_view name) {
  const DitVariant* nearest = &kVariants[0];
  std::string names;
  for (const DitVariant& variant : kVariants) {
    if (variant.name == name) return FromVariant(variant);
    if (EditDistance(variant.name, name) < EditDistance(nearest->name, name)) nearest = &variant;
    names += names.empty() ? "" : ", ";
    names += variant.name;
  }
  return absl::NotFoundError(
      fmt::format("model.size: no size is named \"{}\"; did you mean \"{}\"? The sizes are {}; for another, set "
                  "model.depth, width, heads and patch instead",
                  name, nearest->name, names));
}

std::vector<DitConfig> AllVariants() {
  std::vector<DitConfig> configs;
  for (const DitVariant& variant : kVariants) {
    for (const Conditioning conditioning : kAllConditionings) {
      configs.push_back(FromVariant(variant));
      configs.back().conditioning = conditioning;
    }
  }
  return configs;
}

int64_t PositionTableCount(const DitConfig& config) { return config.tokens() * config.width; }

int64_t ParameterCount(const DitConfig& config) {
  const int64_t d = config.width;
  const Design design = DesignOf(config.conditioning);
  int64_t count = PositionTableCount(config) + Linear(config.patch_in(), d);
  count += Linear(kFrequencies, d) + Linear(d, d);  // timestep embedding
  count += config.label_rows() * d;
  count += config.depth * BlockParameters(config, design);
  if (design.final_modulation > 0) count += Linear(d, design.final_modulation * d);
  return count + design.final_norms * AffineNorm(d) + Linear(d, config.patch_out());
}

double MacsForward(const DitConfig& config) {
  const std::vector<double> units = UnitMacs(config);
  return std::accumulate(units.begin(), units.end(), 0.0);
}

std::vector<double> UnitMacs(const DitConfig& config) {
  const double d = config.width, tokens = config.tokens();
  const Design design = DesignOf(config.conditioning);
  std::vector<double> units(static_cast<size_t>(config.depth) + 2, BlockMacs(config, design));
  units.front() = tokens * d * config.patch_in() + kFrequencies * d + d * d;
  units.back() = tokens * d * config.patch_out() + design.final_modulation * d * d;
  return units;
}

}  // namespace shardit
