#include "model/dit_block.h"

#include "core/autograd/recompute.h"
#include "core/ops/attention.h"
#include "core/ops/gated_residual.h"
#include "core/ops/layer_norm.h"
#include "core/ops/mlp.h"
#include "core/ops/split.h"

namespace shardit {
namespace {

// Modulation vectors a block takes from its adaLN layer.
int64_t ModulationParts(Conditioning conditioning) { return conditioning == Conditioning::kAdaLnZero ? 6 : 4; }

}  // namespace

Dit::Block::Block(ParameterList& parameters, const DitConfig& config, int64_t index)
    : conditioning_(config.conditioning), heads_(config.heads) {
  const int64_t d = config.width, h = config.heads, k = config.head_dim(), f = config.mlp_width();
  const std::string prefix = "blocks." + std::to_string(index) + ".";
  const size_t first = parameters.size();
  const bool plain_norms = conditioning_ == Conditioning::kCrossAttention || conditioning_ == Conditioning::kInContext;

  // Column-parallel layers are cut on their outputs (heads, hidden width), row-parallel ones on their inputs; a
  // row-parallel bias is whole everywhere and added once, after the sum.
  if (plain_norms) norm1_ = LayerNormLayer::Make(parameters, prefix + "norm1", d);
  qkv_ = LinearLayer::Make(
      parameters, prefix + "attn.qkv", d, 3 * d,
      {.weight_init = Init::XavierUniform(d, 3 * d), .weight_shard = {{3, h, k, d}, 1}, .bias_shard = {{3, h, k}, 1}});
  proj_ = LinearLayer::Make(parameters, prefix + "attn.proj", d, d,
                            {.weight_init = Init::XavierUniform(d, d), .weight_shard = {{d, h, k}, 1}});
  if (conditioning_ == Conditioning::kCrossAttention) {
    norm_cross_ = LayerNormLayer::Make(parameters, prefix + "norm_cross", d);
    cross_q_ = LinearLayer::Make(
        parameters, prefix + "cross_attn.q", d, d,
        {.weight_init = Init::XavierUniform(d, d), .weight_shard = {{h, k, d}, 0}, .bias_shard = {{h, k}, 0}});
    cross_kv_ = LinearLayer::Make(parameters, prefix + "cross_attn.kv", d, 2 * d,
                                  {.weight_init = Init::XavierUniform(d, 2 * d),
                                   .weight_shard = {{2, h, k, d}, 1},
                                   .bias_shard = {{2, h, k}, 1}});
    cross_proj_ = LinearLayer::Make(parameters, prefix + "cross_attn.proj", d, d,
                                    {.weight_init = Init::XavierUniform(d, d), .weight_shard = {{d, h, k}, 1}});
  }
  if (plain_norms) norm2_ = LayerNormLayer::Make(parameters, prefix + "norm2", d);
  fc1_ = LinearLayer::Make(
      parameters, prefix + "mlp.fc1", d, f,
      {.weight_init = Init::XavierUniform(d, f), .weight_shard = {{f, d}, 0}, .bias_shard = {{f}, 0}});
  fc2_ = LinearLayer::Make(parameters, prefix + "mlp.fc2", f, d,
                           {.weight_init = Init::XavierUniform(f, d), .weight_shard = {{d, f}, 1}});
  if (!plain_norms) {
    const int64_t parts = ModulationParts(conditioning_);
    modulation_ = LinearLayer::Make(
        parameters, prefix + "adaLN_modulation.1", d, parts * d,
        {.weight_init = Init::Zero(), .weight_shard = {{parts, d, d}, 1}, .bias_shard = {{parts, d}, 1}});
  }
  for (size_t i = first; i < parameters.size(); ++i) leaves_.push_back(parameters.all()[i].get());
}

Var Dit::Block::Forward(Tape& tape, const Var& x_NTD, const Condition& condition, RecomputeMode recompute) const {
  if (recompute != RecomputeMode::kFull) return Run(tape, x_NTD, condition, recompute == RecomputeMode::kSelective);
  const bool cross = conditioning_ == Conditioning::kCrossAttention;
  std::vector<Var> inputs{x_NTD};
  if (cross) inputs.push_back(condition.tokens_N2D);
  if (condition.silu_c_ND.defined()) inputs.push_back(condition.silu_c_ND);
  return Recompute(tape, inputs, leaves_, [this, cross](Tape& inner, std::span<const Var> vars) {
    Condition inner_condition;
    if (vars.size() == 2) (cross ? inner_condition.tokens_N2D : inner_condition.silu_c_ND) = vars[1];
    return Run(inner, vars[0], inner_condition, false);
  });
}

Var Dit::Block::Run(Tape& tape, const Var& x_NTD, const Condition& condition, bool recompute_mlp) const {
  switch (conditioning_) {
    case Conditioning::kAdaLnZero:
    case Conditioning::kAdaLn:
      return AdaLn(tape, x_NTD, condition, recompute_mlp);
    case Conditioning::kCrossAttention:
    case Conditioning::kInContext:
      return PlainNorm(tape, x_NTD, condition, recompute_mlp);
  }
  return {};
}

// Parts in the order of the published weights: shift, scale and (adaLN-Zero) gate of the attention branch, then of the
// MLP.
Var Dit::Block::AdaLn(Tape& tape, const Var& x_NTD, const Condition& condition, bool recompute_mlp) const {
  const bool gated = conditioning_ == Conditioning::kAdaLnZero;
  const std::vector<Var> parts =
      SplitColumns(tape, modulation_(tape, condition.silu_c_ND), ModulationParts(conditioning_));
  const auto part = [&](int branch, int which) { return parts[static_cast<size_t>(branch * (gated ? 3 : 2) + which)]; };
  const auto gate = [&](int branch) { return gated ? part(branch, 2) : Var(); };

  const Var h = LayerNormModulate(tape, x_NTD, part(0, 0), part(0, 1));
  const Var attention = SelfAttentionLayer(tape, h);
  const ResidualNorm middle = GatedResidualNorm(tape, x_NTD, gate(0), attention, part(1, 0), part(1, 1));
  const Var mlp = MlpLayer(tape, middle.h, recompute_mlp);
  return gated ? GatedResidual(tape, middle.x, gate(1), mlp) : Add(tape, middle.x, mlp);
}

Var Dit::Block::PlainNorm(Tape& tape, const Var& x_NTD, const Condition& condition, bool recompute_mlp) const {
  Var x = Add(tape, x_NTD, SelfAttentionLayer(tape, norm1_(tape, x_NTD)));
  if (conditioning_ == Conditioning::kCrossAttention) {
    const Var q = cross_q_(tape, norm_cross_(tape, x));
    const Var kv = cross_kv_(tape, condition.tokens_N2D);
    x = Add(tape, x, cross_proj_(tape, CrossAttention(tape, q, kv, heads_)));
  }
  return Add(tape, x, MlpLayer(tape, norm2_(tape, x), recompute_mlp));
}

Var Dit::Block::SelfAttentionLayer(Tape& tape, const Var& h_NTD) const {
  return proj_(tape, SelfAttention(tape, qkv_(tape, h_NTD), heads_));
}

Var Dit::Block::MlpLayer(Tape& tape, const Var& h_NTD, bool recompute) const {
  const auto mlp = [this](Tape& on, std::span<const Var> vars) {
    return Mlp(on, vars[0], Var(*fc1_.weight), Var(*fc1_.bias), Var(*fc2_.weight), Var(*fc2_.bias));
  };
  if (!recompute) return mlp(tape, {&h_NTD, 1});
  Leaf* const leaves[] = {fc1_.weight, fc1_.bias, fc2_.weight, fc2_.bias};
  return Recompute(tape, {h_NTD}, leaves, mlp);
}

}  // namespace shardit
