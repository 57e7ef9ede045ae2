// Every form, type and epilogue of the CUDA product against fp64 loops, by every way that it can go: cuBLASLt's first
// algorithm, the fastest one, epilogues and sums apart, and without cuBLASLt.
#include "core/ops/gemm.h"

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "core/cuda/gemm_plans.h"
#include "core/cuda/graph.h"
#include "core/ops/column_sums.h"
#include "core/tensor/rng.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda/device_buffer.h"
#include "tests/cuda/ops/gemm_case.h"

#ifdef SHARDIT_CUDA_EMULATION
#include "cuda_emulator.h"
#endif

namespace shardit::cuda {
namespace {

using gemm_testing::Case;
using gemm_testing::Check;
using gemm_testing::kTypes;
using gemm_testing::kWays;
using gemm_testing::Matrix;
using gemm_testing::NameOf;
using gemm_testing::OnDevice;
using gemm_testing::Problem;
using gemm_testing::Types;
using gemm_testing::Way;
using gemm_testing::Ways;

constexpr GemmForm kForms[] = {GemmForm::kNT, GemmForm::kNN, GemmForm::kTN};

class CudaGemm : public CudaTest, public ::testing::WithParamInterface<Way> {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (!IsSkipped()) ways_ = std::make_unique<Ways>(GetParam());
  }
  void CheckAllTypes(Case test) {
    for (const Types types : kTypes) {
      test.types = types;
      Check(test, ways_->context);
    }
  }
  std::unique_ptr<Ways> ways_;
};

TEST_P(CudaGemm, OddShapes) {
  const int64_t shapes[][3] = {{1, 1, 1},    {2, 3, 1},    {1, 33, 5},  {7, 1, 9},
                               {15, 17, 16}, {29, 47, 31}, {5, 65, 72}, {72, 10, 33}};
  for (const GemmForm form : kForms) {
    for (const auto& [m, n, k] : shapes) {
      for (const bool accumulate : {false, true}) {
        CheckAllTypes({.form = form, .m = m, .n = n, .k = k, .accumulate = accumulate});
      }
    }
  }
}

// Dense and padded rows, aligned and not.
TEST_P(CudaGemm, LeadingDimensionsAndPlaces) {
  for (const GemmForm form : kForms) {
    for (const int64_t gap : {0, 3, 8}) {
      for (const int64_t offset : {0, 1, 4}) {
        Case test{.form = form, .m = 33, .n = 40, .k = 24, .gap = gap, .offset = offset};
        CheckAllTypes(test);
        test.epilogue = GemmEpilogue::kBiasGelu;
        CheckAllTypes(test);
        test.epilogue = GemmEpilogue::kNone;
        test.column_sums = form == GemmForm::kTN;
        test.accumulate = true;
        CheckAllTypes(test);
      }
    }
  }
}

TEST_P(CudaGemm, Epilogues) {
  for (const GemmForm form : kForms) {
    for (const int64_t n : {1, 40, 72}) {
      for (const int64_t gap : {0, 8}) {
        Case test{.form = form, .m = 37, .n = n, .k = 48, .epilogue = GemmEpilogue::kBias, .gap = gap};
        CheckAllTypes(test);
        test.accumulate = true;
        CheckAllTypes(test);
        test.accumulate = false;
        test.epilogue = GemmEpilogue::kBiasGelu;
        CheckAllTypes(test);
        test.has_bias = false;
        CheckAllTypes(test);
        test.epilogue = GemmEpilogue::kGeluGrad;
        CheckAllTypes(test);
      }
    }
  }
}

TEST_P(CudaGemm, Batches) {
  for (const GemmEpilogue epilogue : {GemmEpilogue::kNone, GemmEpilogue::kBias}) {
    for (const int64_t n : {5, 24}) {
      for (const int64_t gap : {0, 3}) {
        for (const bool accumulate : {false, true}) {
          Case test{.m = 7, .n = n, .k = 16, .accumulate = accumulate, .epilogue = epilogue, .gap = gap, .batch = 3};
          CheckAllTypes(test);
          test.k = 0;
          CheckAllTypes(test);
        }
      }
    }
  }
}

TEST_P(CudaGemm, ColumnSums) {
  for (const int64_t k : {5, 300}) {
    for (const int64_t m : {1, 15, 64}) {
      for (const bool accumulate : {false, true}) {
        for (const int64_t offset : {0, 1}) {
          CheckAllTypes({.form = GemmForm::kTN,
                         .m = m,
                         .n = 24,
                         .k = k,
                         .accumulate = accumulate,
                         .column_sums = true,
                         .gap = 0,
                         .offset = offset});
        }
      }
    }
  }
}

TEST_P(CudaGemm, EmptySumsGiveZeroAndKeepWhatIsAddedTo) {
  for (const GemmForm form : kForms) {
    CheckAllTypes({.form = form, .m = 5, .n = 40, .k = 0, .column_sums = form == GemmForm::kTN});
    CheckAllTypes({.form = form, .m = 5, .n = 40, .k = 0, .accumulate = true});
    CheckAllTypes({.form = form, .m = 5, .n = 40, .k = 0, .accumulate = true, .epilogue = GemmEpilogue::kBias});
    CheckAllTypes({.form = form, .m = 5, .n = 40, .k = 0, .epilogue = GemmEpilogue::kBiasGelu});
    CheckAllTypes({.form = form, .m = 0, .n = 4, .k = 3});
    CheckAllTypes({.form = form, .m = 4, .n = 0, .k = 3});
  }
}

TEST_P(CudaGemm, TensorFloat) {
  for (const GemmForm form : kForms) {
    Case test{.form = form, .m = 33, .n = 40, .k = 100, .gap = 0, .tf32 = true};
    test.column_sums = form == GemmForm::kTN;
    Check(test, ways_->context);
  }
}

// The second time around nothing is new, so it can be recorded; what a graph replays is what was asked for.
TEST_P(CudaGemm, ReplaysFromAGraph) {
  for (const Types types : kTypes) {
    for (const GemmEpilogue epilogue : {GemmEpilogue::kNone, GemmEpilogue::kBias, GemmEpilogue::kBiasGelu}) {
      Case test{.form = GemmForm::kTN, .m = 40, .n = 32, .k = 64, .types = types, .epilogue = epilogue, .gap = 0};
      if (test.has_gelu() && types.in != types.out) continue;
      test.column_sums = epilogue == GemmEpilogue::kNone;
      Problem warm(test), recorded(test);
      warm.Run(ways_->context);
      const Stream stream = ways_->context.stream;
      const std::unique_ptr<Graph> graph = Graph::Capture(stream, [&] { recorded.Issue(ways_->context); });
      recorded.device.Download();
      EXPECT_EQ(recorded.c.after, recorded.c.before);
      graph->Launch(stream);
      recorded.device.Download();
      EXPECT_EQ(recorded.c.after, warm.c.after) << test.Name();
      EXPECT_EQ(recorded.aux.after, warm.aux.after) << test.Name();
      EXPECT_EQ(recorded.sums.after, warm.sums.after) << test.Name();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, CudaGemm, ::testing::ValuesIn(kWays),
                         [](const auto& info) { return NameOf(info.param); });

// Wide enough that 128 rows are a strip.
TEST_F(CudaTest, GemmWithEpilogueApartGoesByStripsOfRows) {
  Ways ways(Way::kApart);
  for (const GemmForm form : {GemmForm::kNT, GemmForm::kTN}) {
    Case test{.form = form, .m = 130, .n = 32768, .k = 2, .types = kTypes[1], .gap = 0};
    test.epilogue = GemmEpilogue::kBiasGelu;
    Check(test, ways.context);
  }
}

#ifndef SHARDIT_CUDA_EMULATION
// The shapes of a block of DiT-S/2 and XL/2 at batch 8, against our own kernels. The emulator would take hours.
TEST_F(CudaTest, GemmOfModelShapesAgreesWithOwnKernels) {
  Ways own(Way::kWithoutLibrary), first(Way::kFirst), tuned(Way::kTuned);
  for (const int64_t width : {384, 1152}) {
    for (const auto& [in, out] : {std::pair{width, 3 * width}, {width, 4 * width}, {4 * width, width}}) {
      for (const GemmForm form : kForms) {
        Case test{.form = form, .m = 2048, .n = out, .k = in, .types = kTypes[1], .gap = 0};
        test.epilogue = form == GemmForm::kNT ? GemmEpilogue::kBiasGelu : GemmEpilogue::kGeluGrad;
        if (form == GemmForm::kTN) {
          test = {.form = form, .m = out, .n = in, .k = 2048, .types = kTypes[2], .accumulate = true};
          test.column_sums = true;
          test.gap = 0;
        }
        Problem want(test);
        want.Run(own.context);
        for (Ways* ways : {&first, &tuned}) {
          Problem got(test);
          got.Run(ways->context);
          const double unit = test.types.out == DType::kBF16 ? 0x1p-7 : 0;
          for (auto [g, w] : {std::pair{&got.c, &want.c}, {&got.aux, &want.aux}, {&got.sums, &want.sums}}) {
            double worst = 0;
            for (size_t i = 0; i < g->after.size(); ++i) {
              const double off = std::abs(g->after[i] - w->after[i]) - unit * std::abs(w->after[i]);
              worst = off <= worst ? worst : off;  // NaN counts
            }
            EXPECT_LE(worst, 4e-7 * static_cast<double>(test.k)) << test.Name();
          }
        }
      }
    }
  }
}
#endif

// Tuning must not add to what accumulates.
TEST_F(CudaTest, TuningTimesBothWaysAndLeavesAccumulatedMemoryAlone) {
  Ways ways(Way::kTuned);
  for (const Types types : kTypes) {
    Case test{.form = GemmForm::kTN, .m = 40, .n = 32, .k = 64, .types = types, .accumulate = true, .gap = 0};
    test.column_sums = true;
    Check(test, ways.context);
  }
  EXPECT_THAT(ways.plans->Table(), ::testing::HasSubstr("in parts"));
}

#ifdef SHARDIT_CUDA_EMULATION
// With memory for one way only, that way is taken.
TEST_F(CudaTest, TuningGoesOnWhereTheDeviceIsFull) {
  Ways ways(Way::kTuned);
  TestContext().scratch->Get(1);
  Case test{.form = GemmForm::kTN, .m = 40, .n = 32, .k = 64, .types = kTypes[2], .gap = 0};
  test.column_sums = true;
  Problem problem(test);
  const DeviceMemoryInfo memory = MemoryInfo(Device::Cuda(0));
  const uint64_t before = cuda_emulator::SetMemory(static_cast<uint64_t>(memory.total_bytes - memory.free_bytes));
  problem.Run(ways.context);
  problem.Run(ways.context);
  cuda_emulator::SetMemory(before);
  EXPECT_THAT(ways.plans->Table(), ::testing::HasSubstr("sums"));
  EXPECT_THAT(ways.plans->Table(), ::testing::Not(::testing::HasSubstr("in parts")));
}
#endif

// Freeing memory would wait for the device: scratch that it has outgrown may still be written to.
TEST_F(CudaTest, ScratchThatHasGrownKeepsWhatItWas) {
  const std::unique_ptr<Runtime> runtime = Runtime::Make(Device::Cuda(0), {});
  const CudaContext& context = runtime->context();
  void* const small = context.scratch->Get(100);
  void* const large = context.scratch->Get(int64_t{20} << 20);
  EXPECT_NE(small, large);
  EXPECT_EQ(context.scratch->Get(200), large);
  ZeroAsync(small, 100, context.stream);
  ZeroAsync(large, int64_t{20} << 20, context.stream);
  Synchronize(context.stream);
}

TEST_F(CudaTest, ColumnSumsOfManyRuns) {
  // Few multiprocessors make long runs, many make short ones.
  for (const int multiprocessors : {1, 132}) {
    for (const int64_t columns : {1, 8, 520}) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        const int64_t rows = 1000;
        Matrix x(dtype, rows, columns, columns == 8 ? 3 : 0, 1), sums(DType::kF32, 1, columns, 0, 2);
        OnDevice device({&x, &sums}, 0);
        CudaContext context = TestContext();
        context.multiprocessors = multiprocessors;
        ColumnSums({.rows = rows,
                    .columns = columns,
                    .x = device.Ref(0),
                    .ld = x.ld,
                    .sums = device.Ref(1),
                    .accumulate = true},
                   context);
        device.Download();
        for (int64_t j = 0; j < columns; ++j) {
          double want = sums.Before(0, j);
          for (int64_t i = 0; i < rows; ++i) want += x.Before(i, j);
          ASSERT_NEAR(sums.After(0, j), want, 5e-5) << columns << " column " << j;
        }
        ASSERT_TRUE(sums.GuardsHold());
      }
    }
  }
}

class CudaGemmDeathTest : public CudaTest {};

TEST_F(CudaGemmDeathTest, NamesTheMistake) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  DeviceVector<float> x(4);
  GemmArgs args{.form = GemmForm::kNT, .m = 2, .n = 2, .k = 2, .a = x.data(), .lda = 1};
  args.b = x.data();
  args.c = x.data();
  args.ldb = args.ldc = 2;
  EXPECT_DEATH(cuda::Gemm(args, TestContext()), "leading dimension of A");
  args.lda = 2;
  DeviceVector<BFloat16> y(4);
  args.b = y.data();
  EXPECT_DEATH(cuda::Gemm(args, TestContext()), "B bf16");
}

}  // namespace
}  // namespace shardit::cuda
