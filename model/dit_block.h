// One transformer block of each conditioning design (figure 3 of arXiv 2212.09748). Private to model/dit.cc and its
// tests.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/nn/layers.h"
#include "core/nn/tensor_axis.h"
#include "model/dit.h"

namespace shardit {

// What blocks and the final layer see of the conditioning and of the tensor axis, during one call.
struct Dit::Seams {
  const TensorAxis* axis = nullptr;
  Var condition = {};                    // as in DitFlow, ready for column-parallel layers
  std::vector<Tensor> modulations = {};  // of units first_unit, first_unit + 1, ..., as far as they were gathered
  int first_unit = 0;

  // Output of unit `unit`'s adaLN layer, [N, parts * D].
  Var Modulation(Tape& tape, const LinearLayer& layer, int64_t parts, int unit) const;
  // The value that column-parallel layers read of own tokens.
  Var Enter(Tape& tape, const Var& x_NTD) const { return axis ? axis->Enter(tape, x_NTD) : x_NTD; }
  // A row-parallel layer: its bias is added once, after the sum.
  Var Row(Tape& tape, const LinearLayer& layer, const Var& x_NTD) const;
};

// Modulation vectors a block takes from its adaLN layer.
inline int64_t ModulationParts(Conditioning conditioning) { return conditioning == Conditioning::kAdaLnZero ? 6 : 4; }

struct Dit::Block {
  // Registers the block's parameters under "blocks.<index>.".
  Block(ParameterList& parameters, const DitConfig& config, int64_t index);

  Var Forward(Tape& tape, const Var& x_NTD, const Seams& seams, int unit, RecomputeMode recompute) const;
  const LinearLayer& modulation() const { return modulation_; }

 private:
  // `condition` is the adaLN layer's output, or the condition tokens of cross-attention.
  Var Run(Tape& tape, const Var& x_NTD, const Var& condition, const Seams& seams, bool recompute_mlp) const;
  Var AdaLn(Tape& tape, const Var& x_NTD, const Var& modulation, const Seams& seams, bool recompute_mlp) const;
  Var PlainNorm(Tape& tape, const Var& x_NTD, const Var& tokens_N2D, const Seams& seams, bool recompute_mlp) const;
  Var SelfAttentionLayer(Tape& tape, const Var& h_NTD, const Seams& seams) const;
  Var MlpLayer(Tape& tape, const Var& h_NTD, const Seams& seams, bool recompute) const;

  const Conditioning conditioning_;
  const int64_t head_dim_;
  LinearLayer modulation_;                     // adaLN designs
  LayerNormLayer norm1_, norm_cross_, norm2_;  // the other two
  LinearLayer qkv_, proj_;
  LinearLayer cross_q_, cross_kv_, cross_proj_;  // cross-attention
  LinearLayer fc1_, fc2_;
  std::vector<Leaf*> leaves_;  // all but the adaLN layer's
};

}  // namespace shardit
