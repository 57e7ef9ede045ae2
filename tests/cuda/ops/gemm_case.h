// One matrix product on the GPU, described by its sizes, types and epilogue, run one of the ways that it can go, and
// checked element by element against fp64 loops: what the tests of products and of their plans share.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/base/math.h"
#include "core/cuda/gemm_plans.h"
#include "core/ops/gemm.h"
#include "core/tensor/rng.h"
#include "gtest/gtest.h"
#include "tests/cuda/device_buffer.h"

namespace shardit::cuda::gemm_testing {

constexpr float kGuard = 12352.0f;  // in the gaps between rows; exact in bf16

inline double GeluOf(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
inline double GeluGradOf(double x) {
  const double t = std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

enum class Way { kFirst, kTuned, kDeterministic, kFused, kApart, kWithoutLibrary };
constexpr Way kWays[] = {Way::kFirst, Way::kTuned, Way::kDeterministic, Way::kFused, Way::kApart, Way::kWithoutLibrary};
inline std::string NameOf(Way way) {
  constexpr const char* kNames[] = {"First", "Tuned", "Deterministic", "Fused", "Apart", "WithoutLibrary"};
  return kNames[static_cast<int>(way)];
}

// GemmPlans that take every epilogue there is, or refuse products, as cuBLASLt may.
class WilfulPlans : public GemmPlans {
 public:
  WilfulPlans(GemmPlans& plans, Way way) : plans_(plans), way_(way) {}

  GemmPlan& Find(const MatrixProduct& product, CudaContext& context) override {
    const bool refused =
        way_ == Way::kWithoutLibrary || (way_ == Way::kApart && product.epilogue != MatrixProduct::Epilogue::kNone);
    if (refused) return none_;
    GemmPlan& plan = plans_.Find(product, context);
    if (way_ == Way::kFused) plan.good_untimed = true;
    return plan;
  }
  bool Run(GemmPlan& plan, const MatrixProduct& product, CudaContext& context) override {
    return plans_.Run(plan, product, context);
  }
  bool Tunes(CudaContext& context) const override { return plans_.Tunes(context); }
  void* TrialMemory(int64_t bytes) override { return plans_.TrialMemory(bytes); }
  std::string Table() const override { return plans_.Table(); }

 private:
  GemmPlans& plans_;
  const Way way_;
  GemmPlan none_;
};

// A context of TestContext's stream and scratch that goes the way.
class Ways {
 public:
  explicit Ways(Way way) : context(TestContext()) {
    CudaOptions options;
    options.tune_products = way == Way::kTuned;
    options.deterministic = context.deterministic = way == Way::kDeterministic;
    plans = GemmPlans::Make(context.stream.device, options);
    wilful = std::make_unique<WilfulPlans>(*plans, way);
    context.gemm_plans = wilful.get();
  }

  CudaContext context;
  std::unique_ptr<GemmPlans> plans, wilful;
};

// [rows, columns] of uniform numbers in (-1, 1) of either type, floats on the host; guards in the gaps and behind.
struct Matrix {
  Matrix(DType dtype, int64_t rows, int64_t columns, int64_t gap, uint64_t stream)
      : dtype(dtype), rows(rows), columns(columns), ld(columns + gap) {
    before.assign(static_cast<size_t>(rows * ld + 1), kGuard);
    for (int64_t i = 0; i < rows; ++i) {
      float* row = before.data() + i * ld;
      FillUniform({7, RngPurpose::kTest, stream}, static_cast<uint64_t>(i * columns), columns, row);
      for (int64_t j = 0; j < columns; ++j) {
        row[j] = 2 * row[j] - 1;
        if (dtype == DType::kBF16) row[j] = BFloat16::FromFloat(row[j]).ToFloat();
      }
    }
  }
  double Before(int64_t i, int64_t j) const { return before[static_cast<size_t>(i * ld + j)]; }
  double After(int64_t i, int64_t j) const { return after[static_cast<size_t>(i * ld + j)]; }
  bool GuardsHold() const {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = columns; j < ld; ++j) {
        if (After(i, j) != kGuard) return false;
      }
    }
    return after.back() == kGuard;
  }

  DType dtype;
  int64_t rows, columns, ld;
  std::vector<float> before, after;
};

// Matrices in one block of device memory, `offset` elements from where they are best aligned, and NaN between them.
class OnDevice {
 public:
  OnDevice(std::vector<Matrix*> matrices, int64_t offset)
      : matrices_(std::move(matrices)), offset_(offset), memory_(BeginOf(matrices_.size())) {
    Upload();
  }
  Elements Ref(size_t index) { return {memory_.data() + BeginOf(index), matrices_[index]->dtype}; }

