#include "core/ops/linear_product.h"

namespace shardit {

GemmArgs LinearForward(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y) {
  const int64_t in = x.dim(-1), out = y.dim(-1);
  GemmArgs gemm{.form = GemmForm::kNT, .m = x.elements() / in, .n = out, .k = in};
  gemm.a = x.ref();
  gemm.lda = in;
  gemm.b = w.ref();
  gemm.ldb = in;
  gemm.c = y.ref();
  gemm.ldc = out;
  if (bias.defined()) {
    gemm.epilogue = GemmEpilogue::kBias;
    gemm.bias = bias.ref();
  }
  return gemm;
}

GemmArgs LinearInputGrad(const Tensor& dy, const Tensor& w, const Tensor& dx) {
  const int64_t in = dx.dim(-1), out = dy.dim(-1);
  GemmArgs gemm{.form = GemmForm::kNN, .m = dy.elements() / out, .n = in, .k = out};
  gemm.a = dy.ref();
  gemm.lda = out;
  gemm.b = w.ref();
  gemm.ldb = in;
  gemm.c = dx.ref();
  gemm.ldc = in;
  return gemm;
}

void LinearWeightGrad(RankContext& context, const Tensor& dy, const Tensor& x, const GradDestination& dw,
                      const GradDestination& db) {
  CHECK(dw.tensor.defined()) << "a bias is trained with its weight: its gradient is taken in the weight's pass";
  const int64_t in = x.dim(-1), out = dy.dim(-1);
  GemmArgs gemm{.form = GemmForm::kTN, .m = out, .n = in, .k = dy.elements() / out};
  gemm.a = dy.ref();
  gemm.lda = out;
  gemm.b = x.ref();
  gemm.ldb = in;
  gemm.c = dw.tensor.ref();
  gemm.ldc = in;
  gemm.accumulate = dw.accumulate;
  if (db.tensor.defined()) {
    gemm.column_sums = db.tensor.data();
    gemm.accumulate_column_sums = db.accumulate;
  }
  Gemm(gemm, context);
}

}  // namespace shardit
