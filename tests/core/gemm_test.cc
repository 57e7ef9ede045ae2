// Every form and epilogue of the CPU GEMM against fp64 loops, on every instruction set of this machine.
#include "core/ops/gemm.h"

#include <cmath>
#include <string>
#include <vector>

#include "core/base/simd_targets.h"
#include "core/tensor/rng.h"
#include "gtest/gtest.h"
#include "hwy/highway.h"

namespace shardit {
namespace {

constexpr float kGuard = 12345.0f;  // stands in the gap between a row's end and the next row

double Gelu(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
double GeluGrad(double x) {
  const double t = std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

// [rows, columns] of uniform numbers in (-1, 1) with `gap` guard elements after each row.
struct Matrix {
  Matrix(int64_t rows, int64_t columns, int64_t gap, uint64_t stream)
      : rows(rows), columns(columns), ld(columns + gap) {
    data.assign(static_cast<size_t>(rows * ld + 1), kGuard);
    std::vector<float> row(static_cast<size_t>(columns));
    for (int64_t i = 0; i < rows; ++i) {
      FillUniform({7, RngPurpose::kTest, stream}, static_cast<uint64_t>(i * columns), columns, row.data());
      for (int64_t j = 0; j < columns; ++j) At(i, j) = 2 * row[static_cast<size_t>(j)] - 1;
    }
  }
  float& At(int64_t i, int64_t j) { return data[static_cast<size_t>(i * ld + j)]; }
  float At(int64_t i, int64_t j) const { return data[static_cast<size_t>(i * ld + j)]; }
  bool GuardsHold() const {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = columns; j < ld; ++j) {
        if (At(i, j) != kGuard) return false;
      }
    }
    return data.back() == kGuard;
  }

  int64_t rows, columns, ld;
  std::vector<float> data;
};

struct Case {
  GemmForm form = GemmForm::kNT;
  int64_t m = 1, n = 1, k = 1;
  bool accumulate = false;
  GemmEpilogue epilogue = GemmEpilogue::kNone;
  bool has_bias = true;
  bool column_sums = false;
  int64_t gap = 3;
  int threads = 2;

  std::string Name() const {
    return "form " + std::to_string(static_cast<int>(form)) + " " + std::to_string(m) + "x" + std::to_string(n) + "x" +
           std::to_string(k) + " epilogue " + std::to_string(static_cast<int>(epilogue)) +
           (accumulate ? " accumulate" : "") + (column_sums ? " sums" : "");
  }
};

struct Problem {
  explicit Problem(const Case& c)
      : test(c),
        a(c.form == GemmForm::kTN ? c.k : c.m, c.form == GemmForm::kTN ? c.m : c.k, c.gap, 1),
        b(c.form == GemmForm::kNT ? c.n : c.k, c.form == GemmForm::kNT ? c.k : c.n, c.gap, 2),
        c(c.m, c.n, c.gap, 3),
        aux(c.m, c.n, c.gap, 4),
        bias(1, c.n, 0, 5),
        sums(1, c.m, 0, 6) {}

  void Run() {
    ThreadPool pool(test.threads);
    Workspace workspace(test.threads);
    CpuContext context{pool, workspace};
    GemmArgs args{.form = test.form, .m = test.m, .n = test.n, .k = test.k, .a = a.data.data(), .lda = a.ld};
    args.b = b.data.data();
    args.ldb = b.ld;
    args.c = c.data.data();
    args.ldc = c.ld;
    args.accumulate = test.accumulate;
    args.epilogue = test.epilogue;
    args.bias = test.has_bias ? bias.data.data() : nullptr;
    args.aux = aux.data.data();
    args.ldaux = aux.ld;
    args.column_sums = test.column_sums ? sums.data.data() : nullptr;
    args.accumulate_column_sums = test.accumulate;
    cpu::Gemm(args, context);
  }

  float A(int64_t i, int64_t k) const { return test.form == GemmForm::kTN ? a.At(k, i) : a.At(i, k); }
  float B(int64_t k, int64_t j) const { return test.form == GemmForm::kNT ? b.At(j, k) : b.At(k, j); }

