// GatherModulations and Modulation: adaLN layers, a third of an adaLN-Zero model's weights, cut on their outputs. Parts
// (shift, scale, gate, ...) are cut each by itself, so a rank's output is [N, parts, D / t] and rank r's columns of the
// whole [N, parts, D] are [r D / t, (r + 1) D / t) of every part.
#include <memory>
#include <utility>
#include <vector>

#include "core/ops/linear_product.h"
#include "core/tensor/copy_rows.h"
#include "parallel/comm/timed_wait.h"
#include "parallel/tensor/tensor_parallel.h"

namespace shardit {
namespace {

Tensor Buffer(RankContext& context, const Shape& shape, DType dtype) {
  const MemoryOwnerScope owner(context.allocator(), MemoryOwner::kBuffers);
  return Tensor::Empty(context.allocator(), shape, dtype);
}

// Rank `rank`'s columns of whole [rows, ranks * width] to dense own [rows, width], or back.
void TakeColumns(RankContext& context, ConstElements whole, int ranks, int rank, Elements own, int64_t rows,
                 int64_t width) {
  CopyRows({.source = whole.At(rank * width),
            .source_stride = ranks * width,
            .destination = own,
            .destination_stride = width,
            .rows = rows,
            .count = width},
           context);
}
void PutColumns(RankContext& context, ConstElements own, int64_t rows, int64_t width, Elements whole, int ranks,
                int rank) {
  CopyRows({.source = own,
            .source_stride = width,
            .destination = whole.At(rank * width),
            .destination_stride = ranks * width,
            .rows = rows,
            .count = width},
           context);
}

enum Input { kC, kWeight, kBias };

// y = the gathered output of c W^T + b, of which this rank computed its rows of W:
//   dy_own = own columns of dy (summed over the axis where tokens are cut)
//   dc = dy_own W (partial)      dW (+)= dy_own^T c      db (+)= column sums of dy_own
class ModulationNode : public Node {
 public:
  // `weight` is [parts * width, D]; `sum` where each rank saw its own tokens' part of dy.
  ModulationNode(Communicator& axis, SavedVar c, SavedVar weight, int64_t parts, bool sum)
      : Node(1), axis_(axis), c_(std::move(c)), weight_(std::move(weight)), parts_(parts), sum_(sum) {}

  const char* name() const override { return "tp_modulation"; }
  bool has_deferrable_weights() const override { return Needs(kWeight) || Needs(kBias); }

  void StartBackward(RankContext& context) override {
    const Tensor& dy = Grad();
    CHECK(dy.is_dense()) << "[tp_modulation] gradient strides " << dy.strides();
    const int64_t images = dy.dim(0), width = dy.dim(1) / (parts_ * axis_.size());
    const int64_t rows = images * parts_;
    // The type that the products below read: dy's own, which may be gathered in fp32, is rounded to it.
    dy_own_ = Tensor::Empty(context.allocator(), {images, parts_ * width}, c_.value().dtype());
    if (!sum_) {
      TakeColumns(context, dy.ref(), axis_.size(), axis_.rank(), dy_own_.ref(), rows, width);
      return;
    }
    slices_ = Buffer(context, dy.shape(), dy_own_.dtype());
    for (int r = 0; r < axis_.size(); ++r) {
      TakeColumns(context, dy.ref(), axis_.size(), r, slices_.ref().At(r * dy_own_.elements()), rows, width);
    }
    std::vector<int64_t> offsets;
    for (int r = 0; r <= axis_.size(); ++r) offsets.push_back(r * dy_own_.elements());
    work_ = axis_.ReduceScatter(slices_.ref(), dy_own_.ref(), offsets, {kSite});
  }

  void Backward(RankContext& context) override {
    if (sum_) TimedWait(context, work_, kSite);
    slices_ = Tensor();
    if (!Needs(kC)) return;
    const GradDestination dc = Destination(context, kC);
    GemmArgs gemm = LinearInputGrad(dy_own_, weight_.value(), dc.tensor);
    gemm.accumulate = dc.accumulate;
    Gemm(gemm, context);
  }

