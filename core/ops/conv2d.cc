#include "core/ops/conv2d.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "core/base/math.h"
#include "core/cuda/nvtx.h"
#include "core/ops/gemm.h"

namespace shardit {
namespace {

// Of the windows that are laid out at once. On a GPU larger products run faster; on the CPU the windows should still be
// in the cache when the product reads them, unless there are so few that packing the weight for each tile would show.
constexpr int64_t kMaxTileBytes = int64_t{32} << 20;
constexpr int64_t kCachedTileBytes = int64_t{2} << 20;
constexpr int64_t kMinCachedPixels = 512;
constexpr int64_t kMinPixels = 64;

Conv2dShape ShapeOf(const Tensor& x, const Tensor& weight, const Conv2dWindow& window) {
  CHECK(x.ndim() == 4 && x.elements() > 0 && x.is_dense())
      << "[conv2d] x " << x.shape() << " with strides " << x.strides();
  CHECK(weight.ndim() == 4 && weight.elements() > 0 && weight.is_dense() && weight.dim(1) == window.kernel_h &&
        weight.dim(2) == window.kernel_w && weight.dim(3) == x.dim(3) && weight.dtype() == x.dtype())
      << "[conv2d] x " << x.shape() << " " << Name(x.dtype()) << ", weight " << weight.shape() << " "
      << Name(weight.dtype()) << ", window " << window.kernel_h << " x " << window.kernel_w;
  const int64_t room_h = x.dim(1) + 2 * window.pad_h - window.kernel_h;
  const int64_t room_w = x.dim(2) + 2 * window.pad_w - window.kernel_w;
  CHECK(window.stride >= 1 && window.pad_h >= 0 && window.pad_w >= 0 && room_h >= 0 && room_w >= 0)
      << "[conv2d] x " << x.shape() << ", window " << window.kernel_h << " x " << window.kernel_w << ", stride "
      << window.stride << ", padding " << window.pad_h << " and " << window.pad_w;
  return {.window = window,
          .images = x.dim(0),
          .height = x.dim(1),
          .width = x.dim(2),
          .channels = x.dim(3),
          .out_height = room_h / window.stride + 1,
          .out_width = room_w / window.stride + 1};
}

// The windows are the pixels of x.
bool IsProduct(const Conv2dShape& shape) {
  const Conv2dWindow& window = shape.window;
  return window.kernel_h == 1 && window.kernel_w == 1 && window.stride == 1 && window.pad_h == 0 && window.pad_w == 0;
}

// Output pixels whose windows are laid out at once. A function of the shape alone, as the order of the weight
// gradient's sums depends on it.
int64_t TilePixels(const RankContext& context, const Conv2dShape& shape, DType dtype) {
  const int64_t window_bytes = shape.window_elements() * SizeOf(dtype);
  int64_t pixels = kMaxTileBytes / window_bytes;
  if (context.device().is_cpu()) pixels = std::min(pixels, std::max(kCachedTileBytes / window_bytes, kMinCachedPixels));
  return std::max(pixels, kMinPixels);
}

// Calls body(pixels, windows) for all output pixels, a tile after the other; windows [pixels.size(),
// window_elements()].
template <class Body>
void ForTiles(RankContext& context, const Conv2dShape& shape, const Tensor& x, const Body& body) {
  if (IsProduct(shape)) {
    body(Range{0, shape.out_pixels()}, x.ref());
    return;
  }
  const int64_t tiles = CeilDiv(shape.out_pixels(), TilePixels(context, shape, x.dtype()));
  const Tensor windows =
      Tensor::Empty(context.allocator(), {CeilDiv(shape.out_pixels(), tiles), shape.window_elements()}, x.dtype());
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const Range pixels = PartRange(shape.out_pixels(), tiles, tile);
    Im2Col(
        {.shape = shape, .x = x.ref(), .columns = windows.ref(), .first_pixel = pixels.begin, .pixels = pixels.size()},
        context);
    body(pixels, windows.ref());
  }
}

void Forward(RankContext& context, const Conv2dShape& shape, const Tensor& x, const Tensor& weight, const Tensor& bias,
             const Tensor& y) {
  const int64_t window = shape.window_elements(), out = weight.dim(0);
  ForTiles(context, shape, x, [&](Range pixels, Elements windows) {
    GemmArgs gemm{.form = GemmForm::kNT, .m = pixels.size(), .n = out, .k = window};
    gemm.a = windows;
    gemm.lda = window;
    gemm.b = weight.ref();
    gemm.ldb = window;
    gemm.c = y.ref().At(pixels.begin * out);
    gemm.ldc = out;
    gemm.independent_rows = true;
    if (bias.defined()) {
      gemm.epilogue = GemmEpilogue::kBias;
      gemm.bias = bias.ref();
    }
    Gemm(gemm, context);
  });
}

void WeightGrad(RankContext& context, const Conv2dShape& shape, const Tensor& dy, const Tensor& x,
                const GradDestination& dweight, const GradDestination& dbias) {
  CHECK(dweight.tensor.defined()) << "[conv2d] a bias is trained with its weight: its gradient is taken in that pass";
  const int64_t window = shape.window_elements(), out = dy.dim(-1);
  ForTiles(context, shape, x, [&](Range pixels, Elements windows) {
    GemmArgs gemm{.form = GemmForm::kTN, .m = out, .n = window, .k = pixels.size()};
    gemm.a = dy.ref().At(pixels.begin * out);
    gemm.lda = out;
    gemm.b = windows;
    gemm.ldb = window;
    gemm.c = dweight.tensor.ref();
    gemm.ldc = window;
    gemm.accumulate = dweight.accumulate || pixels.begin > 0;
    if (dbias.tensor.defined()) {
      gemm.column_sums = dbias.tensor.data();
      gemm.accumulate_column_sums = dbias.accumulate || pixels.begin > 0;
    }
    Gemm(gemm, context);
  });
}

// dy of `pixels` times the weight: the gradients of the windows.
GemmArgs WindowGrads(const Conv2dShape& shape, const Tensor& dy, const Tensor& weight, Range pixels) {
  const int64_t out = weight.dim(0), window = shape.window_elements();
  GemmArgs gemm{.form = GemmForm::kNN, .m = pixels.size(), .n = window, .k = out};
  gemm.a = dy.ref().At(pixels.begin * out);
  gemm.lda = out;
  gemm.b = weight.ref();
  gemm.ldb = window;
  gemm.ldc = window;
  gemm.independent_rows = true;
  return gemm;
}

// The output lines whose windows hold pixels of `lines`.
Range OutLines(const Conv2dShape& shape, Range lines) {
  const int64_t stride = shape.window.stride, last = lines.end - 1;
  const int64_t y_first = lines.begin % shape.height + shape.window.pad_h;
  const int64_t y_last = last % shape.height + shape.window.pad_h;
  // The first window that ends at or after the first line, the last one that begins at or before the last line.
  const int64_t begin = CeilDiv(std::max<int64_t>(0, y_first - (shape.window.kernel_h - 1)), stride);
  const int64_t end = y_last / stride + 1;
  return {lines.begin / shape.height * shape.out_height + std::min(begin, shape.out_height),
          last / shape.height * shape.out_height + std::min(end, shape.out_height)};
}

// Lines of dx that are made at once, so that the windows they need are about `pixels`: whole images where they fit,
// since tiles that cut one compute the windows over the cut twice.
int64_t TileLines(const Conv2dShape& shape, int64_t pixels) {
  const int64_t out_lines = pixels / shape.out_width;
  if (out_lines >= shape.out_height) return out_lines / shape.out_height * shape.height;
  return std::max(shape.window.stride, out_lines * shape.window.stride - (shape.window.kernel_h - 1));
}

void InputGrad(RankContext& context, const Conv2dShape& shape, const Tensor& dy, const Tensor& weight,
               const GradDestination& dx) {
  if (IsProduct(shape)) {
    GemmArgs gemm = WindowGrads(shape, dy, weight, {0, shape.out_pixels()});
    gemm.c = dx.tensor.ref();
    gemm.accumulate = dx.accumulate;
    Gemm(gemm, context);
    return;
  }
  const int64_t all_lines = shape.images * shape.height;
  // Sums over windows are taken before they are rounded.
  const int64_t step = TileLines(shape, TilePixels(context, shape, DType::kF32));
  for (int64_t line = 0; line < all_lines; line += step) {
    const Range lines{line, std::min(line + step, all_lines)};
    const Range out_lines = OutLines(shape, lines);
    const Range pixels{out_lines.begin * shape.out_width, out_lines.end * shape.out_width};
    Tensor grads;
    if (pixels.size() > 0) {
      grads = Tensor::Empty(context.allocator(), {pixels.size(), shape.window_elements()});
      GemmArgs gemm = WindowGrads(shape, dy, weight, pixels);
      gemm.c = grads.ref();
      Gemm(gemm, context);
    }
    Col2Im({.shape = shape,
            .columns = grads.defined() ? grads.data() : nullptr,
            .first_out_line = out_lines.begin,
            .dx = dx.tensor.ref(),
            .accumulate = dx.accumulate,
            .first_line = lines.begin,
            .lines = lines.size()},
           context);
  }
}

class Conv2dNode : public Node {
 public:
  Conv2dNode(const Conv2dShape& shape, Tensor x, SavedVar weight)
      : Node(1), shape_(shape), x_(std::move(x)), weight_(std::move(weight)) {}