  Case test;
  Matrix a, b, c, aux, bias, sums;
};

// Errors are measured in units of the sum of the terms' sizes.
void CheckElement(const Problem& before, const Problem& after, int64_t i, int64_t j) {
  const Case& test = before.test;
  double want = 0, size = 0;
  for (int64_t k = 0; k < test.k; ++k) {
    want += double{before.A(i, k)} * before.B(k, j);
    size += std::abs(double{before.A(i, k)} * before.B(k, j));
  }
  if (test.accumulate) want += before.c.At(i, j);
  const bool adds_bias = test.epilogue == GemmEpilogue::kBias || test.epilogue == GemmEpilogue::kBiasGelu;
  if (adds_bias && test.has_bias) want += before.bias.At(0, j);
  const double bound = 4e-7 * (size + 2);
  if (test.epilogue == GemmEpilogue::kBiasGelu) {
    ASSERT_NEAR(after.aux.At(i, j), want, bound) << test.Name() << " aux at " << i << "," << j;
    want = Gelu(want);
  }
  if (test.epilogue == GemmEpilogue::kGeluGrad) want *= GeluGrad(before.aux.At(i, j));
  ASSERT_NEAR(after.c.At(i, j), want, 1.2 * bound) << test.Name() << " at " << i << "," << j;
}

void Check(const Case& test) {
  const Problem before(test);
  Problem after(test);
  after.Run();
  for (int64_t i = 0; i < test.m; ++i) {
    for (int64_t j = 0; j < test.n; ++j) CheckElement(before, after, i, j);
    if (::testing::Test::HasFatalFailure()) return;
  }
  ASSERT_TRUE(after.c.GuardsHold() && after.aux.GuardsHold() && after.sums.GuardsHold()) << test.Name();
  ASSERT_TRUE(test.epilogue == GemmEpilogue::kBiasGelu || after.aux.data == before.aux.data) << test.Name();
  for (int64_t i = 0; i < test.m; ++i) {
    double want = test.accumulate || !test.column_sums ? before.sums.At(0, i) : 0;
    for (int64_t k = 0; test.column_sums && k < test.k; ++k) want += before.A(i, k);
    ASSERT_NEAR(after.sums.At(0, i), want, 4e-7 * static_cast<double>(test.k + 1)) << test.Name() << " sum " << i;
  }
}

class Gemm : public ::testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { hwy::SetSupportedTargetsForTest(GetParam()); }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }
};

constexpr GemmForm kForms[] = {GemmForm::kNT, GemmForm::kNN, GemmForm::kTN};

// One more and one less than the tile and vector sizes of every instruction set, and single rows and columns.
TEST_P(Gemm, OddShapes) {
  const int64_t shapes[][3] = {{1, 1, 1},    {2, 3, 1},     {1, 33, 5},   {7, 1, 9},   {15, 17, 16},
                               {14, 32, 8},  {13, 31, 7},   {29, 47, 3},  {5, 65, 72}, {72, 10, 33},
                               {3, 129, 40}, {43, 97, 130}, {16, 72, 64}, {4, 96, 48}, {9, 50, 31},
                               {5, 96, 100}, {30, 32, 70},  {32, 16, 32}, {17, 64, 29}};
  for (const GemmForm form : kForms) {
    for (const auto& [m, n, k] : shapes) {
      for (const bool accumulate : {false, true}) {
        Check({.form = form, .m = m, .n = n, .k = k, .accumulate = accumulate});
      }
    }
  }
}

TEST_P(Gemm, LongSumsInSeveralRuns) {
  for (const GemmForm form : kForms) {
    for (const int64_t k : {512, 513, 1100}) {
      Check({.form = form, .m = 18, .n = 35, .k = k});
      Check({.form = form, .m = 18, .n = 35, .k = k, .accumulate = true});
    }
  }
}