  void BackwardWeights(RankContext& context) override {
    if (!has_deferrable_weights()) return;
    const auto destination = [&](int input) { return Needs(input) ? Destination(context, input) : GradDestination{}; };
    LinearWeightGrad(context, dy_own_, c_.value(), destination(kWeight), destination(kBias));
  }

 private:
  static constexpr const char* kSite = "sp modulation grad";

  Communicator& axis_;
  const SavedVar c_, weight_;
  const int64_t parts_;
  const bool sum_;
  Work work_;
  Tensor slices_;  // dy as [ranks][N, parts, width]
  Tensor dy_own_;  // [N, parts * width]
};

void CheckLayer(const Tensor& c, const LinearLayer& layer, int64_t parts) {
  const Tensor& w = layer.weight->value;
  CHECK(c.ndim() == 2 && c.is_dense() && w.ndim() == 2 && w.dim(1) == c.dim(1) && w.dim(0) % parts == 0)
      << "[tp_modulation] c " << c.shape() << ", weight " << w.shape() << " of " << parts << " parts";
}

}  // namespace

std::vector<Tensor> TensorParallel::GatherModulations(RankContext& context, const Tensor& c_ND,
                                                      std::span<const LinearLayer> layers, int64_t parts) const {
  if (layers.empty()) return {};
  const int64_t images = c_ND.dim(0), layer_count = static_cast<int64_t>(layers.size());
  const int64_t own_columns = layers[0].weight->value.dim(0);  // parts * width
  const int64_t own_elements = layer_count * images * own_columns;
  const DType dtype = c_ND.dtype();
  const Tensor slices = Buffer(context, {axis_.size(), layer_count, images, own_columns}, dtype);
  for (int64_t l = 0; l < layer_count; ++l) {
    const LinearLayer& layer = layers[static_cast<size_t>(l)];
    CheckLayer(c_ND, layer, parts);
    CHECK_EQ(layer.weight->value.dim(0), own_columns) << "[tp_modulation] layers of one gather";
    const Tensor y = slices.Narrow(0, axis_.rank(), 1).Narrow(1, l, 1).Reshape({images, own_columns});
    Gemm(LinearForward(c_ND, layer.weight->value, layer.bias->value, y), context);
  }
  // Over the tensor axis: every rank's tokens need the whole vectors.
  std::vector<int64_t> offsets;
  for (int r = 0; r <= axis_.size(); ++r) offsets.push_back(r * own_elements);
  const Elements own = slices.ref().At(axis_.rank() * own_elements);
  TimedWait(context, axis_.AllGather(own, slices.ref(), offsets, {"tp modulations"}), "tp modulations");

  const int64_t rows = images * parts, width = own_columns / parts;
  std::vector<Tensor> values;
  for (int64_t l = 0; l < layer_count; ++l) {
    Tensor value = Tensor::Empty(context.allocator(), {images, axis_.size() * own_columns}, dtype);
    for (int r = 0; r < axis_.size(); ++r) {
      PutColumns(context, slices.ref().At(r * own_elements + l * images * own_columns), rows, width, value.ref(),
                 axis_.size(), r);
    }
    values.push_back(std::move(value));
  }
  return values;
}

Var TensorParallel::Modulation(Tape& tape, const Var& c_ND, const LinearLayer& layer, int64_t parts,
                               Tensor value) const {
  CheckLayer(c_ND.value(), layer, parts);
  CHECK(value.shape() == Shape({c_ND.dim(0), axis_.size() * layer.weight->value.dim(0)}))
      << "[tp_modulation] value " << value.shape() << ", weight " << layer.weight->value.shape();
  const Var weight(*layer.weight), bias(*layer.bias);
  if (!tape.Records({&c_ND, &weight, &bias})) return Var(std::move(value));
  auto node = std::make_unique<ModulationNode>(axis_, SavedVar(c_ND), SavedVar(weight), parts, cuts_tokens());
  return tape.Record(std::move(node), {c_ND, weight, bias}, {std::move(value)},
                     {weight.requires_grad() ? c_ND.value() : Tensor()})[0];
}

}  // namespace shardit
