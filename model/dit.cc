#include "model/dit.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/ops/embedding.h"
#include "core/ops/gated_residual.h"
#include "core/ops/layer_norm.h"
#include "core/ops/linear.h"
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
constexpr int64_t kConditionTokens = 2;  // t, y
constexpr int64_t kFinalParts = 2;       // modulation vectors of the final layer: shift, scale

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

DitInput InputFromHost(RankContext& context, const DitConfig& config, const float* x, const int64_t* t,
                       const int32_t* y, int64_t n) {
  const DitInput host{Tensor::Borrow(const_cast<float*>(x), {n, config.channels, config.side, config.side}),
                      Tensor::Borrow(const_cast<int64_t*>(t), {n}, DType::kI64),
                      Tensor::Borrow(const_cast<int32_t*>(y), {n}, DType::kI32)};
  if (!context.on_cuda()) return host;
  const auto placed = [&](const Tensor& tensor) {
    Tensor copy = Tensor::Empty(context.allocator(), tensor.shape(), tensor.dtype());
    copy.FromHost(tensor.raw());
    return copy;
  };
  return {placed(host.x_NCHW), placed(host.t_N), placed(host.y_N)};
}

Dit::Dit(const DitConfig& config)
    : config_(config), position_values_(SinCosPositionTable(config.width, config.grid())) {
  CHECK(config.Validate().ok()) << config.Validate().message();
  const int64_t d = config.width, p = config.patch;
  position_table_ = Tensor::Borrow(position_values_.data(), {config.tokens(), d});
  placed_table_ = position_table_;

  // Where tokens are cut over the tensor axis, each rank embeds and finishes its own.
  patch_weight_ = &parameters_.Add("x_embedder.proj.weight", {d, config.channels, p, p},
                                   Init::XavierUniform(config.patch_in(), d), {.per_token = true});
  patch_bias_ = &parameters_.Add("x_embedder.proj.bias", {d}, Init::Zero(), {.per_token = true});
  const LinearLayer::Options embedding{.weight_init = Init::Normal(kEmbeddingDeviation)};
  timestep_in_ = LinearLayer::Make(parameters_, "t_embedder.mlp.0", kTimestepFrequencies, d, embedding);
  timestep_out_ = LinearLayer::Make(parameters_, "t_embedder.mlp.2", d, d, embedding);
  label_table_ = &parameters_.Add("y_embedder.embedding_table.weight", {config.label_rows(), d},
                                  Init::Normal(kEmbeddingDeviation));
  for (int i = 0; i < config.depth; ++i) {
    parameters_.BeginUnit(1 + i);
    blocks_.push_back(std::make_unique<Block>(parameters_, config, i));
  }

  parameters_.BeginUnit(units() - 1);
  const bool adaln = UsesAdaLn(config.conditioning);
  if (!adaln) final_norm_ = LayerNormLayer::Make(parameters_, "final_layer.norm_final", d);
  final_linear_ = LinearLayer::Make(
      parameters_, "final_layer.linear", d, config.patch_out(),
      {.weight_init = Init::Zero(), .weight_shard = {.per_token = true}, .bias_shard = {.per_token = true}});
  if (adaln) {
    final_modulation_ = LinearLayer::Make(parameters_, "final_layer.adaLN_modulation.1", d, kFinalParts * d,
                                          {.weight_init = Init::Zero(),
                                           .weight_shard = {.logical_shape = {kFinalParts, d, d}, .dim = 1},
                                           .bias_shard = {.logical_shape = {kFinalParts, d}, .dim = 1}});
  }
}

Dit::~Dit() = default;

void Dit::PlaceConstants(Allocator& allocator) {
  if (allocator.device().is_cpu()) return;
  placed_table_ = Tensor::Empty(allocator, position_table_.shape());
  if (allocator.plan() == nullptr) placed_table_.FromHost(position_values_.data());
}

Var Dit::Forward(Tape& tape, const DitInput& input, const DitForwardOptions& options) const {
  return ForwardUnits(tape, {0, units()}, &input, {}, options).x_NTD;
}

int64_t Dit::flow_tokens() const {
  return config_.tokens() + (config_.conditioning == Conditioning::kInContext ? kConditionTokens : 0);
}

Shape Dit::condition_shape(int64_t images) const {
  switch (config_.conditioning) {
    case Conditioning::kAdaLnZero:
    case Conditioning::kAdaLn:
      return {images, config_.width};
    case Conditioning::kCrossAttention:
      return {images, kConditionTokens, config_.width};
    case Conditioning::kInContext:
      return {};
  }
  return {};
}

DitFlow Dit::ForwardUnits(Tape& tape, UnitRange part, const DitInput* input, DitFlow flow,
                          const DitForwardOptions& options) const {
  CHECK(0 <= part.begin && part.begin < part.end && part.end <= units())
      << "[dit] units " << part.begin << " to " << part.end << " of " << units();
  Seams seams{.axis = options.tensor_axis};
  for (int unit = part.begin; unit < part.end; ++unit) {
    if (options.units != nullptr) options.units->Enter(tape, unit);
    if (unit == 0) {
      flow = Embed(tape, *input, options);
    } else {
      if (!seams.condition.defined() && flow.condition.defined()) {
        seams.condition = seams.axis ? seams.axis->EnterCondition(tape, flow.condition) : flow.condition;
        seams.modulations = GatherModulations(tape.context(), {unit, part.end}, flow.condition, options);
        seams.first_unit = unit;
      }
      flow.x_NTD = unit == units() - 1 ? FinalLayer(tape, flow.x_NTD, seams)
                                       : blocks_[static_cast<size_t>(unit - 1)]->Forward(tape, flow.x_NTD, seams, unit,
                                                                                         options.recompute);
    }
    if (options.units != nullptr) flow.x_NTD = options.units->Leave(tape, unit, flow.x_NTD);
    if (!options.probe) continue;
    if (unit == 0) options.probe("embed", flow.x_NTD.value());
    if (unit > 0 && unit < units() - 1) options.probe("blocks." + std::to_string(unit - 1), flow.x_NTD.value());
  }
  return flow;
}

