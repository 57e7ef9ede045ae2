// A pipeline stage whose arithmetic is exact, and what a plain loop over the stages gives: what the executor must do on
// threads and under MPI alike.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/tensor/rank_context.h"
#include "parallel/comm/communicator.h"
#include "parallel/pipeline/schedule.h"
#include "parallel/pipeline/stage.h"

namespace shardit {

// Tokens x are [kRows, columns], the condition c is [kRows].
inline constexpr int64_t kRows = 3;

// y = factor(s) x + c, a row's c added to the row; c passes through. The loss is the sum of the last y.
inline float Factor(int stage) { return stage % 3 == 0 ? 2.0f : stage % 3 == 1 ? -1.0f : 1.0f; }
inline float Token(int micro_batch, int64_t i) { return static_cast<float>((micro_batch * 7 + i) % 11) - 5; }
inline float Condition(int micro_batch, int64_t row) { return static_cast<float>(micro_batch + 3 * row); }

// What a run leaves behind on a rank.
struct Results {
  std::map<int, float> losses;                        // by micro-batch
  std::map<std::pair<int, int>, float> weight_grads;  // by (global stage, micro-batch)
  std::map<int, std::vector<float>> condition_grads;  // by micro-batch, on the first stage
  friend bool operator==(const Results&, const Results&) = default;
  void Merge(Results other) {
    losses.merge(other.losses);
    weight_grads.merge(other.weight_grads);
    condition_grads.merge(other.condition_grads);
  }
};

// The gradient of factor(s) is the sum of dy x. One Forward, then one Backward, for each part and micro-batch.
class ToyStage : public PipelineStage {
 public:
  ToyStage(const PipelineSpec& spec, int rank, int64_t columns, RankContext& context)
      : rank_(rank), ranks_(spec.ranks), parts_(spec.parts), columns_(columns), allocator_(context.allocator()) {}

  Results results;
  int passes_kept() const { return static_cast<int>(kept_.size()); }

  int parts() const override { return parts_; }
  std::vector<BoundaryTensor> Inputs(int part) const override {
    if (Stage(part) == 0) return {};
    return {{Tokens()}, {Shape{kRows}}};
  }

  std::vector<Tensor> Forward(int part, int micro_batch, std::vector<Tensor> inputs) override {
    if (Stage(part) == 0) {
      EXPECT_TRUE(inputs.empty());
      inputs = {Filled(Tokens(), [&](int64_t i) { return Token(micro_batch, i); }),
                Filled(Shape{kRows}, [&](int64_t i) { return Condition(micro_batch, i); })};
    }
    const Tensor x = inputs[0], c = inputs[1];
    const Tensor y = Filled(Tokens(), [&](int64_t i) { return Factor(Stage(part)) * At(x, i) + At(c, i / columns_); });
    EXPECT_TRUE(kept_.emplace(std::pair{part, micro_batch}, Kept{x, {}}).second);
    if (Stage(part) < ranks_ * parts_ - 1) return {y, c};
    float loss = 0;
    for (int64_t i = 0; i < y.elements(); ++i) loss += At(y, i);
    results.losses[micro_batch] = loss;
    return {};
  }

  std::vector<Tensor> Backward(int part, int micro_batch, std::vector<Tensor> grads, bool defer_weights) override {
    if (Stage(part) == ranks_ * parts_ - 1) {
      EXPECT_TRUE(grads.empty());
      grads = {Filled(Tokens(), [](int64_t) { return 1.0f; }), Filled(Shape{kRows}, [](int64_t) { return 0.0f; })};
    }
    Kept& kept = kept_.at({part, micro_batch});
    kept.dy = grads[0];
    const Tensor dx = Filled(Tokens(), [&](int64_t i) { return Factor(Stage(part)) * At(grads[0], i); });
    const Tensor dc = Filled(Shape{kRows}, [&](int64_t row) {
      float sum = At(grads[1], row);
      for (int64_t i = 0; i < columns_; ++i) sum += At(grads[0], row * columns_ + i);
      return sum;
    });
    if (!defer_weights) BackwardWeights(part, micro_batch);
    if (Stage(part) > 0) return {dx, dc};
    results.condition_grads[micro_batch] = {At(dc, 0), At(dc, 1), At(dc, 2)};
    return {};
  }

