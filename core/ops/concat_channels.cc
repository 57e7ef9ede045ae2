#include "core/ops/concat_channels.h"

#include <utility>

#include "core/cuda/nvtx.h"
#include "core/tensor/copy_rows.h"

namespace shardit {
namespace {

Shape JoinedShape(Tape& tape, const std::vector<Var>& parts) {
  CHECK(!parts.empty()) << "[concat_channels] no parts";
  Shape shape = parts[0].shape();
  CHECK_GE(shape.ndim(), 1) << "[concat_channels] parts without dims";
  shape[-1] = 0;
  for (const Var& part : parts) {
    Shape rest = part.shape();
    if (rest.ndim() == shape.ndim()) rest[-1] = shape[-1];
    CHECK(rest == shape && part.value().is_dense() && part.value().dtype() == parts[0].value().dtype())
        << "[concat_channels] part " << part.shape() << " " << Name(part.value().dtype()) << " beside "
        << parts[0].shape() << " " << Name(parts[0].value().dtype());
    CHECK(!tape.Records({&part})) << "[concat_channels] has no backward: a part of shape " << part.shape()
                                  << " wants a gradient";
    shape[-1] += part.dim(-1);
  }
  return shape;
}

}  // namespace

Var ConcatChannels(Tape& tape, const std::vector<Var>& parts_NHWC) {
  const NvtxRange range("concat_channels");
  const Shape shape = JoinedShape(tape, parts_NHWC);
  Tensor y = Tensor::Empty(tape.allocator(), shape, parts_NHWC[0].value().dtype());
  const int64_t channels = shape[-1];
  int64_t first = 0;
  for (const Var& part : parts_NHWC) {
    const int64_t count = part.dim(-1);
    if (count == 0) continue;
    CopyRows({.source = part.value().ref(),
              .source_stride = count,
              .destination = y.ref().At(first),
              .destination_stride = channels,
              .rows = part.value().elements() / count,
              .count = count},
             tape.context());
    first += count;
  }
  return Var(std::move(y));
}

}  // namespace shardit
