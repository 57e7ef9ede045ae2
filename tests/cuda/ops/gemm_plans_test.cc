// How cuBLASLt's plans are kept, offered and timed.
#include "core/cuda/gemm_plans.h"

#include <functional>
#include <vector>

#include "core/cuda/graph.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda/ops/gemm_case.h"

namespace shardit::cuda {
namespace {

using gemm_testing::Way;
using gemm_testing::Ways;

MatrixProduct SmallProduct(DeviceVector<BFloat16>& memory) {
  MatrixProduct product{.rows = 16, .columns = 8, .inner = 32, .transpose_a = true};
  product.a = memory.data();
  product.lda = product.ldb = 32;
  product.b = memory.data() + 1024;
  product.d = memory.data() + 2048;
  product.ldd = 16;
  return product;
}

TEST_F(CudaTest, GemmPlansAreKeptByWhatDecides) {
  Ways ways(Way::kFirst);
  DeviceVector<BFloat16> memory(std::vector<BFloat16>(4096));
  const MatrixProduct product = SmallProduct(memory);
  GemmPlan& plan = ways.plans->Find(product, ways.context);
  EXPECT_TRUE(plan.possible && plan.best());
  EXPECT_EQ(plan.microseconds, 0);
  EXPECT_EQ(&ways.plans->Find(product, ways.context), &plan);

  MatrixProduct moved = product;
  moved.a = memory.data() + 512;
  EXPECT_EQ(&ways.plans->Find(moved, ways.context), &plan) << "as well aligned";
  moved.a = memory.data() + 1;
  EXPECT_NE(&ways.plans->Find(moved, ways.context), &plan) << "worse aligned";
  const std::vector<std::function<void(MatrixProduct&)>> changes = {
      [](MatrixProduct& p) { p.rows = 8; },       [](MatrixProduct& p) { p.columns = 4; },
      [](MatrixProduct& p) { p.inner = 16; },     [](MatrixProduct& p) { p.lda = 40; },
      [](MatrixProduct& p) { p.ldb = 40; },       [](MatrixProduct& p) { p.ldd = 24; },
      [](MatrixProduct& p) { p.accumulate = 1; }, [](MatrixProduct& p) { p.transpose_a = false; },
      [](MatrixProduct& p) { p.batch = 2; }};
  for (const auto& change : changes) {
    MatrixProduct other = product;
    change(other);
    EXPECT_NE(&ways.plans->Find(other, ways.context), &plan);
  }
  EXPECT_THAT(ways.plans->Table(), ::testing::HasSubstr("TN bf16->bf16"));
}

#ifdef SHARDIT_CUDA_EMULATION
// The emulator has an algorithm without parts, one that adds parts in fp32 and one that adds them in the output's type.
TEST_F(CudaTest, GemmPlansAddPartsInFp32) {
  Ways ways(Way::kFirst), deterministic(Way::kDeterministic);
  DeviceVector<BFloat16> memory(std::vector<BFloat16>(4096));
  MatrixProduct product = SmallProduct(memory);
  EXPECT_EQ(ways.plans->Find(product, ways.context).offered, 2);
  product.d = Elements(product.d.raw(), DType::kF32);
  EXPECT_EQ(ways.plans->Find(product, ways.context).offered, 3);
  EXPECT_EQ(deterministic.plans->Find(product, deterministic.context).offered, 2);
}
#endif

TEST_F(CudaTest, GemmPlansTimeOutsideOfCapturesOnly) {
  Ways ways(Way::kTuned);
  DeviceVector<BFloat16> memory(std::vector<BFloat16>(4096));
  const MatrixProduct product = SmallProduct(memory);
  EXPECT_GT(ways.plans->Find(product, ways.context).microseconds, 0);
  EXPECT_THAT(ways.plans->Table(), ::testing::HasSubstr("TFLOP/s"));

  MatrixProduct unknown = product;
  unknown.columns = 7;
  const std::unique_ptr<Graph> graph = Graph::Capture(ways.context.stream, [&] {
    GemmPlan& plan = ways.plans->Find(unknown, ways.context);
    EXPECT_TRUE(plan.possible);
    EXPECT_EQ(plan.microseconds, 0);
    EXPECT_TRUE(ways.plans->Run(plan, unknown, ways.context));
  });
  EXPECT_EQ(graph->nodes(), 1);

  Ways deterministic(Way::kDeterministic);
  EXPECT_FALSE(deterministic.plans->Tunes(deterministic.context));
}

}  // namespace
}  // namespace shardit::cuda