// More columns than one group of cached panels holds.
TEST_P(Gemm, SeveralColumnGroups) {
  for (const GemmForm form : kForms)
    Check({.form = form, .m = 3, .n = 1500, .k = 256, .column_sums = form == GemmForm::kTN});
}

TEST_P(Gemm, Epilogues) {
  for (const GemmForm form : kForms) {
    for (const int64_t k : {24, 600}) {
      for (const int64_t n : {40, 64}) {
        Case test{.form = form, .m = 37, .n = n, .k = k, .epilogue = GemmEpilogue::kBias};
        Check(test);
        test.accumulate = true;
        Check(test);
        test.accumulate = false;
        test.epilogue = GemmEpilogue::kBiasGelu;
        Check(test);
        test.has_bias = false;
        Check(test);
        test.epilogue = GemmEpilogue::kGeluGrad;
        Check(test);
      }
    }
  }
}

TEST_P(Gemm, ColumnSums) {
  for (const int64_t k : {5, 700}) {
    for (const int64_t m : {1, 15, 100}) {
      for (const bool accumulate : {false, true}) {
        Check({.form = GemmForm::kTN, .m = m, .n = 70, .k = k, .accumulate = accumulate, .column_sums = true});
      }
    }
  }
}

TEST_P(Gemm, EmptySumsGiveZeroAndKeepWhatIsAddedTo) {
  for (const GemmForm form : kForms) {
    Check({.form = form, .m = 5, .n = 40, .k = 0, .column_sums = form == GemmForm::kTN});
    Check({.form = form, .m = 5, .n = 40, .k = 0, .accumulate = true});
    Check({.form = form, .m = 0, .n = 4, .k = 3});
    Check({.form = form, .m = 4, .n = 0, .k = 3});
  }
}

TEST_P(Gemm, SameBitsOnAnyNumberOfThreads) {
  for (const GemmForm form : kForms) {
    for (const int64_t m : {4, 100}) {
      Case test{.form = form, .m = m, .n = 224, .k = 530, .epilogue = GemmEpilogue::kBias};
      test.column_sums = form == GemmForm::kTN;
      test.threads = 1;
      Problem one(test);
      one.Run();
      for (const int threads : {2, 3, 4, 7}) {
        test.threads = threads;
        Problem many(test);
        many.Run();
        EXPECT_EQ(one.c.data, many.c.data) << test.Name() << " on " << threads;
        EXPECT_EQ(one.sums.data, many.sums.data) << test.Name() << " on " << threads;
      }
    }
  }
}

TEST_P(Gemm, WorkspaceStopsGrowing) {
  ThreadPool pool(2);
  Workspace workspace(2);
  CpuContext context{pool, workspace};
  const Matrix a(64, 300, 0, 1), b(200, 300, 0, 2);
  Matrix c(64, 200, 0, 3);
  GemmArgs args{.form = GemmForm::kNT, .m = 64, .n = 200, .k = 300, .a = a.data.data(), .lda = 300};
  args.b = b.data.data();
  args.ldb = 300;
  args.c = c.data.data();
  args.ldc = 200;
  cpu::Gemm(args, context);
  const int64_t bytes = workspace.bytes();
  EXPECT_GT(bytes, 0);
  for (int i = 0; i < 3; ++i) cpu::Gemm(args, context);
  EXPECT_EQ(workspace.bytes(), bytes);
}

INSTANTIATE_TEST_SUITE_P(Targets, Gemm, ::testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) { return hwy::TargetName(info.param); });

TEST(GemmDeathTest, NamesTheMistake) {
  ThreadPool pool(1);
  Workspace workspace(1);
  CpuContext context{pool, workspace};
  float x[4] = {};
  GemmArgs args{.form = GemmForm::kNT, .m = 2, .n = 2, .k = 2, .a = x, .lda = 1};
  args.b = x;
  args.c = x;
  args.ldb = args.ldc = 2;
  EXPECT_DEATH(cpu::Gemm(args, context), "leading dimension of A");
}

}  // namespace
}  // namespace shardit
