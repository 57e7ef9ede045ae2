// Vector functions against fp64, on every instruction set of this machine.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/core/cpu_math_test.cc"
#include "core/base/simd_targets.h"
#include "hwy/foreach_target.h"
//
#include "core/ops/cpu_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace shardit {
namespace HWY_NAMESPACE {

enum Function { kExp, kExpNonPositive, kTanh, kSigmoid, kSilu, kSiluGrad, kGelu, kGeluGrad };

template <class D, class V = hn::Vec<D>>
HWY_INLINE V ApplyOne(D d, Function function, V x) {
  switch (function) {
    case kExp:
      return Exp(d, x);
    case kExpNonPositive:
      return ExpNonPositive(d, x);
    case kTanh:
      return Tanh(d, x);
    case kSigmoid:
      return Sigmoid(d, x);
    case kSilu:
      return Silu(d, x);
    case kSiluGrad:
      return SiluGrad(d, x);
    case kGelu:
      return GeluTanh(d, x);
    case kGeluGrad:
      return GeluTanhGrad(d, x);
  }
  return x;
}

// count is a multiple of 16.
void Apply(int function, const float* x, float* y, size_t count) {
  const hn::ScalableTag<float> d;
  for (size_t i = 0; i < count; i += hn::Lanes(d)) {
    hn::StoreU(ApplyOne(d, static_cast<Function>(function), hn::LoadU(d, x + i)), d, y + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace shardit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"

namespace shardit {
namespace {

HWY_EXPORT(Apply);

enum Function { kExp, kExpNonPositive, kTanh, kSigmoid, kSilu, kSiluGrad, kGelu, kGeluGrad };

class CpuMath : public ::testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { hwy::SetSupportedTargetsForTest(GetParam()); }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }
  // Without fused multiply-add the polynomials round more often.
  bool fused() const { return (GetParam() & (HWY_AVX2 | HWY_AVX3 | HWY_NEON)) != 0; }

  static float One(int function, float x) {
    std::vector<float> in(16, x), out(16);
    HWY_DYNAMIC_DISPATCH(Apply)(function, in.data(), out.data(), in.size());
    return out[0];
  }

  // Largest of error(x, got, want) over a dense sample of [low, high]: evenly spaced values and values spaced evenly in
  // their bits, which reach the tiny ones.
  template <typename Exact, typename Error>
  static double Worst(int function, double low, double high, Exact exact, Error error) {
    std::vector<float> in;
    for (int i = 0; i < 160000; ++i) in.push_back(static_cast<float>(low + (high - low) * i / 160000.0));
    for (uint32_t bits = 0x20000000; bits < 0x42ffffff; bits += 3571) {
      const float x = std::bit_cast<float>(bits);
      for (const float signed_x : {x, -x}) {
        if (signed_x >= low && signed_x <= high) in.push_back(signed_x);
      }
    }
    in.resize(in.size() / 16 * 16);
    std::vector<float> out(in.size());
    HWY_DYNAMIC_DISPATCH(Apply)(function, in.data(), out.data(), in.size());
    double worst = 0;
    for (size_t i = 0; i < in.size(); ++i) worst = std::max(worst, error(in[i], out[i], exact(double{in[i]})));
    return worst;
  }
};

double Ulp(double, double got, double want) {
  return std::abs(got - want) / std::ldexp(1.0, std::max(std::ilogb(want), -126) - 23);
}
double Absolute(double, double got, double want) { return std::abs(got - want); }

double ExactSigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double GeluInner(double x) { return std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x); }
double ExactGelu(double x) { return x * ExactSigmoid(2 * GeluInner(x)); }
double ExactGeluGrad(double x) {
  const double s = ExactSigmoid(2 * GeluInner(x));
  return s + x * s * (1 - s) * 2 * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}
double ExactSiluGrad(double x) { return ExactSigmoid(x) * (1 + x * (1 - ExactSigmoid(x))); }

TEST_P(CpuMath, Exp) {
  const auto exact = [](double x) { return std::exp(x); };
  EXPECT_LT(Worst(kExp, -86.63, 88.7228, exact, Ulp), fused() ? 1.2 : 2.0);
  EXPECT_LT(Worst(kExpNonPositive, -86.63, 0, exact, Ulp), fused() ? 1.2 : 2.0);
}

TEST_P(CpuMath, Tanh) {
  EXPECT_LT(Worst(
                kTanh, -100, 100, [](double x) { return std::tanh(x); }, Ulp),
            fused() ? 2.0 : 3.0);
}

TEST_P(CpuMath, SigmoidAndSilu) {
  EXPECT_LT(Worst(kSigmoid, -86, 100, ExactSigmoid, Ulp), fused() ? 2.5 : 3.5);
  EXPECT_LT(Worst(
                kSilu, -80, 100, [](double x) { return x * ExactSigmoid(x); }, Ulp),
            fused() ? 3.0 : 4.0);
  EXPECT_LT(Worst(kSiluGrad, -100, 100, ExactSiluGrad, Absolute), 3e-7);
}

TEST_P(CpuMath, Gelu) {
  EXPECT_LT(Worst(kGelu, -1, 50, ExactGelu, Ulp), fused() ? 3.0 : 4.0);
  EXPECT_LT(Worst(kGelu, -50, 0, ExactGelu, Absolute), 3e-7);
  EXPECT_LT(Worst(kGeluGrad, -50, 50, ExactGeluGrad, Absolute), 4e-7);
}

TEST_P(CpuMath, Ends) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(One(kExp, -87.0f), 0.0f);
  EXPECT_EQ(One(kExp, -inf), 0.0f);
  EXPECT_EQ(One(kExpNonPositive, -1e30f), 0.0f);
  EXPECT_EQ(One(kExp, 89.0f), inf);
  EXPECT_EQ(One(kExp, inf), inf);
  EXPECT_EQ(One(kExp, 0.0f), 1.0f);
  EXPECT_EQ(One(kTanh, 1e30f), 1.0f);
  EXPECT_EQ(One(kTanh, -inf), -1.0f);
  EXPECT_EQ(One(kGelu, 1e10f), 1e10f);
  EXPECT_NEAR(One(kGelu, -1e3f), 0.0f, 1e-30f);
  EXPECT_EQ(One(kGeluGrad, 1e3f), 1.0f);
  EXPECT_NEAR(One(kGeluGrad, -1e3f), 0.0f, 1e-20f);
}

TEST_P(CpuMath, NanPassesThrough) {
  for (const int function : {kExp, kExpNonPositive, kTanh, kSigmoid, kSilu, kSiluGrad, kGelu, kGeluGrad}) {
    EXPECT_TRUE(std::isnan(One(function, std::numeric_limits<float>::quiet_NaN()))) << function;
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, CpuMath, ::testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return hwy::TargetName(info.param); });

}  // namespace
}  // namespace shardit
#endif  // HWY_ONCE
