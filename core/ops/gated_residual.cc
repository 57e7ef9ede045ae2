#include "core/ops/gated_residual.h"

#include <memory>
#include <utility>

#include "core/cuda/nvtx.h"
#include "core/ops/norm_kernel.h"
#include "core/ops/norm_rows.h"

namespace shardit {
namespace {

class AddNode : public Node {
 public:
  AddNode() : Node(1) {}
  const char* name() const override { return "add"; }

  void Backward(RankContext& context) override {
    // The two inputs must not end up with one buffer: each may be added to later.
    if (Needs(0) && Needs(1)) {
      Tensor copy = Tensor::Empty(context.allocator(), Grad().shape(), Grad().dtype());
      copy.CopyFrom(Grad());
      Deliver(context, 1, std::move(copy));
    }
    Deliver(context, Needs(0) ? 0 : 1, Grad());
  }
};

// Inputs of both ops: x, gate, y, and with a norm shift, scale. Outputs: x', and with a norm h.
enum Input { kX, kGate, kY, kShift, kScale };

class GatedResidualNode : public Node {
 public:
  struct Saved {
    NormShape shape;
    Tensor gate = {};   // undefined: 1
    Tensor y = {};      // undefined where no gate wants a gradient
    Tensor r = {};      // x'; this and the rest are undefined without a norm
    Tensor stats = {};  // [2, N, T]: mean, 1/std
    Tensor scale = {};
  };

  explicit GatedResidualNode(Saved saved) : Node(saved.r.defined() ? 2 : 1), saved_(std::move(saved)) {}

  const char* name() const override { return saved_.r.defined() ? "gated_residual_norm" : "gated_residual"; }

  void Backward(RankContext& context) override {
    NormBwdArgs args{.shape = saved_.shape};
    Tensor dx = Grad(0);
    if (dx.defined()) {
      args.dr_in = dx.ref();  // overwritten by the sum of both paths
    } else {
      dx = Tensor::Empty(context.allocator(), Grad(1).shape(), Grad(1).dtype());
    }
    args.dx = dx.ref();
    if (saved_.r.defined()) {
      if (Grad(1).defined()) {
        SetNorm(context, args);
      } else {
        NoGradient(context, kShift);
        NoGradient(context, kScale);
      }
    }
    if (saved_.gate.defined()) {
      args.gate = RowsOf(saved_.gate);
      if (Needs(kGate)) {
        args.y = saved_.y.ref();
        args.dgate = RowsOf(Destination(context, kGate));
      }
    }
    Tensor dy;
    if (Needs(kY)) {
      dy = Tensor::Empty(context.allocator(), dx.shape(), dx.dtype());
      args.dy = dy.ref();
    }
    NormBwd(args, context);
    // A gradient that nobody has added to yet moves into its slot without a copy.
    if (Needs(kY)) Deliver(context, kY, std::move(dy));
    if (Needs(kX)) Deliver(context, kX, std::move(dx));
  }

 private:
  void SetNorm(RankContext& context, NormBwdArgs& args) {
    args.dh = Grad(1).ref();
    args.r = saved_.r.ref();
    args.mean = saved_.stats.data();
    args.rstd = saved_.stats.data() + saved_.stats.elements() / 2;
    args.scale = RowsOf(saved_.scale);
    args.scale_offset = 1;
    if (Needs(kShift)) args.dshift = RowsOf(Destination(context, kShift));
    if (Needs(kScale)) args.dscale = RowsOf(Destination(context, kScale));
  }

  // The producers of shift and scale run whether or not h was used: they must find a gradient.
  void NoGradient(RankContext& context, int input) {
    if (!Needs(input)) return;
    const GradDestination grad = Destination(context, input);
    if (!grad.accumulate) grad.tensor.Zero();
  }

