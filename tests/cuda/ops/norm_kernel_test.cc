// Legend: N images, T tokens, D width.
#include "core/ops/norm_kernel.h"

#include <string>

#include "tests/cuda/device_values.h"

namespace shardit::cuda {
namespace {

constexpr float kEps = 1e-5f;

struct Case {
  std::string name;
  NormShape shape;
  DType tokens = DType::kF32;
  DType rows = DType::kF32;   // gate, scale, shift
  DType grads = DType::kF32;  // of them
  bool one_row = false;       // for all images
  bool accumulate = false;
  int64_t guard = 8;     // elements between the rows of images
  int odd_operand = -1;  // the one that starts at an odd element: its number in RunFwd and RunBwd
  float scale_offset = 1;
  // Forward: what is given and wanted.
  bool y = true, gate = true, h = true, stats = true;
  // Backward.
  bool dh = true, dr_in = true, in_place = false, dy = true, dgate = true, dscale = true, dshift = true;

  int64_t elements() const { return shape.images * shape.tokens * shape.width; }
  int64_t stride() const { return one_row ? 0 : shape.width + guard; }
  int64_t offset(int operand) const { return operand == odd_operand ? 1 : 0; }
  int64_t row_elements() const { return (shape.width + guard) * std::max<int64_t>(1, shape.images); }
};

// All there is to read.
struct Inputs {
  Values x, y, r, dh, dr_in;             // [N, T, D]
  Values gate, scale, shift;             // rows of images
  Values mean, rstd;                     // [N, T], of r
  Values dgate, dscale, dshift, old_dx;  // what destinations hold before
};

Inputs MakeInputs(const Case& c) {
  Inputs in{.x = RandomValues(c.tokens, c.elements(), 1, 2),
            .y = RandomValues(c.tokens, c.elements(), 2),
            .r = RandomValues(c.tokens, c.elements(), 3, 2),
            .dh = RandomValues(c.tokens, c.elements(), 4),
            .dr_in = RandomValues(c.tokens, c.elements(), 5),
            .gate = RandomValues(c.rows, c.row_elements(), 6),
            .scale = RandomValues(c.rows, c.row_elements(), 7, 0.3),
            .shift = RandomValues(c.rows, c.row_elements(), 8),
            .mean = {},
            .rstd = {},
            .dgate = RandomValues(c.grads, c.row_elements(), 9),
            .dscale = RandomValues(c.grads, c.row_elements(), 10),
            .dshift = RandomValues(c.grads, c.row_elements(), 11),
            .old_dx = RandomValues(c.tokens, c.elements(), 12)};
  for (double& value : in.x) value = RoundTo(c.tokens, value + 1);
  for (double& value : in.r) value = RoundTo(c.tokens, value + 1);
  const double width = static_cast<double>(c.shape.width);
  for (int64_t row = 0; row < c.shape.images * c.shape.tokens; ++row) {
    const double* r = in.r.data() + row * c.shape.width;
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < c.shape.width; ++i) sum += r[i];
    for (int64_t i = 0; i < c.shape.width; ++i) squares += (r[i] - sum / width) * (r[i] - sum / width);
    in.mean.push_back(RoundTo(DType::kF32, sum / width));
    in.rstd.push_back(RoundTo(DType::kF32, 1 / std::sqrt(squares / width + double{kEps})));
  }
  return in;
}

struct FwdResult {
  Values r, h, mean, rstd;
};

struct BwdResult {
  Values dx, dy, dgate, dscale, dshift;
};

// Of a double everything; of a float, which stands for a kernel's arithmetic, what its type keeps of it.
double Stored(DType, double value) { return value; }
float Stored(DType dtype, float value) { return static_cast<float>(RoundTo(dtype, value)); }

// The formulas of norm_kernel.h in plain loops, in Real.
template <class Real>
FwdResult NaiveFwd(const Case& c, const Inputs& in) {
  const int64_t width = c.shape.width;
  FwdResult out;
  for (int64_t row = 0; row < c.shape.images * c.shape.tokens; ++row) {
    const size_t at = static_cast<size_t>(row / c.shape.tokens * c.stride()), first = static_cast<size_t>(row * width);
    std::vector<Real> r;
    for (size_t i = 0; i < static_cast<size_t>(width); ++i) {
      const Real gate = c.gate ? static_cast<Real>(in.gate[at + i]) : 1, x = static_cast<Real>(in.x[first + i]);
      r.push_back(c.y ? Stored(c.tokens, x + gate * static_cast<Real>(in.y[first + i])) : x);
    }
    Real sum = 0, squares = 0;
    for (const Real value : r) sum += value;
    const Real mean = sum / static_cast<Real>(width);
    for (const Real value : r) squares += (value - mean) * (value - mean);
    const Real rstd = 1 / std::sqrt(squares / static_cast<Real>(width) + Real{kEps});
    for (size_t i = 0; i < r.size(); ++i) {
      const Real factor = static_cast<Real>(in.scale[at + i]) + Real{c.scale_offset};
      const Real h = (r[i] - mean) * rstd * factor + static_cast<Real>(in.shift[at + i]);
      out.r.push_back(double{r[i]});
      out.h.push_back(double{Stored(c.tokens, h)});
    }
    out.mean.push_back(double{mean});
    out.rstd.push_back(double{rstd});
  }
  return out;
}

template <class Real>
BwdResult NaiveBwd(const Case& c, const Inputs& in) {
  const size_t width = static_cast<size_t>(c.shape.width);
  BwdResult out{.dx = {}, .dy = {}, .dgate = in.dgate, .dscale = in.dscale, .dshift = in.dshift};
  std::vector<Real> dgate(in.dgate.size()), dscale(in.dgate.size()), dshift(in.dgate.size());
  for (int64_t row = 0; row < c.shape.images * c.shape.tokens; ++row) {
    const size_t at = static_cast<size_t>(row / c.shape.tokens * c.stride()), first = static_cast<size_t>(row) * width;
    const Real mean = static_cast<Real>(in.mean[static_cast<size_t>(row)]);
    const Real rstd = static_cast<Real>(in.rstd[static_cast<size_t>(row)]);
    const auto d = [&](size_t i) { return static_cast<Real>(in.dh[first + i]); };
    const auto xhat = [&](size_t i) { return (static_cast<Real>(in.r[first + i]) - mean) * rstd; };
    const auto g = [&](size_t i) { return d(i) * (static_cast<Real>(in.scale[at + i]) + Real{c.scale_offset}); };
    Real sum_g = 0, sum_gx = 0;
    for (size_t i = 0; i < width; ++i) {
      sum_g += g(i);
      sum_gx += g(i) * xhat(i);
    }
    for (size_t i = 0; i < width; ++i) {
      Real dr = 0;
      if (c.dh) {
        dr = rstd * (g(i) - sum_g / static_cast<Real>(width) - xhat(i) * sum_gx / static_cast<Real>(width));
        dscale[at + i] += d(i) * xhat(i);
        dshift[at + i] += d(i);
      }
      if (c.dr_in) dr += static_cast<Real>(in.dr_in[first + i]);
      dgate[at + i] += dr * static_cast<Real>(in.y[first + i]);
      const Real gate = c.gate ? static_cast<Real>(in.gate[at + i]) : 1;
      out.dx.push_back(double{Stored(c.tokens, dr)});
      out.dy.push_back(double{Stored(c.tokens, gate * dr)});
    }
  }
  const auto write = [&](const std::vector<Real>& sums, Values& to) {
    for (int64_t n = 0; n < (c.one_row ? 1 : c.shape.images); ++n) {
      for (size_t i = 0; i < width; ++i) {
        const size_t at = static_cast<size_t>(n * c.stride()) + i;
        to[at] = double{Stored(c.grads, c.accumulate ? static_cast<Real>(to[at]) + sums[at] : sums[at])};
      }
    }
  };
  if (c.dgate) write(dgate, out.dgate);
  if (c.dh && c.dscale) write(dscale, out.dscale);
  if (c.dh && c.dshift) write(dshift, out.dshift);
  return out;
}

FwdResult RunFwd(const Case& c, const Inputs& in) {
  const Values nothing(in.x.size(), -1);
  const Values no_stats(in.mean.size(), -1);
  DeviceValues x(c.tokens, in.x, c.offset(0)), y(c.tokens, in.y, c.offset(1)), r(c.tokens, nothing, c.offset(2));
  DeviceValues h(c.tokens, nothing, c.offset(3)), gate(c.rows, in.gate, c.offset(4));
  DeviceValues scale(c.rows, in.scale, c.offset(5)), shift(c.rows, in.shift, c.offset(6));
  DeviceValues mean(DType::kF32, no_stats), rstd(DType::kF32, no_stats);
  NormFwdArgs args{.shape = c.shape, .x = x.ref()};
  if (c.y) {
    args.y = y.ref();
    args.r = r.ref();
    if (c.gate) args.gate = {gate.ref(), c.stride()};
  }
  if (c.h) {
    args.h = h.ref();
    args.eps = kEps;
    args.scale = {scale.ref(), c.stride()};
    args.scale_offset = c.scale_offset;
    args.shift = {shift.ref(), c.stride()};
    if (c.stats) {
      args.mean = mean.ref();
      args.rstd = rstd.ref();
    }
  }
  NormFwd(args, TestContext());
  return {r.Download(), h.Download(), mean.Download(), rstd.Download()};
}

BwdResult RunBwd(const Case& c, const Inputs& in) {
  DeviceValues dh(c.tokens, in.dh, c.offset(0)), dr_in(c.tokens, in.dr_in, c.offset(1)), r(c.tokens, in.r, c.offset(2));
  DeviceValues y(c.tokens, in.y, c.offset(3)), own_dx(c.tokens, in.old_dx, c.offset(4)),
      dy(c.tokens, in.old_dx, c.offset(5));
  DeviceValues mean(DType::kF32, in.mean), rstd(DType::kF32, in.rstd);
  DeviceValues gate(c.rows, in.gate, c.offset(6)), scale(c.rows, in.scale, c.offset(7));
  DeviceValues dgate(c.grads, in.dgate, c.offset(8)), dscale(c.grads, in.dscale, c.offset(9));
  DeviceValues dshift(c.grads, in.dshift, c.offset(10));
  DeviceValues& dx = c.in_place ? dr_in : own_dx;
  NormBwdArgs args{.shape = c.shape, .dx = dx.ref()};
  if (c.dr_in) args.dr_in = dr_in.ref();
  const auto grad = [&](DeviceValues& to) { return ImageRowsGrad{to.ref(), c.stride(), c.accumulate}; };
  if (c.dh) {
    args.dh = dh.ref();
    args.r = r.ref();
    args.mean = mean.ref();
    args.rstd = rstd.ref();
    args.scale = {scale.ref(), c.stride()};
    args.scale_offset = c.scale_offset;
    if (c.dscale) args.dscale = grad(dscale);
    if (c.dshift) args.dshift = grad(dshift);
  }
  if (c.gate) args.gate = {gate.ref(), c.stride()};
  if (c.dy) args.dy = dy.ref();
  if (c.dgate) {
    args.y = y.ref();
    args.dgate = grad(dgate);
  }
  NormBwd(args, TestContext());
  return {dx.Download(), dy.Download(), dgate.Download(), dscale.Download(), dshift.Download()};
}

void CheckFwd(const Case& c) {
  SCOPED_TRACE(c.name + " forward");
  const Inputs in = MakeInputs(c);
  const FwdResult result = RunFwd(c, in), again = RunFwd(c, in);
  const FwdResult truth = NaiveFwd<double>(c, in), twin = NaiveFwd<float>(c, in);
  const auto check = [&](bool wanted, const char* what, Values FwdResult::*part) {
    if (wanted) return ExpectAsGoodAsTwin(result.*part, truth.*part, twin.*part, 2, what);
    EXPECT_EQ(result.*part, Values((result.*part).size(), -1)) << what << " was not asked for";
  };
  check(c.y, "r", &FwdResult::r);
  check(c.h, "h", &FwdResult::h);
  check(c.h && c.stats, "mean", &FwdResult::mean);
  check(c.h && c.stats, "rstd", &FwdResult::rstd);
  EXPECT_TRUE(result.r == again.r && result.h == again.h && result.rstd == again.rstd) << "other bits the second time";
}

void CheckBwd(const Case& c) {
  SCOPED_TRACE(c.name + " backward");
  const Inputs in = MakeInputs(c);
  const BwdResult result = RunBwd(c, in), again = RunBwd(c, in);
  const BwdResult truth = NaiveBwd<double>(c, in), twin = NaiveBwd<float>(c, in);
  ExpectAsGoodAsTwin(result.dx, truth.dx, twin.dx, 3, "dx");
  if (c.dy) {
    ExpectAsGoodAsTwin(result.dy, truth.dy, twin.dy, 3, "dy");
  } else {
    EXPECT_EQ(result.dy, in.old_dx) << "dy was not asked for";
  }
  // With all that lies between the rows.
  ExpectAsGoodAsTwin(result.dgate, truth.dgate, twin.dgate, 3, "dgate");
  ExpectAsGoodAsTwin(result.dscale, truth.dscale, twin.dscale, 3, "dscale");
  ExpectAsGoodAsTwin(result.dshift, truth.dshift, twin.dshift, 3, "dshift");
  EXPECT_TRUE(result.dx == again.dx && result.dy == again.dy && result.dgate == again.dgate &&
              result.dscale == again.dscale && result.dshift == again.dshift)
      << "other bits the second time";
}

void Check(const Case& c) {
  CheckFwd(c);
  CheckBwd(c);
}

using NormKernel = CudaTest;

// Types in every combination that a model has, at widths for each way of reading a row.
TEST_F(NormKernel, WidthsAndTypes) {
  const NormShape shapes[] = {{1, 1, 1},   {2, 3, 7},    {1, 5, 8},     {3, 9, 72},   {2, 17, 64},
                              {2, 5, 384}, {1, 6, 1152}, {1, 13, 1160}, {1, 4, 2056}, {1, 2, 4104}};
  for (const NormShape& shape : shapes) {
    for (const auto& [tokens, rows, grads] :
         {std::tuple(DType::kF32, DType::kF32, DType::kF32), std::tuple(DType::kBF16, DType::kBF16, DType::kBF16),
          std::tuple(DType::kBF16, DType::kBF16, DType::kF32), std::tuple(DType::kBF16, DType::kF32, DType::kF32)}) {
      Check({.name = std::to_string(shape.width) + " " + std::string(Name(tokens)) + " " + std::string(Name(rows)),
             .shape = shape,
             .tokens = tokens,
             .rows = rows,
             .grads = grads});
    }
  }
}

TEST_F(NormKernel, AddsToGradients) {
  for (const NormShape& shape : {NormShape{2, 5, 48}, NormShape{2, 9, 48}, NormShape{3, 11, 15}}) {
    for (const DType grads : {DType::kF32, DType::kBF16}) {
      for (const bool one_row : {false, true}) {
        Check({.name = one_row ? "one row" : "rows",
               .shape = shape,
               .tokens = DType::kBF16,
               .grads = grads,
               .one_row = one_row,
               .accumulate = true,
               .scale_offset = 0});
      }
    }
  }
}

// From one run of tokens a row, which needs no second kernel, to more than a block's slices.
TEST_F(NormKernel, OneRowForAllImages) {
  for (const int64_t tokens : {3, 8, 40, 300}) {
    for (const DType type : {DType::kF32, DType::kBF16}) {
      Check({.name = std::to_string(tokens) + " tokens",
             .shape = {3, tokens, 24},
             .tokens = type,
             .rows = type,
             .one_row = true,
             .scale_offset = 0});
    }
  }
  Check({.name = "one image", .shape = {1, 7, 24}, .one_row = true});
}

TEST_F(NormKernel, ManyRunsOfAnImage) {
  for (const int64_t tokens : {64, 257}) Check({.name = "runs", .shape = {2, tokens, 16}, .tokens = DType::kBF16});
}

TEST_F(NormKernel, AnyAlignment) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    const Case aligned{.name = "aligned", .shape = {2, 5, 40}, .tokens = type, .rows = type, .grads = type};
    for (const int64_t guard : {3, 4}) {
      Case c = aligned;
      c.name = "guard " + std::to_string(guard);
      c.guard = guard;
      Check(c);
    }
    for (int operand = 0; operand < 11; ++operand) {
      Case c = aligned;
      c.name = "odd operand " + std::to_string(operand);
      c.odd_operand = operand;
      Check(c);
    }
  }
}

