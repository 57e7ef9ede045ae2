#include "model/dit.h"

#include <cmath>
#include <string>

#include "core/ops/embedding.h"
#include "core/ops/gated_residual.h"
#include "core/ops/layer_norm.h"
#include "core/ops/patch_embed.h"
#include "core/ops/patch_projection.h"
#include "core/ops/silu.h"
#include "core/ops/split.h"
#include "core/ops/timestep_embedding.h"
#include "core/ops/tokens.h"
#include "core/ops/unpatchify.h"
#include "model/dit_block.h"

namespace shardit {
namespace {

constexpr int kTimestepFrequencies = 256;
constexpr double kEmbeddingDeviation = 0.02;

bool UsesAdaLn(Conditioning conditioning) {
  return conditioning == Conditioning::kAdaLnZero || conditioning == Conditioning::kAdaLn;
}

}  // namespace

std::vector<float> SinCosPositionTable(int64_t width, int64_t grid) {
  const int64_t quarter = width / 4;
  std::vector<float> table(static_cast<size_t>(grid * grid * width));
  for (int64_t row = 0; row < grid; ++row) {
    for (int64_t column = 0; column < grid; ++column) {
      float* out = table.data() + (row * grid + column) * width;
      for (int64_t k = 0; k < quarter; ++k) {
        const double omega = std::pow(10000.0, -static_cast<double>(k) / static_cast<double>(quarter));
        out[k] = static_cast<float>(std::sin(static_cast<double>(column) * omega));
        out[quarter + k] = static_cast<float>(std::cos(static_cast<double>(column) * omega));
        out[2 * quarter + k] = static_cast<float>(std::sin(static_cast<double>(row) * omega));
        out[3 * quarter + k] = static_cast<float>(std::cos(static_cast<double>(row) * omega));
      }
    }
  }
  return table;
}

Dit::Dit(const DitConfig& config)
    : config_(config), position_values_(SinCosPositionTable(config.width, config.grid())) {
  CHECK(config.Validate().ok()) << config.Validate().message();
  const int64_t d = config.width, p = config.patch;
  position_table_ = Tensor::Borrow(position_values_.data(), {config.tokens(), d});

  patch_weight_ =
      &parameters_.Add("x_embedder.proj.weight", {d, config.channels, p, p}, Init::XavierUniform(config.patch_in(), d));
  patch_bias_ = &parameters_.Add("x_embedder.proj.bias", {d}, Init::Zero());
  const LinearLayer::Options embedding{.weight_init = Init::Normal(kEmbeddingDeviation)};
  timestep_in_ = LinearLayer::Make(parameters_, "t_embedder.mlp.0", kTimestepFrequencies, d, embedding);
  timestep_out_ = LinearLayer::Make(parameters_, "t_embedder.mlp.2", d, d, embedding);
  label_table_ = &parameters_.Add("y_embedder.embedding_table.weight", {config.label_rows(), d},
                                  Init::Normal(kEmbeddingDeviation));
  for (int64_t i = 0; i < config.depth; ++i) blocks_.push_back(std::make_unique<Block>(parameters_, config, i));

  const bool adaln = UsesAdaLn(config.conditioning);
  if (!adaln) final_norm_ = LayerNormLayer::Make(parameters_, "final_layer.norm_final", d);
  final_linear_ =
      LinearLayer::Make(parameters_, "final_layer.linear", d, config.patch_out(), {.weight_init = Init::Zero()});
  if (adaln) {
    final_modulation_ =
        LinearLayer::Make(parameters_, "final_layer.adaLN_modulation.1", d, 2 * d, {.weight_init = Init::Zero()});
  }
}

Dit::~Dit() = default;

Var Dit::Forward(Tape& tape, const DitInput& input, const DitForwardOptions& options) const {
  const Shape expected{input.x_NCHW.dim(0), config_.channels, config_.side, config_.side};
  CHECK(input.x_NCHW.shape() == expected) << "[dit] x " << input.x_NCHW.shape() << ", expected " << expected;
  const auto probe = [&](std::string_view name, const Var& x) {
    if (options.probe) options.probe(name, x.value());
  };

  const Condition condition = Embed(tape, input);
  const Tensor patches_NTE = Patchify(tape.context(), input.x_NCHW, static_cast<int>(config_.patch));
  Var x_NTD = PatchProjection(tape, patches_NTE, Var(*patch_weight_), Var(*patch_bias_), position_table_);
  const bool in_context = config_.conditioning == Conditioning::kInContext;
  if (in_context) x_NTD = AppendTokens(tape, x_NTD, condition.t_ND, condition.y_ND);
  probe("embed", x_NTD);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    x_NTD = blocks_[i]->Forward(tape, x_NTD, condition, options.recompute);
    probe("blocks." + std::to_string(i), x_NTD);
  }
  if (in_context) x_NTD = KeepTokens(tape, x_NTD, config_.tokens());

  const Var out_NTE = FinalLayer(tape, x_NTD, condition);
  const int grid = static_cast<int>(config_.grid());
  return Unpatchify(tape, out_NTE, static_cast<int>(config_.out_channels()), static_cast<int>(config_.patch), grid,
                    grid);
}

Dit::Condition Dit::Embed(Tape& tape, const DitInput& input) const {
  const Var frequencies(TimestepEmbedding(tape.context(), input.t_N, kTimestepFrequencies));
  const Var t_ND = timestep_out_(tape, Silu(tape, timestep_in_(tape, frequencies)));
  const Var y_ND = Embedding(tape, Var(*label_table_), input.y_N);
  Condition condition;
  switch (config_.conditioning) {
    case Conditioning::kAdaLnZero:
    case Conditioning::kAdaLn:
      condition.silu_c_ND = Silu(tape, Add(tape, t_ND, y_ND));
      break;
    case Conditioning::kCrossAttention:
      condition.tokens_N2D = StackTokens(tape, t_ND, y_ND);
      break;
    case Conditioning::kInContext:
      condition.t_ND = t_ND;
      condition.y_ND = y_ND;
      break;
  }
  return condition;
}

Var Dit::FinalLayer(Tape& tape, const Var& x_NTD, const Condition& condition) const {
  if (!UsesAdaLn(config_.conditioning)) return final_linear_(tape, final_norm_(tape, x_NTD));
  const std::vector<Var> parts = SplitColumns(tape, final_modulation_(tape, condition.silu_c_ND), 2);
  return final_linear_(tape, LayerNormModulate(tape, x_NTD, parts[0], parts[1]));
}

}  // namespace shardit
