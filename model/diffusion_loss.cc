#include "model/diffusion_loss.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/diffusion_loss.cc"
#include "core/base/simd_targets.h"
#include "hwy/foreach_target.h"
// foreach_target.h comes before every other header of Highway.
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

#ifndef SHARDIT_MODEL_DIFFUSION_LOSS_ONCE_
#define SHARDIT_MODEL_DIFFUSION_LOSS_ONCE_
namespace shardit {

// What the elements of one image have in common.
struct ImageConstants : LossConstants {
  double d_mse;  // factors of the derivatives
  double d_vb;
};

// One image's planes; `value` and `d_value` are null without learned sigma, the d_ pointers without gradient.
struct ImagePlanes {
  const float* x_0;
  const float* noise;
  const float* prediction;
  const float* value;
  float* d_prediction;
  float* d_value;
};

}  // namespace shardit
#endif  // SHARDIT_MODEL_DIFFUSION_LOSS_ONCE_

HWY_BEFORE_NAMESPACE();
namespace shardit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<double>;
using V = hn::Vec<D>;
using FloatD = hn::Rebind<float, D>;

// A term of the loss and its derivative, element by element.
struct Term {
  V value;
  V derivative;
};

HWY_INLINE V Load(const float* from) { return hn::PromoteTo(D(), hn::LoadU(FloatD(), from)); }
HWY_INLINE void Store(V value, float* to) { hn::StoreU(hn::DemoteTo(FloatD(), value), FloatD(), to); }
HWY_INLINE V Set(double value) { return hn::Set(D(), value); }

HWY_INLINE V Exp(V x) { return hn::Exp(D(), x); }
HWY_INLINE V Expm1(V x) { return hn::Expm1(D(), x); }
HWY_INLINE V Clamp(V x, double low, double high) { return hn::Min(hn::Max(x, Set(low)), Set(high)); }

// KL of two Gaussians whose log-variances differ by z and whose means by `difference`: the derivative is with respect
// to the second log-variance.
HWY_INLINE Term Kl(const ImageConstants& image, V z, V difference) {
  const V e_minus_1 = Expm1(hn::Min(hn::Neg(z), Set(700)));
  const V inverse = hn::Mul(hn::Add(e_minus_1, Set(1)), Set(image.inverse_variance));
  const V distance = hn::Mul(hn::Mul(difference, difference), inverse);
  const V half = Set(0.5);
  return {hn::Mul(half, hn::Add(hn::Add(z, e_minus_1), distance)),
          hn::Neg(hn::Mul(half, hn::Add(e_minus_1, distance)))};
}

// The CDF's approximation is sigmoid(2 u(x)), u(x) = sqrt(2/pi) (x + 0.044715 x^3). An edge of the bin at x, with
// x u'(x): minus the derivative of 2 u with respect to the log-variance, as x is proportional to e^(-log-variance / 2).
struct BinEdge {
  V argument;  // 2 u(x), bounded so that its exponential is a normal number
  V slope;     // x u'(x)
};
HWY_INLINE BinEdge EdgeAt(V x) {
  constexpr double kSlope = 0.79788456080286535588;  // sqrt(2/pi)
  const V x2 = hn::Mul(x, x);
  const V u = hn::Mul(hn::Mul(x, Set(kSlope)), hn::MulAdd(x2, Set(0.044715), Set(1)));
  const V slope = hn::Mul(hn::Mul(x, Set(kSlope)), hn::MulAdd(x2, Set(3 * 0.044715), Set(1)));
  return {Clamp(hn::Add(u, u), -700, 700), slope};
}

