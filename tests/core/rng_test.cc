#include "core/tensor/rng.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>
#include <vector>

#include "Random123/philox.h"
#include "core/base/simd_targets.h"
#include "gtest/gtest.h"
#include "hwy/highway.h"

namespace shardit {
namespace {

struct KnownAnswer {
  PhiloxBlock counter;
  uint32_t key0;
  uint32_t key1;
  PhiloxBlock want;
};

// Random123's known answers for philox4x32-10.
TEST(Philox, KnownAnswers) {
  const KnownAnswer answers[] = {
      {{{0, 0, 0, 0}}, 0, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
      {{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}},
       0xffffffff,
       0xffffffff,
       {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
      {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
       0xa4093822,
       0x299f31d0,
       {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
  };
  for (const KnownAnswer& answer : answers) {
    const PhiloxBlock got = Philox4x32(answer.counter, answer.key0, answer.key1);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(got.word[i], answer.want.word[i]) << i;
  }
}

TEST(Philox, EqualsRandom123) {
  uint32_t state = 1;
  const auto next = [&state] { return state = state * 1664525u + 1013904223u; };
  for (int i = 0; i < 20000; ++i) {
    const PhiloxBlock counter{{next(), next(), next(), next()}};
    const uint32_t key0 = next(), key1 = next();
    const PhiloxBlock got = Philox4x32(counter, key0, key1);
    const philox4x32_ctr_t theirs = {{counter.word[0], counter.word[1], counter.word[2], counter.word[3]}};
    const philox4x32_key_t key = {{key0, key1}};
    const philox4x32_ctr_t want = philox4x32(theirs, key);
    for (size_t w = 0; w < 4; ++w) ASSERT_EQ(got.word[w], want.v[w]);
  }
}

TEST(RngKey, EveryFieldChangesTheSequence) {
  const RngKey base{.seed = 5, .purpose = RngPurpose::kNoise, .stream = 9};
  std::set<uint32_t> words;
  RngKey other = base;
  words.insert(base.Word(0));
  words.insert(base.Word(1));
  words.insert(base.Word(uint64_t{1} << 34));
  other.seed = 6;
  words.insert(other.Word(0));
  other.seed = 5 + (uint64_t{1} << 32);
  words.insert(other.Word(0));
  other = base;
  other.purpose = RngPurpose::kTimestep;
  words.insert(other.Word(0));
  other = base;
  other.stream = 10;
  words.insert(other.Word(0));
  other.stream = 9 + (uint64_t{1} << 32);
  words.insert(other.Word(0));
  EXPECT_EQ(words.size(), 8u);
}

TEST(RngKey, ElementIsAWordOfItsBlock) {
  const RngKey key{.seed = 1, .stream = 2};
  for (uint64_t element = 0; element < 40; ++element) {
    EXPECT_EQ(key.Word(element), key.Block(element / 4).word[element % 4]);
  }
}

TEST(Uniform, IsInTheUnitInterval) {
  EXPECT_EQ(UniformFromWord(0), 0.0f);
  EXPECT_EQ(UniformFromWord(0xffffffffu), 1.0f - 0x1p-24f);
  EXPECT_EQ(BoundedFromWord(0xffffffffu, 10), 9u);
  EXPECT_EQ(BoundedFromWord(0, 10), 0u);
}

// Distance of the normal CDF at z from the word's own quantile, as an error of z.
double QuantileError(uint32_t word) {
  const double z = NormalFromWord(word);
  const double p = (static_cast<double>(std::min(word, ~word)) + 0.5) * 0x1p-32;  // to the nearer end
  const double cdf = 0.5 * std::erfc(std::abs(z) / std::sqrt(2.0));
  const double density = std::exp(-z * z / 2) / std::sqrt(2 * M_PI);
  return (cdf - p) / density;
}

TEST(Normal, IsTheQuantileOfItsWord) {
  for (uint64_t word = 0; word < (uint64_t{1} << 32); word += 65521) {
    const uint32_t w = static_cast<uint32_t>(word);
    const double bound = std::abs(NormalFromWord(w)) < 5.3f ? 1.5e-6 : 3e-3;
    ASSERT_LT(std::abs(QuantileError(w)), bound) << w;
  }
  for (uint32_t word = 0; word < 2000; ++word) ASSERT_LT(std::abs(QuantileError(word)), 3e-3) << word;
}

TEST(Normal, IsOddAndHasUnitVariance) {
  double sum = 0, squares = 0;
  constexpr int64_t kCount = 1 << 20;
  for (int64_t i = 0; i < kCount; ++i) {
    const uint32_t word = static_cast<uint32_t>(i) * 4093u;
    const float z = NormalFromWord(word);
    ASSERT_EQ(std::bit_cast<uint32_t>(NormalFromWord(~word)), std::bit_cast<uint32_t>(-z)) << word;
    sum += z;
    squares += double{z} * z;
  }
  EXPECT_NEAR(sum / kCount, 0, 5e-3);
  EXPECT_NEAR(squares / kCount, 1, 1e-2);
}

class RngFill : public ::testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { hwy::SetSupportedTargetsForTest(GetParam()); }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }
};

// Any start and length, around the sizes of blocks and vectors and past 2^34 (an index of more than 32 bits).
TEST_P(RngFill, EqualsTheScalarFunctionsBitForBit) {
  const RngKey key{.seed = 0x123456789abcdefull, .purpose = RngPurpose::kNoise, .stream = 0xfedcba987654321ull};
  for (const uint64_t first : {uint64_t{0}, uint64_t{1}, uint64_t{3}, uint64_t{254}, (uint64_t{1} << 34) - 130}) {
    for (const int64_t count : {0, 1, 2, 5, 255, 256, 257, 259, 1000, 4097}) {
      std::vector<float> uniform(static_cast<size_t>(count) + 1, 77.0f), normal = uniform;
      FillUniform(key, first, count, uniform.data());
      FillNormal(key, first, count, normal.data());
      for (int64_t i = 0; i < count; ++i) {
        const uint32_t word = key.Word(first + static_cast<uint64_t>(i));
        const size_t at = static_cast<size_t>(i);
        ASSERT_EQ(std::bit_cast<uint32_t>(uniform[at]), std::bit_cast<uint32_t>(UniformFromWord(word)))
            << first << " " << i;
        ASSERT_EQ(std::bit_cast<uint32_t>(normal[at]), std::bit_cast<uint32_t>(NormalFromWord(word)))
            << first << " " << i;
      }
      EXPECT_EQ(uniform[static_cast<size_t>(count)], 77.0f);
      EXPECT_EQ(normal[static_cast<size_t>(count)], 77.0f);
    }
  }
}

// A million words: both polynomials and both signs.
TEST_P(RngFill, ManyNormals) {
  const RngKey key{.seed = 11, .purpose = RngPurpose::kInit, .stream = 4};
  constexpr int64_t kCount = 1 << 20;
  std::vector<float> normal(kCount);
  FillNormal(key, 0, kCount, normal.data());
  int64_t tails = 0;
  for (int64_t i = 0; i < kCount; i += 4) {
    const PhiloxBlock block = key.Block(static_cast<uint64_t>(i / 4));
    for (int64_t lane = 0; lane < 4; ++lane) {
      const float got = normal[static_cast<size_t>(i + lane)];
      ASSERT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(NormalFromWord(block.word[lane]))) << i + lane;
      tails += std::abs(got) > 3.3f;
    }
  }
  EXPECT_GT(tails, 500);
}

INSTANTIATE_TEST_SUITE_P(Targets, RngFill, ::testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return hwy::TargetName(info.param); });

}  // namespace
}  // namespace shardit
