// TensorAxis: the seams between a model and the tensor axis. A model calls them where values pass between "whole on
// every rank" and "a part on each": before layers that are cut on their outputs, after layers that are cut on their
// inputs, and around the conditioning. What a seam does is the axis's business; a model on one rank has no axis and
// skips them.
//
// Sources: tensor parallelism, Shoeybi et al. (arXiv 1909.08053), section 3; sequence parallelism, Korthikanti et al.
// (arXiv 2205.05198), section 4.2.2.
//
// "Tokens" below are [N, T, D]. Under sequence parallelism every rank holds its own range of the T tokens between the
// seams ("own tokens", uneven where the axis does not divide T); otherwise own tokens are all of them, on every rank.
#pragma once

#include <span>
#include <vector>

#include "core/autograd/tape.h"
#include "core/nn/layers.h"

namespace shardit {

class TensorAxis {
 public:
  virtual ~TensorAxis() = default;

  // Own tokens -> all tokens, before column-parallel layers (qkv, fc1). Backward sums the gradient over the axis.
  virtual Var Enter(Tape& tape, const Var& x_NTD) const = 0;
  // Partial sums of all tokens (from proj, fc2 without their bias) -> own tokens of the sum, plus `bias` [D], added
  // once. Takes the elements of `partial` over: nothing else may read them, before or in backward. Backward gives every
  // rank the gradient of all tokens, and the bias its column sums over own tokens.
  virtual Var Leave(Tape& tape, const Var& partial_NTD, const Var& bias_D) const = 0;

  // A condition ([N, D] or [N, 2, D]) that every rank holds whole and column-parallel layers read: the identity, whose
  // backward sums over the axis.
  virtual Var EnterCondition(Tape& tape, const Var& c) const = 0;

  // The same for a condition [N, D] that becomes a token, of which every rank may hold another part of the gradient:
  // sums it only where tokens are cut.
  virtual Var EnterTokens(Tape& tape, const Var& c_ND) const = 0;

  // adaLN: `layers`' outputs on c [N, D], each whole ([N, parts * D]) although its rows are cut over the axis: one
  // gather for all of them. Values only; Modulation records the node of one.
  virtual std::vector<Tensor> GatherModulations(RankContext& context, const Tensor& c_ND,
                                                std::span<const LinearLayer> layers, int64_t parts) const = 0;
  // Node of one layer whose gathered output is `value`. Its weight gradients are those of this rank's rows; c's
  // gradient is partial (c came through EnterCondition). Under sequence parallelism the gradient of `value` is partial
  // and is summed over the axis first.
  virtual Var Modulation(Tape& tape, const Var& c_ND, const LinearLayer& layer, int64_t parts, Tensor value) const = 0;

  // All tokens, equal on every rank -> own tokens. Backward: the gradient of own tokens, zero elsewhere (partial).
  virtual Var ScatterTokens(Tape& tape, const Var& x_NTD) const = 0;
  // Own tokens -> all tokens. Backward takes the own range of a gradient that is equal on every rank.
  virtual Var GatherTokens(Tape& tape, const Var& x_NTD) const = 0;
};

}  // namespace shardit