  const Saved saved_;
};

// y is read again only for the gate's gradient.
Tensor YFor(const Var& gate, const Var& y) { return gate.requires_grad() ? y.value() : Tensor(); }

NormFwdArgs ResidualArgs(const Tensor& x, const Var& gate, const Tensor& y, const Tensor& r) {
  NormFwdArgs args{.shape = NormShapeOf(x)};
  args.x = x.ref();
  args.y = y.ref();
  if (gate.defined()) args.gate = RowsOf(gate.value());
  args.r = r.ref();
  return args;
}

void CheckResidual(const char* op, const Var& x, const Var& gate, const Var& y) {
  CheckTokens(op, x.value());
  CHECK(y.shape() == x.shape() && y.value().is_dense()) << "[" << op << "] x " << x.shape() << ", y " << y.shape();
  if (gate.defined()) CheckImageRows(op, "gate", x.value(), gate.value());
}

}  // namespace

Var Add(Tape& tape, const Var& a, const Var& b) {
  const NvtxRange range("add");
  CHECK(a.shape() == b.shape() && a.value().is_dense() && b.value().is_dense())
      << "[add] a " << a.shape() << ", b " << b.shape();
  Tensor out = Tensor::Empty(tape.allocator(), a.shape(), a.value().dtype());
  const AddArgs args{.a = a.value().ref(), .b = b.value().ref(), .out = out.ref(), .count = out.elements()};
  RankContext& context = tape.context();
  context.on_cuda() ? cuda::Add(args, context.cuda()) : cpu::Add(args, context.cpu());
  if (!tape.Records({&a, &b})) return Var(std::move(out));
  return tape.Record(std::make_unique<AddNode>(), {a, b}, {std::move(out)}, {})[0];
}

Var GatedResidual(Tape& tape, const Var& x_NTD, const Var& gate_ND, const Var& y_NTD) {
  const NvtxRange range("gated_residual");
  CheckResidual("gated_residual", x_NTD, gate_ND, y_NTD);
  const Tensor& x = x_NTD.value();
  Tensor out = Tensor::Empty(tape.allocator(), x.shape(), x.dtype());
  NormFwd(ResidualArgs(x, gate_ND, y_NTD.value(), out), tape.context());
  if (!tape.Records({&x_NTD, &gate_ND, &y_NTD})) return Var(std::move(out));
  GatedResidualNode::Saved saved{.shape = NormShapeOf(x), .gate = gate_ND.value(), .y = YFor(gate_ND, y_NTD)};
  std::vector<Tensor> kept{saved.gate, saved.y};
  return tape.Record(std::make_unique<GatedResidualNode>(std::move(saved)), {x_NTD, gate_ND, y_NTD}, {std::move(out)},
                     std::move(kept))[0];
}

ResidualNorm GatedResidualNorm(Tape& tape, const Var& x_NTD, const Var& gate_ND, const Var& y_NTD, const Var& shift_ND,
                               const Var& scale_ND, float eps) {
  const NvtxRange range("gated_residual_norm");
  CheckResidual("gated_residual_norm", x_NTD, gate_ND, y_NTD);
  const Tensor& x = x_NTD.value();
  CheckImageRows("gated_residual_norm", "shift", x, shift_ND.value());
  CheckImageRows("gated_residual_norm", "scale", x, scale_ND.value());
  const bool record = tape.Records({&x_NTD, &gate_ND, &y_NTD, &shift_ND, &scale_ND});
  Tensor r = Tensor::Empty(tape.allocator(), x.shape(), x.dtype());
  Tensor h = Tensor::Empty(tape.allocator(), x.shape(), x.dtype());
  Tensor stats = record ? Tensor::Empty(tape.allocator(), {2, x.dim(0), x.dim(1)}) : Tensor();
  NormFwdArgs args = ResidualArgs(x, gate_ND, y_NTD.value(), r);
  args.h = h.ref();
  args.eps = eps;
  args.scale = RowsOf(scale_ND.value());
  args.scale_offset = 1;
  args.shift = RowsOf(shift_ND.value());
  if (record) {
    args.mean = stats.data();
    args.rstd = stats.data() + stats.elements() / 2;
  }
  NormFwd(args, tape.context());
  if (!record) return {Var(std::move(r)), Var(std::move(h))};
  GatedResidualNode::Saved saved{.shape = NormShapeOf(x),
                                 .gate = gate_ND.value(),
                                 .y = YFor(gate_ND, y_NTD),
                                 .r = r,
                                 .stats = stats,
                                 .scale = scale_ND.value()};
  std::vector<Tensor> kept{saved.gate, saved.y, r, stats, saved.scale};
  const std::vector<Var> outputs =
      tape.Record(std::make_unique<GatedResidualNode>(std::move(saved)), {x_NTD, gate_ND, y_NTD, shift_ND, scale_ND},
                  {std::move(r), std::move(h)}, std::move(kept));
  return {outputs[0], outputs[1]};
}

}  // namespace shardit
