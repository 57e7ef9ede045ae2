#include "core/ops/linear_product.h"

namespace shardit {

GemmArgs LinearForward(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y) {
  const int64_t in = x.dim(-1), out = y.dim(-1);
  GemmArgs gemm{.form = GemmForm::kNT, .m = x.elements() / in, .n = out, .k = in};
  gemm.a = x.data();
  gemm.lda = in;
  gemm.b = w.data();
  gemm.ldb = in;
  gemm.c = y.data();
  gemm.ldc = out;
  if (bias.defined()) {
    gemm.epilogue = GemmEpilogue::kBias;
    gemm.bias = bias.data();
  }
  return gemm;
}

GemmArgs LinearInputGrad(const Tensor& dy, const Tensor& w, const Tensor& dx) {
  const int64_t in = dx.dim(-1), out = dy.dim(-1);
  GemmArgs gemm{.form = GemmForm::kNN, .m = dy.elements() / out, .n = in, .k = out};
  gemm.a = dy.data();
  gemm.lda = out;
  gemm.b = w.data();
  gemm.ldb = in;
  gemm.c = dx.data();
  gemm.ldc = in;
  return gemm;
}

void LinearWeightGrad(RankContext& context, const Tensor& dy, const Tensor& x, const GradDestination& dw,
                      const GradDestination& db) {
  CHECK(dw.tensor.defined()) << "a bias is trained with its weight: its gradient is taken in the weight's pass";
  const int64_t in = x.dim(-1), out = dy.dim(-1);
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
