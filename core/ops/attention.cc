#include "core/ops/attention.h"

#include <cmath>
#include <memory>
#include <utility>

#include "core/cuda/nvtx.h"
#include "core/ops/attention_kernel.h"

namespace shardit {
namespace {

// Part `part` of a [N, T, parts, H, K] tensor.
HeadsView Part(const Tensor& tensor, int64_t part, int64_t width, int64_t heads) {
  return {tensor.ref().At(part * width), tensor.stride(0), tensor.stride(1), width / heads};
}

// Self-attention has one input that holds q, k and v; cross-attention has q in one and k, v in another.
struct Operands {
  Tensor q;
  Tensor kv;
  int64_t first_kv_part = 0;  // part of kv that is the keys
  int64_t width = 0;
  int64_t heads = 0;

  AttentionShape shape() const {
    const int64_t head_dim = width / heads;
    return {.batch = q.dim(0),
            .heads = heads,
            .head_dim = head_dim,
            .queries = q.dim(1),
            .keys = kv.dim(1),
            .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)))};
  }
};

class AttentionNode : public Node {
 public:
  AttentionNode(Operands operands, Tensor out, Tensor lse)
      : Node(1), operands_(std::move(operands)), out_(std::move(out)), lse_(std::move(lse)) {}

  const char* name() const override { return operands_.first_kv_part == 1 ? "self_attention" : "cross_attention"; }

  void Backward(RankContext& context) override {
    const auto& [q, kv, first, width, heads] = operands_;
    const bool self = first == 1;
    // The kernel makes all three gradients; one that nobody wants goes to scratch.
    const auto destination = [&](int input, const Tensor& value) {
      return Needs(input) ? Destination(context, input)
                          : GradDestination{Tensor::Empty(context.allocator(), value.shape(), value.dtype())};
    };
    const GradDestination dq = destination(0, q);
    const GradDestination dkv = self ? dq : destination(1, kv);
    CHECK(!dq.accumulate && !dkv.accumulate) << "[" << name() << "] its inputs have other consumers";
    AttentionBwdArgs args{.shape = operands_.shape()};
    args.q = Part(q, 0, width, heads);
    args.k = Part(kv, first, width, heads);
    args.v = Part(kv, first + 1, width, heads);
    args.out = Part(out_, 0, width, heads);
    args.d_out = Part(Grad(), 0, width, heads);
    args.lse = lse_.data();
    args.dq = Part(dq.tensor, 0, width, heads);
    args.dk = Part(dkv.tensor, first, width, heads);
    args.dv = Part(dkv.tensor, first + 1, width, heads);
    AttentionBwd(args, context);
  }

 private:
  Operands operands_;
  Tensor out_;
  Tensor lse_;
};

Var Attention(Tape& tape, Operands operands, std::vector<Var> inputs) {
  const NvtxRange range("attention");
  const auto& [q, kv, first, width, heads] = operands;
  Tensor out = Tensor::Empty(tape.allocator(), {q.dim(0), q.dim(1), width}, q.dtype());
  const bool record = tape.Records({&inputs.front(), &inputs.back()});
  Tensor lse = record ? Tensor::Empty(tape.allocator(), {q.dim(0), heads, q.dim(1)}) : Tensor();
  AttentionFwdArgs args{.shape = operands.shape()};
  args.q = Part(q, 0, width, heads);
  args.k = Part(kv, first, width, heads);
  args.v = Part(kv, first + 1, width, heads);
  args.out = Part(out, 0, width, heads);
  args.lse = record ? lse.data() : nullptr;
  AttentionFwd(args, tape.context());
  if (!record) return Var(std::move(out));
  std::vector<Tensor> saved{q, kv, out, lse};
  auto node = std::make_unique<AttentionNode>(std::move(operands), out, lse);
  return tape.Record(std::move(node), std::move(inputs), {out}, std::move(saved))[0];
}

}  // namespace

Var SelfAttention(Tape& tape, const Var& qkv_NTE, int64_t heads) {
  const Tensor& qkv = qkv_NTE.value();
  CHECK(qkv.ndim() == 3 && qkv.dim(2) % (3 * heads) == 0)
      << "[self_attention] qkv " << qkv.shape() << ", heads " << heads;
  return Attention(tape, {qkv, qkv, 1, qkv.dim(2) / 3, heads}, {qkv_NTE});
}

Var CrossAttention(Tape& tape, const Var& q_NTD, const Var& kv_NSE, int64_t heads) {
  const Tensor& q = q_NTD.value();
  const Tensor& kv = kv_NSE.value();
  CHECK(q.ndim() == 3 && kv.ndim() == 3 && kv.dim(0) == q.dim(0) && kv.dim(2) == 2 * q.dim(2) && q.dim(2) % heads == 0)
      << "[cross_attention] q " << q.shape() << ", kv " << kv.shape() << ", heads " << heads;
  return Attention(tape, {q, kv, 0, q.dim(2), heads}, {q_NTD, kv_NSE});
}

}  // namespace shardit
