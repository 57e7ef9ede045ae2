// What the tests of the tensor axis share: whole-number inputs, whose sums and products are exact in fp32 in every
// order, and slices of them.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/autograd/tape.h"
#include "core/base/math.h"
#include "parallel/comm/world.h"
#include "parallel/tensor/plan.h"
#include "parallel/tensor/tensor_parallel.h"

namespace shardit::tensor_cases {

// Small whole numbers without a period that a slicing mistake could hit.
inline float Whole(int stream, int64_t i) {
  uint64_t h = (static_cast<uint64_t>(stream) << 32) + static_cast<uint64_t>(i) + 1;
  h *= 0x9e3779b97f4a7c15ull;
  return static_cast<float>(static_cast<int>((h >> 40) % 9) - 4);
}

inline Tensor Filled(RankContext& context, Shape shape, int stream) {
  Tensor tensor = Tensor::Empty(context.allocator(), shape);
  for (int64_t i = 0; i < tensor.elements(); ++i) tensor.data()[i] = Whole(stream, i);
  return tensor;
}

inline std::vector<float> Values(const Tensor& tensor) {
  EXPECT_TRUE(tensor.defined() && tensor.is_dense());
  return {tensor.data(), tensor.data() + tensor.elements()};
}

// The sum over `streams` of Filled tensors.
inline Tensor SumFilled(RankContext& context, Shape shape, std::span<const int> streams) {
  Tensor sum = Tensor::Zeros(context.allocator(), shape);
  for (const int stream : streams) {
    for (int64_t i = 0; i < sum.elements(); ++i) sum.data()[i] += Whole(stream, i);
  }
  return sum;
}

// Tokens [range) of [N, T, E].
inline Tensor Tokens(RankContext& context, const Tensor& whole, Range range) {
  Tensor part = Tensor::Empty(context.allocator(), {whole.dim(0), range.size(), whole.dim(2)});
  for (int64_t n = 0; n < whole.dim(0); ++n) {
    for (int64_t i = 0; i < range.size() * whole.dim(2); ++i) {
      part.data()[n * range.size() * whole.dim(2) + i] =
          whole.data()[(n * whole.dim(1) + range.begin) * whole.dim(2) + i];
    }
  }
  return part;
}

// A rank's part of a whole parameter value.
inline Tensor Local(RankContext& context, const Parameter& parameter, const Tensor& whole, TensorPart part) {
  Tensor local = Tensor::Empty(context.allocator(), LocalShape(parameter, part));
  int64_t first = 0;
  for (const Box& box : LocalBoxes(parameter, part)) {
    CopyBox(WholeBox({parameter.shape.begin(), parameter.shape.end()}), whole.data(), box, local.data() + first);
    first += Volume(box);
  }
  return local;
}

// The sum of a small tensor over the ranks.
inline Tensor Summed(RankContext& context, Communicator& axis, const Tensor& mine) {
  Tensor sum = Tensor::Empty(context.allocator(), mine.shape());
  axis.AllReduce(mine.data(), sum.data(), mine.elements(), ReduceOp::kSum, {"test", /*control=*/true}).Wait();
  return sum;
}

inline void ExpectEqual(const Tensor& actual, const Tensor& expected, const char* what) {
  ASSERT_TRUE(actual.defined()) << what;
  EXPECT_EQ(actual.shape(), expected.shape()) << what;
  EXPECT_EQ(Values(actual), Values(expected)) << what;
}

// One way to hold N sequences of T tokens on an axis.
struct Layout {
  int ranks = 1;
  int64_t images = 1;
  int64_t tokens = 7;
  bool cut = false;

  std::string Name() const {
    return std::to_string(ranks) + " ranks, " + std::to_string(images) + " x " + std::to_string(tokens) + " tokens" +
           (cut ? ", cut" : "");
  }
};

// The state of one rank in a test.
struct Seat {
  const Layout& layout;
  Communicator& axis;
  RankContext context{2};
  const TensorParallel seams{axis, layout.cut ? layout.tokens : 0};

  TensorPart part() const { return {axis.rank(), axis.size()}; }
  Range own() const {
    return layout.cut ? PartRange(layout.tokens, axis.size(), axis.rank()) : Range{0, layout.tokens};
  }
  Tensor Own(const Tensor& whole) { return Tokens(context, whole, own()); }
};

// Runs the body as every rank of 1 to 4, one and three images, tokens whole and cut, even and uneven.
inline void ForEachLayout(const std::function<void(Seat& seat)>& body) {
  for (const int ranks : {1, 2, 3, 4}) {
    for (const int64_t images : {1, 3}) {
      for (const int64_t tokens : {7, 12}) {
        for (const bool cut : {false, true}) {
          const Layout layout{ranks, images, tokens, cut};
          RunThreadWorld(ranks, [&](World& world) {
            SCOPED_TRACE(layout.Name() + ", rank " + std::to_string(world.rank()));
            const std::unique_ptr<Communicator> axis = world.comm().Split(0, world.rank(), "tp");
            Seat seat{layout, *axis};
            body(seat);
          });
        }
      }
    }
  }
}

}  // namespace shardit::tensor_cases
