// The bytes of a training step in closed form, beside which a plan puts what it counted. Sources: ZeRO, Rajbhandari et
// al. (arXiv 1910.02054), section 7; tensor parallelism, Shoeybi et al. (arXiv 1909.08053), section 3; sequence
// parallelism, Korthikanti et al. (arXiv 2205.05198), section 4.2.2.
//
// n data ranks, t tensor ranks, m micro-batches of b images; w bytes of a weight or activation (4, in BF16 2),
// gradients of weights and of the condition have 4; P elements of the rank's flat range (padding included); A = w b T D
// bytes of tokens (in-context: T + 2), |c| of the condition, |dc| of its gradient; L blocks of s sublayers here (3 for
// cross-attention, else 2). A rank sends in a step
//
//   dp   (n-1)/n P times  stage 0: 8    1: 4 + w    2: 4m + w    3: (4 + 2w) m
//   tp   m L 4s (t-1)/t A, with tokens whole or cut; full recompute: half as much again
//        adaLN: m (t-1)/t w b D (parts L [+ 2 with the final layer]), twice with cut tokens
//        condition: m 2 (t-1)/t |dc| for each part of the model that reads it (in-context: with cut tokens, |dc| of two
//        tokens, where the embedding is)
//        cut tokens: m (t-1)/t w b T patch_out with the final layer; 2 (t-1)/t 4 per-token elements, from stage 2 on m
//        times
//   pp   m (A' + |c|) for each part of the model that has a next one, m (A' + |dc|) for each that has one before; A'
//   the
//        rank's own tokens
// Slices that the axis does not cut evenly make the exact figure differ by some elements.
#pragma once

#include <string>

#include "trainer/plan/rank_plan.h"

namespace shardit {

struct AxisFormula {
  double bytes = 0;
  std::string text;  // the formula, short
};

struct ClosedForms {
  AxisFormula dp, tp, pp;
};

ClosedForms FormulasOf(const RunOptions& options, const MeshShape& shape, const RankPlan& rank);

}  // namespace shardit
