#include "core/ops/pool2d.h"

#include <limits>
#include <memory>
#include <utility>

#include "core/cuda/nvtx.h"

namespace shardit {
namespace {

class Pool2dNode : public Node {
 public:
  Pool2dNode(const PoolShape& shape, Tensor winners) : Node(1), shape_(shape), winners_(std::move(winners)) {}
  const char* name() const override { return "pool2d"; }

  void Backward(RankContext& context) override {
    const GradDestination dx = Destination(context, 0);
    CHECK(dx.tensor.is_dense()) << "[pool2d] gradient strides " << dx.tensor.strides();
    Pool2dBwd({.shape = shape_,
               .dy = Grad().data(),
               .winners = winners_.defined() ? winners_.data<int32_t>() : nullptr,
               .dx = dx.tensor.data(),
               .accumulate = dx.accumulate},
              context);
  }

 private:
  const PoolShape shape_;
  const Tensor winners_;  // kMax only
};

PoolSide SideOf(int64_t pixels, int64_t kernel, int64_t stride, int64_t pad) {
  CHECK(kernel >= 1 && stride >= 1 && pad >= 0 && pad < kernel && kernel <= pixels + 2 * pad)
      << "[pool2d] kernel " << kernel << ", stride " << stride << ", padding " << pad << " over " << pixels
      << " pixels";
  return {.kernel = static_cast<int>(kernel),
          .stride = static_cast<int>(stride),
          .pad = static_cast<int>(pad),
          .pixels = static_cast<int>(pixels),
          .windows = static_cast<int>(PooledSize(pixels, kernel, stride, pad))};
}

PoolShape ShapeOf(const Tensor& x, PoolKind kind, const PoolWindow& window) {
  CHECK(x.ndim() == 4 && x.is_dense() && x.dim(1) * x.dim(2) <= std::numeric_limits<int32_t>::max())
      << "[pool2d] x " << x.shape() << " with strides " << x.strides();
  return {.kind = kind,
          .rows = SideOf(x.dim(1), window.kernel_h, window.stride, window.pad_h),
          .columns = SideOf(x.dim(2), window.kernel_w, window.stride, window.pad_w),
          .images = x.dim(0),
          .channels = x.dim(3)};
}

// `y_shape`: the shape that the result is given, of as many elements as there are.
Var Pool(Tape& tape, const Var& x, const PoolShape& shape, const Shape& y_shape) {
  Tensor y = Tensor::Empty(tape.allocator(), y_shape);
  const bool records = tape.Records({&x});
  Tensor winners;
  if (records && shape.kind == PoolKind::kMax) winners = Tensor::Empty(tape.allocator(), y_shape, DType::kI32);
  Pool2dFwd({.shape = shape,
             .x = x.value().data(),
             .y = y.data(),
             .winners = winners.defined() ? winners.data<int32_t>() : nullptr},
            tape.context());
  if (!records) return Var(std::move(y));
  std::vector<Tensor> saved;
  if (winners.defined()) saved.push_back(winners);
  return tape.Record(std::make_unique<Pool2dNode>(shape, winners), {x}, {std::move(y)}, std::move(saved))[0];
}

}  // namespace

Var Pool2d(Tape& tape, const Var& x_NHWC, PoolKind kind, const PoolWindow& window) {
  const NvtxRange range("pool2d");
  const PoolShape shape = ShapeOf(x_NHWC.value(), kind, window);
  return Pool(tape, x_NHWC, shape, {shape.images, shape.rows.windows, shape.columns.windows, shape.channels});
}

Var GlobalAveragePool(Tape& tape, const Var& x_NHWC) {
  const NvtxRange range("global_average_pool");
  CHECK_EQ(x_NHWC.value().ndim(), 4) << "[pool2d] x " << x_NHWC.shape();
  const PoolWindow whole{.kernel_h = x_NHWC.dim(1), .kernel_w = x_NHWC.dim(2)};
  const PoolShape shape = ShapeOf(x_NHWC.value(), PoolKind::kAverage, whole);
  return Pool(tape, x_NHWC, shape, {shape.images, shape.channels});
}

}  // namespace shardit