  const char* name() const override { return "conv2d"; }
  bool has_deferrable_weights() const override { return Needs(1) || Needs(2); }

  void Backward(RankContext& context) override {
    if (!Needs(0)) return;
    const GradDestination dx = Destination(context, 0);
    CHECK(dx.tensor.is_dense()) << "[conv2d] gradient strides " << dx.tensor.strides();
    InputGrad(context, shape_, Grad(), weight_.value(), dx);
  }

  void BackwardWeights(RankContext& context) override {
    if (!has_deferrable_weights()) return;
    const auto destination = [&](int input) { return Needs(input) ? Destination(context, input) : GradDestination{}; };
    WeightGrad(context, shape_, Grad(), x_, destination(1), destination(2));
  }

 private:
  const Conv2dShape shape_;
  Tensor x_;
  SavedVar weight_;
};

}  // namespace

Var Conv2d(Tape& tape, const Var& x_NHWC, const Var& weight_OHWC, const Var* bias_O, const Conv2dWindow& window) {
  const NvtxRange range("conv2d");
  const Tensor &x = x_NHWC.value(), &weight = weight_OHWC.value();
  const Conv2dShape shape = ShapeOf(x, weight, window);
  const Var bias = bias_O == nullptr ? Var() : *bias_O;
  CHECK(!bias.defined() ||
        (bias.shape() == Shape({weight.dim(0)}) && bias.value().is_dense() && bias.value().dtype() == x.dtype()))
      << "[conv2d] weight " << weight.shape() << ", bias " << bias.shape() << " " << Name(bias.value().dtype());
  Tensor y =
      Tensor::Empty(tape.allocator(), {shape.images, shape.out_height, shape.out_width, weight.dim(0)}, x.dtype());
  Forward(tape.context(), shape, x, weight, bias.value(), y);
  if (!tape.Records({&x_NHWC, &weight_OHWC, &bias})) return Var(std::move(y));
  // Only the weight's gradient reads x.
  const Tensor saved = weight_OHWC.requires_grad() ? x : Tensor();
  return tape.Record(std::make_unique<Conv2dNode>(shape, saved, SavedVar(weight_OHWC)), {x_NHWC, weight_OHWC, bias},
                     {std::move(y)}, {saved})[0];
}

}  // namespace shardit