  void BackwardWeights(int part, int micro_batch) override {
    const auto kept = kept_.find({part, micro_batch});
    ASSERT_NE(kept, kept_.end());
    ASSERT_TRUE(kept->second.dy.defined());
    float grad = 0;
    for (int64_t i = 0; i < kRows * columns_; ++i) grad += At(kept->second.dy, i) * At(kept->second.x, i);
    results.weight_grads[{Stage(part), micro_batch}] = grad;
    kept_.erase(kept);
  }

 protected:
  Shape Tokens() const { return {kRows, columns_}; }
  int Stage(int part) const { return part * ranks_ + rank_; }

 private:
  struct Kept {
    Tensor x, dy;
  };
  static float At(const Tensor& tensor, int64_t i) { return tensor.data()[i]; }
  Tensor Filled(const Shape& shape, absl::FunctionRef<float(int64_t)> value) {
    const Tensor tensor = Tensor::Empty(allocator_, shape);
    for (int64_t i = 0; i < tensor.elements(); ++i) tensor.data()[i] = value(i);
    return tensor;
  }

  const int rank_, ranks_, parts_;
  const int64_t columns_;
  Allocator& allocator_;
  std::map<std::pair<int, int>, Kept> kept_;
};

// The same without a pipeline, on plain numbers.
inline Results Reference(int stages, int micro_batches, int64_t columns) {
  Results results;
  for (int mb = 0; mb < micro_batches; ++mb) {
    std::vector<std::vector<float>> x(stages + 1, std::vector<float>(kRows * columns));
    for (int64_t i = 0; i < kRows * columns; ++i) {
      x[0][i] = Token(mb, i);
      for (int s = 0; s < stages; ++s) x[s + 1][i] = Factor(s) * x[s][i] + Condition(mb, i / columns);
      results.losses[mb] += x[stages][i];
    }
    float dy = 1, dc = 0;  // equal for all elements
    for (int s = stages - 1; s >= 0; --s) {
      for (int64_t i = 0; i < kRows * columns; ++i) results.weight_grads[{s, mb}] += dy * x[s][i];
      dc += static_cast<float>(columns) * dy;
      dy *= Factor(s);
    }
    results.condition_grads[mb] = {dc, dc, dc};
  }
  return results;
}

// Bytes and calls of `runs` training steps on this rank, exactly: every boundary's tensors forward and their gradients
// back, once a micro-batch.
inline void ExpectPipelineBytes(const PipelineSpec& spec, int64_t columns, const Communicator& pp, int64_t runs) {
  const int64_t boundary_bytes = 4 * (kRows * columns + kRows);
  int64_t forward = 0, backward = 0, received = 0;  // boundaries that this rank sends, each way, and receives
  for (int to = 1; to < spec.stages() && spec.ranks > 1; ++to) {
    forward += (to - 1) % spec.ranks == pp.rank();
    backward += to % spec.ranks == pp.rank();
    received += ((to - 1) % spec.ranks == pp.rank()) + (to % spec.ranks == pp.rank());
  }
  const TrafficCounters counters = pp.counters();
  EXPECT_EQ(counters.of(CollectiveKind::kSend).ring_bytes,
            runs * spec.micro_batches * (forward + backward) * boundary_bytes);
  EXPECT_EQ(counters.of(CollectiveKind::kSend).calls, runs * spec.micro_batches * (forward + backward) * 2);
  EXPECT_EQ(counters.of(CollectiveKind::kRecv).payload_bytes, runs * spec.micro_batches * received * boundary_bytes);
  EXPECT_EQ(counters.TotalData().ring_bytes, counters.of(CollectiveKind::kSend).ring_bytes);
}

}  // namespace shardit
