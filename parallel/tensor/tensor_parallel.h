// TensorParallel: the seams of core/nn/tensor_axis.h over a communicator, with the tokens whole on every rank (tensor
// parallelism, Shoeybi et al., arXiv 1909.08053, section 3) or cut over the axis between the seams (sequence
// parallelism, Korthikanti et al., arXiv 2205.05198, section 4.2.2). Which rows of each weight a rank holds is
// parallel/tensor/plan.h.
//
// What a rank sends, in elements of the tensor's type, for t ranks, A = N T D. Where t does not divide a tensor,
// "(t-1)/t of it" is all but the slice that stays: RingBytes in parallel/comm/traffic.h is the exact integer.
//
//                      tokens whole                              tokens cut
//   Enter              backward all-reduce     2 (t-1)/t A       all-gather, backward reduce-scatter  (t-1)/t A each
//   Leave              all-reduce              2 (t-1)/t A       reduce-scatter, backward all-gather  (t-1)/t A each
//   EnterCondition     backward all-reduce     2 (t-1)/t |c|     the same
//   EnterTokens        nothing                                   backward all-reduce              2 (t-1)/t |c|
//   GatherModulations  all-gather              (t-1)/t N parts D layers          the same
//   Modulation         nothing                                   backward reduce-scatter  (t-1)/t N parts D
//   ScatterTokens      nothing                                   nothing
//   GatherTokens       nothing                                   all-gather               (t-1)/t A
//
// A block of two Enter and two Leave so sends 8 (t-1)/t A a micro-batch either way.
//
// A backward collective is issued in StartBackward, so that it travels while the weight gradients of the node before
// are computed, and waited for in Backward; each wait is a kWait span of the context's timeline under the collective's
// tag. Nodes keep no activation, but Modulation, which keeps the condition. All tensors are dense; anything else, and
// shapes that do not fit, are a CHECK. They are fp32, or, on a GPU, where the axis is a communicator of the device, of
// one type, fp32 or bf16: sums over the axis are then taken in that type, but for the gradient of a condition, which
// gathers over the layers and travels in fp32. Results have the same bits in every run and, where every rank gets the
// whole of them, on every rank.
//
// Threads: one compute thread issues everything on the axis. Every rank of the axis makes the same calls in the same
// order, which holds when all run the same model on the same micro-batch.
#pragma once

#include "core/nn/tensor_axis.h"
#include "parallel/comm/communicator.h"

namespace shardit {

class TensorParallel : public TensorAxis {
 public:
  // `axis` outlives this and every tape that it recorded on. `cut_tokens` is the T of every token tensor where tokens
  // are cut over the axis, at least axis.size(); 0 where they are whole on every rank.
  explicit TensorParallel(Communicator& axis, int64_t cut_tokens = 0);

  Var Enter(Tape& tape, const Var& x_NTD) const override;
  Var Leave(Tape& tape, const Var& partial_NTD, const Var& bias_D) const override;
  Var EnterCondition(Tape& tape, const Var& c) const override;
  Var EnterTokens(Tape& tape, const Var& c_ND) const override;
  std::vector<Tensor> GatherModulations(RankContext& context, const Tensor& c_ND, std::span<const LinearLayer> layers,
                                        int64_t parts) const override;
  Var Modulation(Tape& tape, const Var& c_ND, const LinearLayer& layer, int64_t parts, Tensor value) const override;
  Var ScatterTokens(Tape& tape, const Var& x_NTD) const override;
  Var GatherTokens(Tape& tape, const Var& x_NTD) const override;

 private:
  bool cuts_tokens() const { return cut_tokens_ > 0; }

  Communicator& axis_;
  const int64_t cut_tokens_;
};

}  // namespace shardit