// -log of the probability of x_0's bin under a Gaussian `centered` away with the given log-variance.
HWY_INLINE Term Nll(V x_0, V centered, V log_variance) {
  constexpr double kHalfBin = 1.0 / 255.0, kOpen = 0.999, kFloor = 1e-12;
  constexpr double kTwiceSlope = 1.59576912160573071176;  // 2 sqrt(2/pi)
  const V one = Set(1);
  const V inverse_sigma = Exp(Clamp(hn::Mul(Set(-0.5), log_variance), -300, 300));
  const V middle = hn::Mul(inverse_sigma, centered), h = hn::Mul(inverse_sigma, Set(kHalfBin));
  const BinEdge a = EdgeAt(hn::Add(middle, h)), b = EdgeAt(hn::Sub(middle, h));
  // a - b from the cubic's own difference, 2 h (1 + 0.044715 (3 middle^2 + h^2)).
  const V square = hn::MulAdd(hn::Mul(Set(3), middle), middle, hn::Mul(h, h));
  const V width = hn::Mul(hn::Mul(hn::Add(h, h), Set(kTwiceSlope)), hn::MulAdd(square, Set(0.044715), one));
  const V gap = hn::Neg(Expm1(hn::Neg(width)));  // 1 - e^(b - a)

  const V exp_a = Exp(hn::Neg(a.argument)), exp_b = Exp(b.argument);
  const V below_a = hn::Div(one, hn::Add(one, exp_a)), above_a = hn::Mul(exp_a, below_a);
  const V above_b = hn::Div(one, hn::Add(one, exp_b)), below_b = hn::Mul(exp_b, above_b);
  const V inside = hn::Mul(hn::Mul(below_a, above_b), gap);

  // Derivatives of the three logarithms.
  const V d_below_a = hn::Neg(hn::Mul(above_a, a.slope));
  const V d_above_b = hn::Mul(below_b, b.slope);
  const V d_inside =
      hn::Sub(hn::Div(d_above_b, hn::Mul(below_a, gap)), hn::Div(hn::Mul(above_a, a.slope), hn::Mul(above_b, gap)));

  const auto lowest = hn::Lt(x_0, Set(-kOpen)), highest = hn::Gt(x_0, Set(kOpen));
  const V probability = hn::IfThenElse(lowest, below_a, hn::IfThenElse(highest, above_b, inside));
  const V derivative = hn::IfThenElse(lowest, d_below_a, hn::IfThenElse(highest, d_above_b, d_inside));
  return {hn::Neg(hn::Log(D(), hn::Max(probability, Set(kFloor)))),
          hn::Neg(hn::IfThenZeroElse(hn::Lt(probability, Set(kFloor)), derivative))};
}

struct LaneSums {
  V mse;
  V vb;
};

// One vector of elements: writes their gradients, returns their terms.
HWY_INLINE LaneSums RunVector(const ImageConstants& image, const ImagePlanes& at) {
  const V x_0 = Load(at.x_0), noise = Load(at.noise), prediction = Load(at.prediction);
  const V target = hn::MulAdd(Set(image.target.noise), noise, hn::Mul(Set(image.target.x_0), x_0));
  const V error = hn::Sub(prediction, target);
  if (at.d_prediction != nullptr) Store(hn::Mul(error, Set(image.d_mse)), at.d_prediction);
  LaneSums sums{hn::Mul(error, error), hn::Zero(D())};
  if (at.value == nullptr) return sums;

  const V x_t = hn::MulAdd(Set(image.sqrt_one_minus_alpha_bar), noise, hn::Mul(Set(image.sqrt_alpha_bar), x_0));
  const V predicted_x_0 =
      hn::MulAdd(Set(image.predicted_x0.output), prediction, hn::Mul(Set(image.predicted_x0.x_t), x_t));
  const V value = Load(at.value), frac = hn::MulAdd(Set(0.5), value, Set(0.5));
  const V z = hn::Mul(frac, Set(image.log_range));
  Term term;
  if (image.first_step != 0) {
    const V mean = hn::MulAdd(Set(image.posterior_x0), predicted_x_0, hn::Mul(Set(image.posterior_xt), x_t));
    term = Nll(x_0, hn::Sub(x_0, mean), hn::Add(z, Set(image.log_variance)));
  } else {
    term = Kl(image, z, hn::Mul(Set(image.posterior_x0), hn::Sub(x_0, predicted_x_0)));
  }
  // Highway's Min, Max, Exp and Log may lose NaN.
  const V both = hn::Add(prediction, value);
  const auto nan = hn::IsNaN(both);
  sums.vb = hn::IfThenElse(nan, both, term.value);
  const V d_value = hn::IfThenElse(nan, both, hn::Mul(term.derivative, Set(image.d_vb)));
  if (at.d_value != nullptr) Store(d_value, at.d_value);
  return sums;
}

template <class T>
HWY_INLINE T* Offset(T* pointer, int64_t elements) {
  return pointer == nullptr ? nullptr : pointer + elements;
}

// The last, partial vector: through zero-padded copies, since a vector load must stay inside the planes.
HWY_NOINLINE LaneSums RunTail(const ImageConstants& image, const ImagePlanes& at, int64_t count) {
  HWY_ALIGN float copies[6][hn::MaxLanes(D())] = {};
  const auto copy_in = [&](const float* from, int slot) -> const float* {
    if (from == nullptr) return nullptr;
    std::copy(from, from + count, copies[slot]);
    return copies[slot];
  };
  const ImagePlanes padded{copy_in(at.x_0, 0),
                           copy_in(at.noise, 1),
                           copy_in(at.prediction, 2),
                           copy_in(at.value, 3),
                           at.d_prediction == nullptr ? nullptr : copies[4],
                           at.d_value == nullptr ? nullptr : copies[5]};
  LaneSums sums = RunVector(image, padded);
  if (at.d_prediction != nullptr) std::copy(copies[4], copies[4] + count, at.d_prediction);
  if (at.d_value != nullptr) std::copy(copies[5], copies[5] + count, at.d_value);
  const auto valid = hn::FirstN(D(), static_cast<size_t>(count));
  return {sums.mse, hn::IfThenElseZero(valid, sums.vb)};  // where all is zero, so is the squared error
}

