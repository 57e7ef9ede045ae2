#include "model/dit_block.h"

#include "core/autograd/recompute.h"
#include "core/ops/attention.h"
#include "core/ops/gated_residual.h"
#include "core/ops/layer_norm.h"
#include "core/ops/mlp.h"
#include "core/ops/split.h"

namespace shardit {
namespace {

// Heads on this rank: the rows of a q, k and v projection say how it is cut.
int64_t LocalHeads(const LinearLayer& layer, int64_t parts, int64_t head_dim) {
  return layer.weight->value.dim(0) / (parts * head_dim);
}

}  // namespace

Dit::Block::Block(ParameterList& parameters, const DitConfig& config, int64_t index)
    : conditioning_(config.conditioning), head_dim_(config.head_dim()) {
  const int64_t d = config.width, h = config.heads, k = config.head_dim(), f = config.mlp_width();
  const std::string prefix = "blocks." + std::to_string(index) + ".";
  const size_t first = parameters.size();
  const bool plain_norms = conditioning_ == Conditioning::kCrossAttention || conditioning_ == Conditioning::kInContext;

  // Column-parallel layers are cut on their outputs (heads, hidden width), row-parallel ones on their inputs; a
  // row-parallel bias is whole everywhere and added once, after the sum, to each rank's own tokens.
  const ShardSpec row_bias{.per_token = true};
  if (plain_norms) norm1_ = LayerNormLayer::Make(parameters, prefix + "norm1", d);
  qkv_ = LinearLayer::Make(
      parameters, prefix + "attn.qkv", d, 3 * d,
      {.weight_init = Init::XavierUniform(d, 3 * d), .weight_shard = {{3, h, k, d}, 1}, .bias_shard = {{3, h, k}, 1}});
  proj_ = LinearLayer::Make(
      parameters, prefix + "attn.proj", d, d,
      {.weight_init = Init::XavierUniform(d, d), .weight_shard = {{d, h, k}, 1}, .bias_shard = row_bias});
  if (conditioning_ == Conditioning::kCrossAttention) {
    norm_cross_ = LayerNormLayer::Make(parameters, prefix + "norm_cross", d);
    cross_q_ = LinearLayer::Make(
        parameters, prefix + "cross_attn.q", d, d,
        {.weight_init = Init::XavierUniform(d, d), .weight_shard = {{h, k, d}, 0}, .bias_shard = {{h, k}, 0}});
    cross_kv_ = LinearLayer::Make(parameters, prefix + "cross_attn.kv", d, 2 * d,
                                  {.weight_init = Init::XavierUniform(d, 2 * d),
                                   .weight_shard = {{2, h, k, d}, 1},
                                   .bias_shard = {{2, h, k}, 1}});
    cross_proj_ = LinearLayer::Make(
        parameters, prefix + "cross_attn.proj", d, d,
        {.weight_init = Init::XavierUniform(d, d), .weight_shard = {{d, h, k}, 1}, .bias_shard = row_bias});
  }
  if (plain_norms) norm2_ = LayerNormLayer::Make(parameters, prefix + "norm2", d);
  fc1_ = LinearLayer::Make(
      parameters, prefix + "mlp.fc1", d, f,
      {.weight_init = Init::XavierUniform(d, f), .weight_shard = {{f, d}, 0}, .bias_shard = {{f}, 0}});
  fc2_ = LinearLayer::Make(
      parameters, prefix + "mlp.fc2", f, d,
      {.weight_init = Init::XavierUniform(f, d), .weight_shard = {{d, f}, 1}, .bias_shard = row_bias});
  for (size_t i = first; i < parameters.size(); ++i) leaves_.push_back(parameters.all()[i].get());
  if (!plain_norms) {
    const int64_t parts = ModulationParts(conditioning_);
    modulation_ = LinearLayer::Make(
        parameters, prefix + "adaLN_modulation.1", d, parts * d,
        {.weight_init = Init::Zero(), .weight_shard = {{parts, d, d}, 1}, .bias_shard = {{parts, d}, 1}});
  }
}

Var Dit::Block::Forward(Tape& tape, const Var& x_NTD, const Seams& seams, int unit, RecomputeMode recompute) const {
  const bool adaln = conditioning_ == Conditioning::kAdaLnZero || conditioning_ == Conditioning::kAdaLn;
  const Var condition =
      adaln ? seams.Modulation(tape, modulation_, ModulationParts(conditioning_), unit) : seams.condition;
  if (recompute != RecomputeMode::kFull) {
    return Run(tape, x_NTD, condition, seams, recompute == RecomputeMode::kSelective);
  }
  std::vector<Var> inputs{x_NTD};
  if (condition.defined()) inputs.push_back(condition);
  return Recompute(tape, inputs, leaves_, [this, axis = seams.axis](Tape& inner, std::span<const Var> vars) {
    return Run(inner, vars[0], vars.size() == 2 ? vars[1] : Var(), {.axis = axis}, false);
  });
}

Var Dit::Block::Run(Tape& tape, const Var& x_NTD, const Var& condition, const Seams& seams, bool recompute_mlp) const {
  switch (conditioning_) {
    case Conditioning::kAdaLnZero:
    case Conditioning::kAdaLn:
      return AdaLn(tape, x_NTD, condition, seams, recompute_mlp);
    case Conditioning::kCrossAttention:
    case Conditioning::kInContext:
      return PlainNorm(tape, x_NTD, condition, seams, recompute_mlp);
  }
  return {};
}

// Parts in the order of the published weights: shift, scale and (adaLN-Zero) gate of the attention branch, then of the
// MLP.
Var Dit::Block::AdaLn(Tape& tape, const Var& x_NTD, const Var& modulation, const Seams& seams,
                      bool recompute_mlp) const {
  const bool gated = conditioning_ == Conditioning::kAdaLnZero;
  const std::vector<Var> parts = SplitColumns(tape, modulation, ModulationParts(conditioning_));
  const auto part = [&](int branch, int which) { return parts[static_cast<size_t>(branch * (gated ? 3 : 2) + which)]; };
  const auto gate = [&](int branch) { return gated ? part(branch, 2) : Var(); };

  const Var h = LayerNormModulate(tape, x_NTD, part(0, 0), part(0, 1));
  const Var attention = SelfAttentionLayer(tape, h, seams);
  const ResidualNorm middle = GatedResidualNorm(tape, x_NTD, gate(0), attention, part(1, 0), part(1, 1));
  const Var mlp = MlpLayer(tape, middle.h, seams, recompute_mlp);
  return gated ? GatedResidual(tape, middle.x, gate(1), mlp) : Add(tape, middle.x, mlp);
}

Var Dit::Block::PlainNorm(Tape& tape, const Var& x_NTD, const Var& tokens_N2D, const Seams& seams,
                          bool recompute_mlp) const {
  Var x = Add(tape, x_NTD, SelfAttentionLayer(tape, norm1_(tape, x_NTD), seams));
  if (conditioning_ == Conditioning::kCrossAttention) {
    const Var q = cross_q_(tape, seams.Enter(tape, norm_cross_(tape, x)));
    const Var kv = cross_kv_(tape, tokens_N2D);
    const Var attended = CrossAttention(tape, q, kv, LocalHeads(cross_q_, 1, head_dim_));
    x = Add(tape, x, seams.Row(tape, cross_proj_, attended));
  }
  return Add(tape, x, MlpLayer(tape, norm2_(tape, x), seams, recompute_mlp));
}

Var Dit::Block::SelfAttentionLayer(Tape& tape, const Var& h_NTD, const Seams& seams) const {
  const Var qkv = qkv_(tape, seams.Enter(tape, h_NTD));
  return seams.Row(tape, proj_, SelfAttention(tape, qkv, LocalHeads(qkv_, 3, head_dim_)));
}

Var Dit::Block::MlpLayer(Tape& tape, const Var& h_NTD, const Seams& seams, bool recompute) const {
  // Over a tensor axis the second bias waits for the sum.
  const auto mlp = [this, whole = seams.axis == nullptr](Tape& on, std::span<const Var> vars) {
    return Mlp(on, vars[0], Var(*fc1_.weight), Var(*fc1_.bias), Var(*fc2_.weight), whole ? Var(*fc2_.bias) : Var());
  };
  const Var in = seams.Enter(tape, h_NTD);
  Leaf* const leaves[] = {fc1_.weight, fc1_.bias, fc2_.weight, fc2_.bias};
  const std::span<Leaf* const> used(leaves, seams.axis == nullptr ? 4 : 3);
  const Var out = recompute ? Recompute(tape, {in}, used, mlp) : mlp(tape, {&in, 1});
  return seams.axis == nullptr ? out : seams.axis->Leave(tape, out, Var(*fc2_.bias));
}

}  // namespace shardit
