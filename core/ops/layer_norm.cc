#include "core/ops/layer_norm.h"

#include <memory>
#include <utility>

#include "core/cuda/nvtx.h"
#include "core/ops/norm_kernel.h"
#include "core/ops/norm_rows.h"

namespace shardit {
namespace {

// Inputs: x, scale (or gamma), shift (or beta).
class LayerNormNode : public Node {
 public:
  LayerNormNode(Tensor x, Tensor stats, SavedVar scale, float scale_offset)
      : Node(1), x_(std::move(x)), stats_(std::move(stats)), scale_(std::move(scale)), scale_offset_(scale_offset) {}

  const char* name() const override { return scale_offset_ == 0 ? "layer_norm" : "layer_norm_modulate"; }

  void Backward(RankContext& context) override {
    NormBwdArgs args{.shape = NormShapeOf(x_)};
    args.dh = Grad().ref();
    args.r = x_.ref();
    args.mean = stats_.data();
    args.rstd = stats_.data() + stats_.elements() / 2;
    args.scale = RowsOf(scale_.value());
    args.scale_offset = scale_offset_;
    GradDestination dx;
    if (Needs(0)) {
      dx = Destination(context, 0);
      CHECK(dx.tensor.is_dense()) << "[" << name() << "] gradient strides " << dx.tensor.strides();
    } else {
      dx.tensor = Tensor::Empty(context.allocator(), x_.shape(), x_.dtype());
    }
    args.dx = dx.tensor.ref();
    if (dx.accumulate) args.dr_in = args.dx;
    if (Needs(1)) args.dscale = RowsOf(Destination(context, 1));
    if (Needs(2)) args.dshift = RowsOf(Destination(context, 2));
    NormBwd(args, context);
  }

 private:
  Tensor x_;
  Tensor stats_;  // [2, N, T]: mean, 1/std
  SavedVar scale_;
  const float scale_offset_;
};

Var Forward(Tape& tape, const Var& x, const Var& scale, const Var& shift, float scale_offset, float eps) {
  const NvtxRange range(scale_offset == 0 ? "layer_norm" : "layer_norm_modulate");
  const Tensor& xv = x.value();
  const bool record = tape.Records({&x, &scale, &shift});
  Tensor y = Tensor::Empty(tape.allocator(), xv.shape(), xv.dtype());
  Tensor stats = record ? Tensor::Empty(tape.allocator(), {2, xv.dim(0), xv.dim(1)}) : Tensor();
  NormFwdArgs args{.shape = NormShapeOf(xv)};
  args.x = xv.ref();
  args.h = y.ref();
  args.eps = eps;
  args.scale = RowsOf(scale.value());
  args.scale_offset = scale_offset;
  args.shift = RowsOf(shift.value());
  if (record) {
    args.mean = stats.data();
    args.rstd = stats.data() + stats.elements() / 2;
  }
  NormFwd(args, tape.context());
  if (!record) return Var(std::move(y));
  auto node = std::make_unique<LayerNormNode>(xv, stats, SavedVar(scale), scale_offset);
  return tape.Record(std::move(node), {x, scale, shift}, {y}, {xv, stats, scale.value()})[0];
}

}  // namespace

Var LayerNorm(Tape& tape, const Var& x_NTD, const Var& gamma_D, const Var& beta_D, float eps) {
  CheckTokens("layer_norm", x_NTD.value());
  const Shape row({x_NTD.dim(2)});
  CHECK(gamma_D.shape() == row && beta_D.shape() == row && gamma_D.value().is_dense() && beta_D.value().is_dense())
      << "[layer_norm] x " << x_NTD.shape() << ", gamma " << gamma_D.shape() << ", beta " << beta_D.shape();
  return Forward(tape, x_NTD, gamma_D, beta_D, 0, eps);
}

Var LayerNormModulate(Tape& tape, const Var& x_NTD, const Var& shift_ND, const Var& scale_ND, float eps) {
  CheckTokens("layer_norm_modulate", x_NTD.value());
  CheckImageRows("layer_norm_modulate", "shift", x_NTD.value(), shift_ND.value());
  CheckImageRows("layer_norm_modulate", "scale", x_NTD.value(), scale_ND.value());
  return Forward(tape, x_NTD, scale_ND, shift_ND, 1, eps);
}

}  // namespace shardit
