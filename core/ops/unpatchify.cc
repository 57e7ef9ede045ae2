#include "core/ops/unpatchify.h"

#include <memory>
#include <utility>

#include "core/cuda/nvtx.h"

namespace shardit {
namespace {

class UnpatchifyNode : public Node {
 public:
  explicit UnpatchifyNode(const UnpatchifyShape& shape) : Node(1), shape_(shape) {}
  const char* name() const override { return "unpatchify"; }

  void Backward(RankContext& context) override {
    const GradDestination dx = Destination(context, 0);
    CHECK(dx.tensor.is_dense()) << "[unpatchify] gradient strides " << dx.tensor.strides();
    UnpatchifyBwd({.shape = shape_, .dy = Grad().data(), .dx = dx.tensor.ref(), .accumulate = dx.accumulate}, context);
  }

 private:
  const UnpatchifyShape shape_;
};

}  // namespace

Var Unpatchify(Tape& tape, const Var& x_NTE, int64_t channels, int64_t patch, int64_t grid_h, int64_t grid_w) {
  const NvtxRange range("unpatchify");
  const Tensor& x = x_NTE.value();
  CHECK(x.ndim() == 3 && x.is_dense() && x.dim(1) == grid_h * grid_w && x.dim(2) == patch * patch * channels)
      << "[unpatchify] x " << x.shape() << ", channels " << channels << ", patch " << patch << ", grid " << grid_h
      << " x " << grid_w;
  const UnpatchifyShape shape{
      .images = x.dim(0), .channels = channels, .patch = patch, .grid_h = grid_h, .grid_w = grid_w};
  Tensor y = Tensor::Empty(tape.allocator(), {shape.images, channels, grid_h * patch, grid_w * patch});
  UnpatchifyFwd({.shape = shape, .x = x.ref(), .y = y.data()}, tape.context());
  if (!tape.Records({&x_NTE})) return Var(std::move(y));
  return tape.Record(std::make_unique<UnpatchifyNode>(shape), {x_NTE}, {std::move(y)}, {})[0];
}

}  // namespace shardit
