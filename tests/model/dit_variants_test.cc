#include "model/dit_variants.h"

#include <cmath>
#include <map>
#include <string>

#include "gtest/gtest.h"

namespace shardit {
namespace {

DitConfig Variant(const char* name, Conditioning conditioning = Conditioning::kAdaLnZero) {
  absl::StatusOr<DitConfig> config = FindVariant(name);
  EXPECT_TRUE(config.ok()) << config.status();
  config->conditioning = conditioning;
  return *config;
}

struct PaperRow {
  const char* name;
  int64_t parameters;  // exact
  int64_t millions;    // as printed
  double gmacs;        // as printed: two decimals
};

constexpr PaperRow kPaper[] = {
    {"DiT-S/8", 33148160, 33, 0.36},    {"DiT-S/4", 32945024, 33, 1.41},     {"DiT-S/2", 32963360, 33, 6.06},
    {"DiT-B/8", 130881536, 131, 1.42},  {"DiT-B/4", 130475648, 130, 5.56},   {"DiT-B/2", 130512416, 130, 23.01},
    {"DiT-L/8", 458594816, 459, 5.01},  {"DiT-L/4", 458053760, 458, 19.70},  {"DiT-L/2", 458102816, 458, 80.71},
    {"DiT-XL/8", 675683072, 676, 7.39}, {"DiT-XL/4", 675074432, 675, 29.05}, {"DiT-XL/2", 675129632, 675, 118.64},
};

// The paper's rounded counts leave the fixed position table out: B/2 has 130.51M with it, 130.32M without.
int64_t TrainableMillions(const DitConfig& config) {
  return std::llround(1e-6 * static_cast<double>(ParameterCount(config) - PositionTableCount(config)));
}

void ExpectNearPaper(double gmacs, double printed) {
  EXPECT_LE(std::abs(gmacs - printed), std::max(0.003 * printed, 0.005)) << gmacs << " vs " << printed;
}

TEST(DitVariants, CountsEqualThePapersForEverySize) {
  ASSERT_EQ(DitVariants().size(), std::size(kPaper));
  for (const PaperRow& row : kPaper) {
    SCOPED_TRACE(row.name);
    const DitConfig config = Variant(row.name);
    ASSERT_TRUE(config.Validate().ok()) << config.Validate();
    EXPECT_EQ(ParameterCount(config), row.parameters);
    EXPECT_EQ(TrainableMillions(config), row.millions);
    ExpectNearPaper(GmacsForward(config), row.gmacs);
    EXPECT_DOUBLE_EQ(TrainFlops(config), 6 * MacsForward(config));
  }
}

TEST(DitVariants, CountsEqualThePapersForEveryConditioning) {
  const struct {
    Conditioning conditioning;
    int64_t millions;
    double gmacs;
  } rows[] = {{Conditioning::kInContext, 449, 119.37},
              {Conditioning::kCrossAttention, 598, 137.62},
              {Conditioning::kAdaLn, 600, 118.56},
              {Conditioning::kAdaLnZero, 675, 118.64}};
  for (const auto& row : rows) {
    SCOPED_TRACE(std::string(Name(row.conditioning)));
    const DitConfig config = Variant("DiT-XL/2", row.conditioning);
    EXPECT_EQ(TrainableMillions(config), row.millions);
    ExpectNearPaper(GmacsForward(config), row.gmacs);
  }
}

// The parameters of a small model of each design, tensor by tensor, as PyTorch would list them.
TEST(DitVariants, ClosedFormEqualsTheSumOverTensors) {
  DitConfig config;
  config.depth = 3, config.width = 24, config.heads = 2, config.patch = 3;
  config.channels = 1, config.side = 9, config.classes = 7;
  const int64_t d = 24;
  const int64_t embedders = 9 * d + (d * 9 + d) + (256 * d + d) + (d * d + d) + 8 * d;
  const int64_t attention = (3 * d * d + 3 * d) + (d * d + d), mlp = (4 * d * d + 4 * d) + (4 * d * d + d);
  const int64_t cross = (d * d + d) + (2 * d * d + 2 * d) + (d * d + d);
  const int64_t final_linear = 18 * d + 18, norm = 2 * d;
  const std::map<Conditioning, int64_t> expected = {
      {Conditioning::kAdaLnZero, 3 * (6 * d * d + 6 * d) + 2 * d * d + 2 * d},
      {Conditioning::kAdaLn, 3 * (4 * d * d + 4 * d) + 2 * d * d + 2 * d},
      {Conditioning::kCrossAttention, 3 * (cross + 3 * norm) + norm},
      {Conditioning::kInContext, 3 * (2 * norm) + norm}};
  for (const auto& [conditioning, own] : expected) {
    config.conditioning = conditioning;
    EXPECT_EQ(ParameterCount(config), embedders + 3 * (attention + mlp) + final_linear + own) << Name(conditioning);
  }
  config.learn_sigma = false;
  config.conditioning = Conditioning::kInContext;
  EXPECT_EQ(ParameterCount(config),
            embedders + 3 * (attention + mlp) + 9 * d + 9 + expected.at(Conditioning::kInContext));
}

TEST(DitVariants, AllVariantsAreTwelveSizesTimesFourConditionings) {
  const std::vector<DitConfig> all = AllVariants();
  ASSERT_EQ(all.size(), 48u);
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i].name, DitVariants()[i / 4].name);
    EXPECT_EQ(all[i].conditioning, kAllConditionings[i % 4]);
    EXPECT_TRUE(all[i].Validate().ok());
  }
  EXPECT_EQ(Variant("DiT-XL/2").head_dim(), 72);
}