  void Upload() {
    std::vector<uint8_t> bytes(static_cast<size_t>(memory_.size()), 0xff);
    for (size_t index = 0; index < matrices_.size(); ++index) {
      uint8_t* to = bytes.data() + BeginOf(index);
      for (const float value : matrices_[index]->before) {
        const BFloat16 rounded = BFloat16::FromFloat(value);
        const int64_t size = SizeOf(matrices_[index]->dtype);
        std::memcpy(to, size == sizeof(float) ? static_cast<const void*>(&value) : &rounded, static_cast<size_t>(size));
        to += size;
      }
    }
    memory_.Upload(bytes);
  }
  void Download() {
    const std::vector<uint8_t> bytes = memory_.Download();
    for (size_t index = 0; index < matrices_.size(); ++index) {
      Matrix& matrix = *matrices_[index];
      matrix.after.resize(matrix.before.size());
      const uint8_t* from = bytes.data() + BeginOf(index);
      for (float& value : matrix.after) {
        BFloat16 rounded;
        std::memcpy(&rounded, from, sizeof(rounded));
        value = rounded.ToFloat();
        if (matrix.dtype == DType::kF32) std::memcpy(&value, from, sizeof(value));
        from += SizeOf(matrix.dtype);
      }
    }
  }

 private:
  // Bytes before matrix `index`.
  int64_t BeginOf(size_t index) const {
    int64_t begin = 0;
    for (size_t i = 0; i <= index; ++i) {
      if (i > 0) begin += static_cast<int64_t>(matrices_[i - 1]->before.size()) * SizeOf(matrices_[i - 1]->dtype);
      begin = RoundUp(begin, 256) + 256;
      if (i < matrices_.size()) begin += offset_ * SizeOf(matrices_[i]->dtype);
    }
    return begin;
  }

  const std::vector<Matrix*> matrices_;
  const int64_t offset_;
  DeviceVector<uint8_t> memory_;
};

struct Types {
  DType in, out;
};
constexpr Types kTypes[] = {{DType::kF32, DType::kF32}, {DType::kBF16, DType::kBF16}, {DType::kBF16, DType::kF32}};

struct Case {
  GemmForm form = GemmForm::kNT;
  int64_t m = 1, n = 1, k = 1;
  Types types = kTypes[0];
  bool accumulate = false;
  GemmEpilogue epilogue = GemmEpilogue::kNone;
  bool has_bias = true;
  bool column_sums = false;
  int64_t gap = 3;
  int64_t offset = 0;  // elements by which operands miss 16-byte alignment
  bool tf32 = false;
  int64_t batch = 1;  // of kNT

  bool has_gelu() const { return epilogue == GemmEpilogue::kBiasGelu || epilogue == GemmEpilogue::kGeluGrad; }
  std::string Name() const {
    constexpr const char* kForms[] = {"NT", "NN", "TN"};
    return std::string(kForms[static_cast<int>(form)]) + " " + std::to_string(m) + "x" + std::to_string(n) + "x" +
           std::to_string(k) + " " + std::string(shardit::Name(types.in)) + "->" +
           std::string(shardit::Name(types.out)) + " epilogue " + std::to_string(static_cast<int>(epilogue)) +
           (accumulate ? " accumulate" : "") + (column_sums ? " sums" : "") + " gap " + std::to_string(gap) +
           " offset " + std::to_string(offset) + " batch " + std::to_string(batch);
  }
};

struct Problem {
  explicit Problem(const Case& c)
      : test(c),
        a(c.types.in, c.form == GemmForm::kTN ? c.k : c.m, c.form == GemmForm::kTN ? c.m : c.k, c.gap, 1),
        b(c.types.in, c.form == GemmForm::kNT ? c.batch * c.n : c.k, c.form == GemmForm::kNT ? c.k : c.n, c.gap, 2),
        c(c.types.out, c.batch * c.m, c.n, c.gap, 3),
        aux(c.types.in, c.m, c.n, c.gap, 4),
        bias(c.types.in, 1, c.batch * c.n, 0, 5),
        sums(DType::kF32, 1, c.m, 0, 6),
        device({&a, &b, &this->c, &aux, &bias, &sums}, c.offset) {}

  void Issue(CudaContext context) {
    context.tf32 = test.tf32;
    GemmArgs args{.form = test.form, .m = test.m, .n = test.n, .k = test.k, .a = device.Ref(0), .lda = a.ld};
    args.b = device.Ref(1);
    args.ldb = b.ld;
    args.c = device.Ref(2);
    args.ldc = c.ld;
    args.accumulate = test.accumulate;
    args.epilogue = test.epilogue;
    if (test.has_bias) args.bias = device.Ref(4);
    if (test.has_gelu()) args.aux = device.Ref(3);
    args.ldaux = aux.ld;
    if (test.column_sums) args.column_sums = static_cast<float*>(device.Ref(5).raw());
    args.accumulate_column_sums = test.accumulate;
    args.batch = test.batch;
    args.b_stride = test.n * b.ld;
    args.bias_stride = test.n;
    args.c_stride = test.m * c.ld;
    cuda::Gemm(args, context);
  }
  // From the beginning, whatever was run before.
  void Run(CudaContext& context) {
    device.Upload();
    Issue(context);
    device.Download();
  }

