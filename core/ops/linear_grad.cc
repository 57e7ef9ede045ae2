#include "core/ops/linear_grad.h"

#include "core/ops/gemm.h"

namespace shardit {

void LinearInputGrad(RankContext& context, const Tensor& dy, const Tensor& w, const GradDestination& dx) {
  const int64_t out = w.dim(0), in = w.dim(1);
  GemmArgs gemm{.form = GemmForm::kNN, .m = dy.elements() / out, .n = in, .k = out};
  gemm.a = dy.data();
  gemm.lda = out;
  gemm.b = w.data();
  gemm.ldb = in;
  gemm.c = dx.tensor.data();
  gemm.ldc = in;
  gemm.accumulate = dx.accumulate;
  cpu::Gemm(gemm, context.cpu());
}

void LinearWeightGrad(RankContext& context, const Tensor& dy, const Tensor& x, const GradDestination& dw,
                      const GradDestination& db) {
  CHECK(dw.tensor.defined()) << "a bias is trained with its weight: its gradient is taken in the weight's pass";
  const int64_t out = dy.dim(-1), in = x.dim(-1);
  GemmArgs gemm{.form = GemmForm::kTN, .m = out, .n = in, .k = dy.elements() / out};
  gemm.a = dy.data();
  gemm.lda = out;
  gemm.b = x.data();
  gemm.ldb = in;
  gemm.c = dw.tensor.data();
  gemm.ldc = in;
  gemm.accumulate = dw.accumulate;
  if (db.tensor.defined()) {
    gemm.column_sums = db.tensor.data();
    gemm.accumulate_column_sums = db.accumulate;
  }
  cpu::Gemm(gemm, context.cpu());
}

}  // namespace shardit