TEST(DitVariants, UnknownNameSuggestsTheNearest) {
  const absl::Status status = FindVariant("dit-xl2").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(status.message().find("did you mean \"DiT-XL/2\"?"), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("DiT-B/4"), absl::string_view::npos) << status;
}

TEST(DitConfig, ConditioningNamesRoundTrip) {
  for (const Conditioning conditioning : kAllConditionings) {
    ASSERT_TRUE(ParseConditioning(Name(conditioning)).ok());
    EXPECT_EQ(*ParseConditioning(Name(conditioning)), conditioning);
  }
  EXPECT_EQ(Name(Conditioning::kCrossAttention), "CROSS_ATTENTION");
  EXPECT_FALSE(ParseConditioning("adaln").ok());
}

TEST(DitConfig, ValidateNamesTheField) {
  const struct {
    void (*damage)(DitConfig&);
    const char* message;
  } cases[] = {
      {[](DitConfig& c) { c.depth = 0; }, "model.depth: expected 1 to 4096, got 0"},
      {[](DitConfig& c) { c.width = -4; }, "model.width: expected 4 to"},
      {[](DitConfig& c) { c.heads = 5; }, "model.heads: expected a divisor of model.width 384, got 5"},
      {[](DitConfig& c) { c.width = 390; }, "model.width: expected a multiple of 4"},
      {[](DitConfig& c) { c.patch = 5; }, "model.patch: expected a divisor of model.side 32, got 5"},
      {[](DitConfig& c) { c.channels = 0; }, "model.channels"},
      {[](DitConfig& c) { c.side = int64_t{1} << 40; }, "model.side"},
      {[](DitConfig& c) { c.classes = 0; }, "model.classes"},
      {[](DitConfig& c) { c.class_dropout = 1.5f; },
       "model.class_dropout: expected a probability from 0 to 1, got 1.5"},
      {[](DitConfig& c) { c.class_dropout = NAN; }, "model.class_dropout"},
  };
  for (const auto& test : cases) {
    DitConfig config = Variant("DiT-S/8");
    test.damage(config);
    const absl::Status status = config.Validate();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(test.message), absl::string_view::npos) << status;
  }
}

}  // namespace
}  // namespace shardit