  double A(int64_t i, int64_t k) const { return test.form == GemmForm::kTN ? a.Before(k, i) : a.Before(i, k); }
  double B(int64_t k, int64_t j, int64_t of) const {
    return test.form == GemmForm::kNT ? b.Before(of * test.n + j, k) : b.Before(k, j);
  }

  Case test;
  Matrix a, b, c, aux, bias, sums;
  OnDevice device;
};

// What one rounding to the type may change.
inline double HalfUnit(DType dtype, double value) { return dtype == DType::kBF16 ? std::abs(value) * 0x1p-8 : 0; }

// fp32 errors are measured in units of the sum of the terms' sizes; to them comes one rounding of the result.
// Rows of a batch follow each other.
inline void CheckElement(const Problem& x, int64_t i, int64_t j) {
  const Case& test = x.test;
  const int64_t of = i / test.m;
  double want = 0, size = 0;
  for (int64_t k = 0; k < test.k; ++k) {
    const double term = x.A(i - of * test.m, k) * x.B(k, j, of);
    want += term;
    size += std::abs(term);
  }
  if (test.accumulate) want += x.c.Before(i, j);
  const bool adds_bias = test.epilogue == GemmEpilogue::kBias || test.epilogue == GemmEpilogue::kBiasGelu;
  if (adds_bias && test.has_bias) want += x.bias.Before(0, of * test.n + j);
  // TF32 keeps 11 significant bits of an operand.
  const double bound = (test.tf32 ? 0x1p-10 * size : 0) + 4e-7 * (size + 2);
  // How well cuBLASLt knows the tanh is not documented.
  const double gelu_bound = bound + 1e-5;
  const DType out = test.types.out;
  if (test.epilogue == GemmEpilogue::kBiasGelu) {
    ASSERT_NEAR(x.aux.After(i, j), want, bound + HalfUnit(out, want)) << test.Name() << " aux " << i << " " << j;
    // gelu' is at most 1.13; it may be taken of aux before or after that is rounded.
    ASSERT_NEAR(x.c.After(i, j), GeluOf(want), 1.2 * (gelu_bound + HalfUnit(out, want)) + HalfUnit(out, GeluOf(want)))
        << test.Name() << " " << i << " " << j;
    return;
  }
  if (test.epilogue == GemmEpilogue::kGeluGrad) {
    const double slope = GeluGradOf(x.aux.Before(i, j));
    want *= slope;
    ASSERT_NEAR(x.c.After(i, j), want, 1.2 * bound + 1e-5 * size + HalfUnit(out, want))
        << test.Name() << " " << i << " " << j;
    return;
  }
  ASSERT_NEAR(x.c.After(i, j), want, bound + HalfUnit(out, want)) << test.Name() << " " << i << " " << j;
}

inline void CheckSums(const Problem& x) {
  const Case& test = x.test;
  for (int64_t i = 0; i < test.m; ++i) {
    double want = test.accumulate || !test.column_sums ? x.sums.Before(0, i) : 0;
    for (int64_t k = 0; test.column_sums && k < test.k; ++k) want += x.A(i, k);
    const double bound = (test.tf32 ? 0x1p-10 : 4e-7) * static_cast<double>(test.k + 1);
    ASSERT_NEAR(x.sums.After(0, i), want, bound) << test.Name() << " sum " << i;
  }
}

inline void Check(const Case& test, CudaContext& context) {
  if (test.has_gelu() && test.types.out != test.types.in) return;
  Problem x(test);
  x.Run(context);
  for (int64_t i = 0; i < test.batch * test.m; ++i) {
    for (int64_t j = 0; j < test.n; ++j) CheckElement(x, i, j);
    if (::testing::Test::HasFatalFailure()) return;
  }
  ASSERT_TRUE(x.c.GuardsHold() && x.aux.GuardsHold() && x.sums.GuardsHold()) << test.Name();
  ASSERT_TRUE(test.epilogue == GemmEpilogue::kBiasGelu || x.aux.after == x.aux.before) << test.Name();
  CheckSums(x);
  const std::vector<float> c = x.c.after, aux = x.aux.after, sums = x.sums.after;
  x.Run(context);
  ASSERT_TRUE(x.c.after == c && x.aux.after == aux && x.sums.after == sums) << test.Name() << ": not the same bits";
}

}  // namespace shardit::cuda::gemm_testing
