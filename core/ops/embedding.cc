#include "core/ops/embedding.h"

#include <memory>
#include <utility>

#include "core/cuda/nvtx.h"

namespace shardit {
namespace {

class EmbeddingNode : public Node {
 public:
  EmbeddingNode(Tensor ids, int64_t rows) : Node(1), ids_(std::move(ids)), rows_(rows) {}
  const char* name() const override { return "embedding"; }

  void Backward(RankContext& context) override {
    const GradDestination dtable = Destination(context, 0);
    CHECK(dtable.tensor.is_dense()) << "[embedding] gradient strides " << dtable.tensor.strides();
    EmbeddingBwd({.dy = Grad().ref(),
                  .ids = ids_.data<int32_t>(),
                  .dtable = dtable.tensor.data(),
                  .accumulate = dtable.accumulate,
                  .rows = rows_,
                  .count = ids_.elements(),
                  .width = Grad().dim(1)},
                 context);
  }

 private:
  Tensor ids_;
  const int64_t rows_;
};

}  // namespace

Var Embedding(Tape& tape, const Var& table_VD, const Tensor& ids_N) {
  const NvtxRange range("embedding");
  const Tensor& table = table_VD.value();
  CHECK(table.ndim() == 2 && table.is_dense() && ids_N.ndim() == 1 && ids_N.is_dense())
      << "[embedding] table " << table.shape() << ", ids " << ids_N.shape();
  Tensor y = Tensor::Empty(tape.allocator(), {ids_N.dim(0), table.dim(1)}, table.dtype());
  EmbeddingFwd({.table = table.ref(),
                .ids = ids_N.data<int32_t>(),
                .y = y.ref(),
                .rows = table.dim(0),
                .count = ids_N.dim(0),
                .width = table.dim(1)},
               tape.context());
  if (!tape.Records({&table_VD})) return Var(std::move(y));
  return tape.Record(std::make_unique<EmbeddingNode>(ids_N, table.dim(0)), {table_VD}, {std::move(y)}, {ids_N})[0];
}

}  // namespace shardit
