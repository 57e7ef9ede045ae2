// Layers: parameters under the names that weight files use, and the op that they feed. A layer registers its parameters
// in the list it is built with, which owns them; layers are cheap values.
#pragma once

#include <string>

#include "core/autograd/tape.h"
#include "core/nn/parameter.h"

namespace shardit {

// Linear layer `name`.weight (out, in) and `name`.bias (out): xavier-uniform weight and zero bias unless given
// otherwise.
struct LinearLayer {
  struct Options {
    Init weight_init;  // kZero kind stands for itself: pass XavierUniform explicitly or use Make()
    ShardSpec weight_shard = {};
    ShardSpec bias_shard = {};
  };
  Parameter* weight = nullptr;
  Parameter* bias = nullptr;

  static LinearLayer Make(ParameterList& parameters, const std::string& name, int64_t in, int64_t out);
  static LinearLayer Make(ParameterList& parameters, const std::string& name, int64_t in, int64_t out, Options options);
  Var operator()(Tape& tape, const Var& x) const;
};

// Affine layer norm over the last dim: `name`.weight (ones) and `name`.bias (zeros).
struct LayerNormLayer {
  Parameter* weight = nullptr;
  Parameter* bias = nullptr;

  // Over tokens: both parameters are per_token.
  static LayerNormLayer Make(ParameterList& parameters, const std::string& name, int64_t width);
  Var operator()(Tape& tape, const Var& x) const;
};

}  // namespace shardit