TEST_F(NormKernel, MixedRows) {
  // Gate and scale of unequal types.
  Case c{.name = "mixed", .shape = {2, 5, 40}, .tokens = DType::kBF16, .rows = DType::kBF16};
  const Inputs in = MakeInputs(c);
  DeviceValues x(c.tokens, in.x), y(c.tokens, in.y), r(c.tokens, in.x), h(c.tokens, in.x), scale(c.rows, in.scale);
  DeviceValues shift(c.rows, in.shift), gate(DType::kF32, in.gate);
  NormFwd({.shape = c.shape,
           .x = x.ref(),
           .y = y.ref(),
           .gate = {gate.ref(), c.stride()},
           .r = r.ref(),
           .h = h.ref(),
           .eps = kEps,
           .scale = {scale.ref(), c.stride()},
           .scale_offset = 1,
           .shift = {shift.ref(), c.stride()}},
          TestContext());
  const FwdResult truth = NaiveFwd<double>(c, in), twin = NaiveFwd<float>(c, in);
  ExpectAsGoodAsTwin(r.Download(), truth.r, twin.r, 2, "r");
  ExpectAsGoodAsTwin(h.Download(), truth.h, twin.h, 2, "h");
}

TEST_F(NormKernel, EveryForwardOption) {
  for (const int64_t width : {24, 15}) {
    for (unsigned options = 0; options < 16; ++options) {
      Case c{.name = "options " + std::to_string(options), .shape = {2, 3, width}, .tokens = DType::kBF16};
      c.y = options & 1, c.gate = options & 2, c.h = options & 4, c.stats = options & 8;
      CheckFwd(c);
    }
  }
}

