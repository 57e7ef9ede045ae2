// Products run in cuBLASLt, whose matrices are column-major: what it computes is C^T, from B^T and A^T, all of which
// are our row-major matrices read by columns.
//
// Epilogues and column sums run inside the product where cuBLASLt has such an algorithm and it is the better way
// (GemmPlan::best), else as kernels of our own behind a plain product. Then sums pass through fp32 memory, C itself
// where it is fp32 and otherwise scratch, a strip of rows at a time: C is rounded once either way.
#include <algorithm>
#include <optional>

#include "core/base/math.h"
#include "core/cuda/gemm_plans.h"
#include "core/cuda/growing_memory.h"
#include "core/cuda/trial.h"
#include "core/ops/column_sums.h"
#include "core/ops/gemm.h"
#include "core/ops/gemm_kernels.h"
#include "core/tensor/copy_rows.h"
#include "core/tensor/device_memory.h"

namespace shardit::cuda {
namespace {

using Epilogue = MatrixProduct::Epilogue;

// fp32 sums of a strip, at most: 16 MiB stay in the second-level cache until the epilogue reads them. But never fewer
// rows than a tile of the product has.
constexpr int64_t kStripFloats = int64_t{4} << 20;
constexpr int64_t kStripRows = 128;

void CheckArgs(const GemmArgs& args) {
  CHECK(args.m >= 0 && args.n >= 0 && args.k >= 0) << "[Gemm] " << args.m << " x " << args.n << " x " << args.k;
  const bool a_is_mk = args.form != GemmForm::kTN, b_is_kn = args.form != GemmForm::kNT;
  CHECK_GE(args.lda, a_is_mk ? args.k : args.m) << "[Gemm] leading dimension of A";
  CHECK_GE(args.ldb, b_is_kn ? args.n : args.k) << "[Gemm] leading dimension of B";
  CHECK_GE(args.ldc, args.n) << "[Gemm] leading dimension of C";
  CHECK(args.c.raw() != nullptr || args.m * args.n == 0) << "[Gemm] C is null";
  const bool has_gelu = args.epilogue == GemmEpilogue::kBiasGelu || args.epilogue == GemmEpilogue::kGeluGrad;
  CHECK(!has_gelu || (args.aux.raw() != nullptr && args.ldaux >= args.n && !args.accumulate))
      << "[Gemm] a GELU epilogue needs aux and no accumulation";
  CHECK(args.epilogue != GemmEpilogue::kBias || args.bias.raw() != nullptr) << "[Gemm] bias is null";
  CHECK(args.column_sums == nullptr || (args.form == GemmForm::kTN && args.n > 0))
      << "[Gemm] column sums are taken in the TN form, with a product";
  CHECK(args.batch == 1 || (args.form == GemmForm::kNT && !has_gelu)) << "[Gemm] batches are for forward without GELU";
  const DType type = args.a.dtype();
  const bool types_fit = (type == DType::kF32 || type == DType::kBF16) && args.b.dtype() == type &&
                         (args.c.dtype() == type || (args.c.dtype() == DType::kF32 && !has_gelu)) &&
                         (args.bias.raw() == nullptr || args.bias.dtype() == type) &&
                         (args.aux.raw() == nullptr || args.aux.dtype() == type);
  CHECK(types_fit) << "[Gemm] A " << Name(type) << ", B " << Name(args.b.dtype()) << ", C " << Name(args.c.dtype())
                   << ", bias " << Name(args.bias.dtype()) << ", aux " << Name(args.aux.dtype());
}

MatrixProduct PlainProduct(const GemmArgs& args) {
  MatrixProduct product{.rows = args.n,
                        .columns = args.m,
                        .inner = args.k,
                        .transpose_a = args.form == GemmForm::kNT,
                        .transpose_b = args.form == GemmForm::kTN,
                        .a = args.b,
                        .lda = args.ldb,
                        .b = args.a,
                        .ldb = args.lda,
                        .d = args.c,
                        .ldd = args.ldc,
                        .accumulate = args.accumulate};
  if (args.batch > 1) {  // of one product strides mean nothing
    product.batch = args.batch;
    product.a_stride = args.b_stride;
    product.bias_stride = args.bias_stride;
    product.d_stride = args.c_stride;
  }
  return product;
}

// With all that are `stride` bytes further on.
bool IsAligned(const void* pointer, int64_t stride = 0) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % 16 == 0;
}

// The whole of `args` as one product of cuBLASLt's; none where its rules for the epilogue are not met. cuBLASLt.h:
// bias, bias gradient and aux are of C's type; the leading dimension of aux is a multiple of 8. Sums that are added to
// or lie badly go to `sums` first, where that is not null.
std::optional<MatrixProduct> FusedProduct(const GemmArgs& args, float* sums) {
  MatrixProduct product = PlainProduct(args);
  if (args.column_sums != nullptr) {
    if (args.epilogue != GemmEpilogue::kNone || args.c.dtype() != DType::kF32) return std::nullopt;
    product.epilogue = Epilogue::kSumB;
    product.sums = sums != nullptr ? sums : args.column_sums;
    return product;
  }
  if (args.epilogue == GemmEpilogue::kNone) return product;
  const bool has_aux = args.epilogue != GemmEpilogue::kBias, has_bias = args.epilogue != GemmEpilogue::kGeluGrad;
  if (args.c.dtype() != args.a.dtype()) return std::nullopt;
  const int64_t bias_step = product.bias_stride * SizeOf(args.bias.dtype());
  if (has_bias && (args.bias.raw() == nullptr || !IsAligned(args.bias.raw(), bias_step))) return std::nullopt;
  if (has_aux && (args.ldaux % 8 != 0 || !IsAligned(args.aux.raw()))) return std::nullopt;
  product.epilogue = !has_aux ? Epilogue::kBias : has_bias ? Epilogue::kBiasGelu : Epilogue::kGeluGrad;
  if (has_bias) product.bias = args.bias.raw();
  if (has_aux) {
    product.aux = args.aux.raw();
    product.ldaux = args.ldaux;
  }
  return product;
}

// Without epilogue, column sums and batch.
void RunPlain(const GemmArgs& args, CudaContext& context) {
  if (args.k == 0) {
    const int64_t size = SizeOf(args.c.dtype());
    if (!args.accumulate) Zero2dAsync(args.c.raw(), args.ldc * size, args.n * size, args.m, context.stream);
    return;
  }
  const MatrixProduct product = PlainProduct(args);
  GemmPlan& plan = context.gemm_plans->Find(product, context);
  if (plan.possible && context.gemm_plans->Run(plan, product, context)) return;
  SimpleProduct(args, context);
}

FinishProductArgs FinishOf(const GemmArgs& args, const float* sums, int64_t ldsums) {
  return {.rows = args.m,
          .columns = args.n,
          .sums = sums,
          .ldsums = ldsums,
          .c = args.c,
          .ldc = args.ldc,
          .accumulate = args.accumulate,
          .epilogue = args.epilogue,
          .bias = args.bias,
          .aux = args.aux,
          .ldaux = args.ldaux};
}

// Rows [first, first + rows) of the product.
GemmArgs RowsOf(const GemmArgs& args, int64_t first, int64_t rows) {
  GemmArgs strip = args;
  strip.m = rows;
  strip.a = args.a.At(args.form == GemmForm::kTN ? first : first * args.lda);
  strip.c = args.c.At(first * args.ldc);
  if (args.aux.raw() != nullptr) strip.aux = args.aux.At(first * args.ldaux);
  return strip;
}

// The plain product, then the epilogue.
void RunWithEpilogueApart(const GemmArgs& args, CudaContext& context) {
  GemmArgs plain = args;
  plain.epilogue = GemmEpilogue::kNone;
  if (args.c.dtype() == DType::kF32) {
    RunPlain(plain, context);
    FinishProductArgs finish = FinishOf(args, args.c, args.ldc);
    finish.accumulate = false;  // the product has added
    return FinishProduct(finish, context);
  }
  const int64_t most_rows = std::max(kStripFloats / args.n / kStripRows * kStripRows, kStripRows);
  for (int64_t first = 0; first < args.m; first += most_rows) {
    const GemmArgs strip = RowsOf(args, first, std::min(most_rows, args.m - first));
    auto* sums = static_cast<float*>(context.scratch->Get(strip.m * args.n * int64_t{sizeof(float)}));
    plain = strip;
    plain.epilogue = GemmEpilogue::kNone;
    plain.c = sums;
    plain.ldc = args.n;
    plain.accumulate = false;
    RunPlain(plain, context);
    FinishProduct(FinishOf(strip, sums, args.n), context);
  }
}

GemmArgs OneOfBatch(const GemmArgs& args, int64_t i) {
  GemmArgs one = args;
  one.batch = 1;
  one.b_stride = one.bias_stride = one.c_stride = 0;
  one.b = args.b.At(i * args.b_stride);
  one.c = args.c.At(i * args.c_stride);
  if (args.bias.raw() != nullptr) one.bias = args.bias.At(i * args.bias_stride);
  return one;
}

void RunInParts(const GemmArgs& args, CudaContext& context) {
  if (args.batch > 1) {
    for (int64_t i = 0; i < args.batch; ++i) Gemm(OneOfBatch(args, i), context);
    return;
  }
  if (args.column_sums == nullptr) return RunWithEpilogueApart(args, context);
  GemmArgs product = args;
  product.column_sums = nullptr;
  Gemm(product, context);
  ColumnSums({.rows = args.k,
              .columns = args.m,
              .x = args.a,
              .ld = args.lda,
              .sums = args.column_sums,
              .accumulate = args.accumulate_column_sums},
             context);
}

// Times the other way, on the operands as given, but for what is added to: that is let alone. Where there is no memory
// for that, the plan stays without a time.
void TimeInParts(const GemmArgs& args, GemmPlan& plan, CudaContext& context) {
  plan.tried_in_parts = true;
  const int64_t elements = args.accumulate ? (args.batch - 1) * args.c_stride + args.m * args.ldc : 0;
  const int64_t c_bytes = RoundUp(elements * SizeOf(args.c.dtype()), GrowingMemory::kAlignment);
  const int64_t sums_bytes = args.column_sums != nullptr ? args.m * int64_t{sizeof(float)} : 0;
  GemmArgs trial = args;
  if (c_bytes + sums_bytes > 0) {
    auto* memory = static_cast<char*>(context.gemm_plans->TrialMemory(c_bytes + sums_bytes));
    if (memory == nullptr) return;
    if (c_bytes > 0) trial.c = {memory, args.c.dtype()};
    if (sums_bytes > 0) trial.column_sums = reinterpret_cast<float*>(memory + c_bytes);
  }
  plan.in_parts_microseconds = TimeOnStream(context.stream, [&] { RunInParts(trial, context); });
}

bool RunFused(const GemmArgs& args, CudaContext& context) {
  const bool sums_apart = args.column_sums != nullptr && (args.accumulate_column_sums || !IsAligned(args.column_sums));
  float* sums = sums_apart ? static_cast<float*>(context.scratch->Get(args.m * int64_t{sizeof(float)})) : nullptr;
  const std::optional<MatrixProduct> product = FusedProduct(args, sums);
  if (!product) return false;
  GemmPlans& plans = *context.gemm_plans;
  GemmPlan& plan = plans.Find(*product, context);
  if (plan.microseconds > 0 && !plan.tried_in_parts && plans.Tunes(context)) {
    TimeInParts(args, plan, context);
    return RunFused(args, context);  // the parts have used the scratch memory
  }
  if (!plan.best() || !plans.Run(plan, *product, context)) return false;
  if (sums_apart) {
    CopyRows({.source = static_cast<const float*>(sums),
              .destination = args.column_sums,
              .accumulate = args.accumulate_column_sums,
              .rows = 1,
              .count = args.m},
             context);
  }
  return true;
}

}  // namespace

void Gemm(const GemmArgs& args, CudaContext& context) {
  CheckArgs(args);
  if (args.m == 0 || args.n == 0 || args.batch == 0) return;
  const bool is_plain = args.epilogue == GemmEpilogue::kNone && args.column_sums == nullptr && args.batch == 1;
  if (is_plain) return RunPlain(args, context);
  if (args.k > 0 && RunFused(args, context)) return;
  RunInParts(args, context);
}

}  // namespace shardit::cuda