// All blocks share one condition: over a tensor axis their modulations travel in one gather, and on a GPU they are one
// product, whose rows are too few to fill it one by one. Not where later units' parameters are not in place yet.
std::vector<Tensor> Dit::GatherModulations(RankContext& context, UnitRange part, const Var& condition,
                                           const DitForwardOptions& options) const {
  if (options.units != nullptr || !UsesAdaLn(config_.conditioning)) return {};
  if (options.tensor_axis == nullptr && context.device().is_cpu()) return {};
  std::vector<LinearLayer> layers;
  for (int unit = part.begin; unit < std::min(part.end, units() - 1); ++unit) {
    layers.push_back(blocks_[static_cast<size_t>(unit - 1)]->modulation());
  }
  if (layers.empty()) return {};
  if (options.tensor_axis == nullptr) {
    std::vector<Tensor> weights, biases;
    for (const LinearLayer& layer : layers) {
      weights.push_back(layer.weight->value);
      biases.push_back(layer.bias->value);
    }
    return LinearValues(context, condition.value(), weights, biases);
  }
  return options.tensor_axis->GatherModulations(context, condition.value(), layers,
                                                ModulationParts(config_.conditioning));
}

Var Dit::Seams::Modulation(Tape& tape, const LinearLayer& layer, int64_t parts, int unit) const {
  const size_t index = static_cast<size_t>(unit - first_unit);
  if (axis == nullptr) {
    return index < modulations.size()
               ? LinearOf(tape, condition, Var(*layer.weight), Var(*layer.bias), modulations[index])
               : layer(tape, condition);
  }
  if (index < modulations.size()) return axis->Modulation(tape, condition, layer, parts, modulations[index]);
  return axis->Modulation(tape, condition, layer, parts,
                          axis->GatherModulations(tape.context(), condition.value(), {&layer, 1}, parts)[0]);
}

Var Dit::Seams::Row(Tape& tape, const LinearLayer& layer, const Var& x_NTD) const {
  if (axis == nullptr) return layer(tape, x_NTD);
  return axis->Leave(tape, Linear(tape, x_NTD, Var(*layer.weight), Var()), Var(*layer.bias));
}

DitFlow Dit::Embed(Tape& tape, const DitInput& input, const DitForwardOptions& options) const {
  const Shape expected{input.x_NCHW.dim(0), config_.channels, config_.side, config_.side};
  CHECK(input.x_NCHW.shape() == expected) << "[dit] x " << input.x_NCHW.shape() << ", expected " << expected;
  const DType dtype = patch_weight_->value.dtype();
  CHECK(tape.context().planning() || placed_table_.device() == tape.context().device())
      << "[dit] constants on " << placed_table_.device() << ", the rank computes on " << tape.context().device();
  const Var frequencies(TimestepEmbedding(tape.context(), input.t_N, kTimestepFrequencies, dtype));
  const Var t_ND = timestep_out_(tape, Silu(tape, timestep_in_(tape, frequencies)));
  const Var y_ND = Embedding(tape, Var(*label_table_), input.y_N);
  const Tensor patches_NTE = Patchify(tape.context(), input.x_NCHW, config_.patch, dtype);
  DitFlow flow;
  flow.x_NTD = PatchProjection(tape, patches_NTE, Var(*patch_weight_), Var(*patch_bias_), placed_table_);
  const TensorAxis* axis = options.tensor_axis;
  switch (config_.conditioning) {
    case Conditioning::kAdaLnZero:
    case Conditioning::kAdaLn:
      flow.condition = Silu(tape, Add(tape, t_ND, y_ND));
      break;
    case Conditioning::kCrossAttention:
      flow.condition = StackTokens(tape, t_ND, y_ND);
      break;
    case Conditioning::kInContext: {
      // Only the ranks whose token range holds them see their gradient, so it is summed over the axis.
      const auto token = [&](const Var& c_ND) { return axis ? axis->EnterTokens(tape, c_ND) : c_ND; };
      flow.x_NTD = AppendTokens(tape, flow.x_NTD, token(t_ND), token(y_ND));
      break;
    }
  }
  if (axis != nullptr) flow.x_NTD = axis->ScatterTokens(tape, flow.x_NTD);
  return flow;
}

Var Dit::FinalLayer(Tape& tape, const Var& x_NTD, const Seams& seams) const {
  Var h_NTD;
  if (UsesAdaLn(config_.conditioning)) {
    const Var modulation = seams.Modulation(tape, final_modulation_, kFinalParts, units() - 1);
    const std::vector<Var> parts = SplitColumns(tape, modulation, kFinalParts);
    h_NTD = LayerNormModulate(tape, x_NTD, parts[0], parts[1]);
  } else {
    h_NTD = final_norm_(tape, x_NTD);
  }
  Var out_NTE = final_linear_(tape, h_NTD);
  if (seams.axis != nullptr) out_NTE = seams.axis->GatherTokens(tape, out_NTE);
  if (config_.conditioning == Conditioning::kInContext) out_NTE = KeepTokens(tape, out_NTE, config_.tokens());
  const int grid = static_cast<int>(config_.grid());
  return Unpatchify(tape, out_NTE, static_cast<int>(config_.out_channels()), static_cast<int>(config_.patch), grid,
                    grid);
}

}  // namespace shardit
