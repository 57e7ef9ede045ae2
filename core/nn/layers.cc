#include "core/nn/layers.h"

#include <utility>

#include "core/ops/layer_norm.h"
#include "core/ops/linear.h"

namespace shardit {

LinearLayer LinearLayer::Make(ParameterList& parameters, const std::string& name, int64_t in, int64_t out) {
  return Make(parameters, name, in, out, {.weight_init = Init::XavierUniform(in, out)});
}

LinearLayer LinearLayer::Make(ParameterList& parameters, const std::string& name, int64_t in, int64_t out,
                              Options options) {
  LinearLayer layer;
  layer.weight = &parameters.Add(name + ".weight", {out, in}, options.weight_init, std::move(options.weight_shard));
  layer.bias = &parameters.Add(name + ".bias", {out}, Init::Zero(), std::move(options.bias_shard));
  return layer;
}

Var LinearLayer::operator()(Tape& tape, const Var& x) const { return Linear(tape, x, Var(*weight), Var(*bias)); }

LayerNormLayer LayerNormLayer::Make(ParameterList& parameters, const std::string& name, int64_t width) {
  LayerNormLayer layer;
  layer.weight = &parameters.Add(name + ".weight", {width}, Init::One(), {.per_token = true});
  layer.bias = &parameters.Add(name + ".bias", {width}, Init::Zero(), {.per_token = true});
  return layer;
}

Var LayerNormLayer::operator()(Tape& tape, const Var& x) const { return LayerNorm(tape, x, Var(*weight), Var(*bias)); }

}  // namespace shardit