TEST_F(NormKernel, EveryBackwardOption) {
  for (const int64_t width : {24, 15}) {
    for (unsigned options = 0; options < 256; ++options) {
      Case c{.name = "options " + std::to_string(options), .shape = {2, 5, width}, .tokens = DType::kBF16};
      c.dh = options & 1, c.dr_in = options & 2, c.in_place = options & 4, c.dy = options & 8;
      c.dgate = options & 16, c.dscale = options & 32, c.dshift = options & 64, c.gate = options & 128;
      if (c.in_place && !c.dr_in) continue;
      CheckBwd(c);
    }
  }
}

TEST_F(NormKernel, NothingToSum) {
  Case no_tokens{.name = "no tokens", .shape = {2, 0, 24}};
  Check(no_tokens);
  Case no_images{.name = "no images", .shape = {0, 3, 24}, .one_row = true};
  Check(no_images);
}

// The sums of two tensors give the same bits in one pass and in two.
TEST_F(NormKernel, FusedIsComposite) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    Case fused{.name = "fused", .shape = {2, 5, 40}, .tokens = type, .rows = type};
    const Inputs in = MakeInputs(fused);
    const FwdResult both = RunFwd(fused, in);
    Case sum = fused, norm = fused;
    sum.h = false;
    norm.y = false;
    Inputs after = in;
    after.x = RunFwd(sum, in).r;
    EXPECT_EQ(both.r, after.x);
    EXPECT_EQ(both.h, RunFwd(norm, after).h);
  }
}

}  // namespace
}  // namespace shardit::cuda
