// One transformer block of each conditioning design (figure 3 of arXiv 2212.09748). Private to model/dit.cc and its
// tests.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/nn/layers.h"
#include "model/dit.h"

namespace shardit {

// What a block sees of timestep and label. Only the member that the design uses is defined.
struct Dit::Condition {
  Var silu_c_ND;   // adaLN designs: SiLU(t + y), shared by every block's modulation layer
  Var tokens_N2D;  // cross-attention: the raw tokens t, y
  Var t_ND, y_ND;  // in-context: appended to the sequence once, before the first block
};

struct Dit::Block {
  // Registers the block's parameters under "blocks.<index>.".
  Block(ParameterList& parameters, const DitConfig& config, int64_t index);

  Var Forward(Tape& tape, const Var& x_NTD, const Condition& condition, RecomputeMode recompute) const;
  // Every parameter of this block, in registration order.
  std::span<Leaf* const> leaves() const { return leaves_; }

 private:
  Var Run(Tape& tape, const Var& x_NTD, const Condition& condition, bool recompute_mlp) const;
  Var AdaLn(Tape& tape, const Var& x_NTD, const Condition& condition, bool recompute_mlp) const;
  Var PlainNorm(Tape& tape, const Var& x_NTD, const Condition& condition, bool recompute_mlp) const;
  Var SelfAttentionLayer(Tape& tape, const Var& h_NTD) const;
  Var MlpLayer(Tape& tape, const Var& h_NTD, bool recompute) const;

  const Conditioning conditioning_;
  const int64_t heads_;
  LinearLayer modulation_;                     // adaLN designs
  LayerNormLayer norm1_, norm_cross_, norm2_;  // the other two
  LinearLayer qkv_, proj_;
  LinearLayer cross_q_, cross_kv_, cross_proj_;  // cross-attention
  LinearLayer fc1_, fc2_;
  std::vector<Leaf*> leaves_;
};

}  // namespace shardit