// Sums over the image's elements.
ImageLoss RunImage(const ImageConstants& image, const ImagePlanes& planes, int64_t elements) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(D()));
  LaneSums sums{hn::Zero(D()), hn::Zero(D())};
  for (int64_t i = 0; i < elements; i += lanes) {
    const ImagePlanes at{planes.x_0 + i,
                         planes.noise + i,
                         planes.prediction + i,
                         Offset(planes.value, i),
                         Offset(planes.d_prediction, i),
                         Offset(planes.d_value, i)};
    const LaneSums terms = i + lanes <= elements ? RunVector(image, at) : RunTail(image, at, elements - i);
    sums.mse = hn::Add(sums.mse, terms.mse);
    sums.vb = hn::Add(sums.vb, terms.vb);
  }
  return {hn::GetLane(hn::SumOfLanes(D(), sums.mse)), hn::GetLane(hn::SumOfLanes(D(), sums.vb))};
}

}  // namespace HWY_NAMESPACE
}  // namespace shardit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "core/base/check.h"

namespace shardit {
namespace {

HWY_EXPORT(RunImage);

ImageConstants ConstantsOf(const LossConstants& step, double elements, double scale) {
  // Of the derivative by v: d log-variance / dv = range / 2.
  return {step, 2.0 * scale / elements, 0.5 * step.log_range * scale / (elements * std::numbers::ln2)};
}

ImagePlanes PlanesOf(const DiffusionLossArgs& args, bool learn_sigma, int64_t n) {
  const int64_t in = n * args.elements, out = in * (learn_sigma ? 2 : 1);
  ImagePlanes planes{args.x_0 + in, args.noise + in, args.output + out, nullptr, nullptr, nullptr};
  if (learn_sigma) planes.value = planes.prediction + args.elements;
  if (args.d_output != nullptr) {
    planes.d_prediction = args.d_output + out;
    if (learn_sigma) planes.d_value = planes.d_prediction + args.elements;
  }
  return planes;
}

}  // namespace

LossConstants ConstantsAt(const Diffusion& diffusion, int64_t t) {
  const DiffusionStep& step = diffusion.at(t);
  return {.predicted_x0 = diffusion.predicted_x0(t),
          .target = diffusion.target(t),
          .sqrt_alpha_bar = step.sqrt_alpha_bar,
          .sqrt_one_minus_alpha_bar = step.sqrt_one_minus_alpha_bar,
          .posterior_x0 = step.posterior_x0,
          .posterior_xt = step.posterior_xt,
          .log_variance = step.posterior_log_variance,
          .log_range = step.log_beta - step.posterior_log_variance,
          .inverse_variance = std::exp(-step.posterior_log_variance),
          .first_step = t == 0};
}

LossResult DiffusionLoss(const Diffusion& diffusion, const DiffusionLossArgs& args, ThreadPool& pool) {
  CHECK_EQ(static_cast<int64_t>(args.per_image.size()), args.images) << "[diffusion_loss] per_image";
  CHECK_GT(args.elements, 0) << "[diffusion_loss] elements";
  CHECK_GT(args.denominator, 0) << "[diffusion_loss] denominator";
  const bool learn_sigma = diffusion.options().learn_sigma;
  const double elements = static_cast<double>(args.elements);
  pool.ParallelFor(args.images, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      const ImageConstants image =
          ConstantsOf(ConstantsAt(diffusion, args.t[n]), elements, args.grad_scale / args.denominator);
      const ImageLoss sums = HWY_DYNAMIC_DISPATCH(RunImage)(image, PlanesOf(args, learn_sigma, n), args.elements);
      args.per_image[n] = {sums.mse / elements, sums.vb / (elements * std::numbers::ln2)};
    }
  });
  LossResult result;
  for (const ImageLoss& image : args.per_image) {
    result.mse += image.mse;
    result.vb += image.vb;
  }
  result.mse /= args.denominator;
  result.vb /= args.denominator;
  result.loss = result.mse + result.vb;
  return result;
}

}  // namespace shardit
#endif  // HWY_ONCE
