#include "parallel/tensor/token_exchange.h"

#include <utility>
#include <vector>

#include "core/tensor/copy_rows.h"
#include "parallel/comm/timed_wait.h"

namespace shardit {
namespace {

// Where the ranks' slices of a whole tensor begin, in elements.
std::vector<int64_t> SliceOffsets(const Communicator& axis, const Shape& whole) {
  std::vector<int64_t> offsets{0};
  for (int r = 0; r < axis.size(); ++r) {
    offsets.push_back(whole[0] * PartRange(whole[1], axis.size(), r).end * whole[2]);
  }
  return offsets;
}

// Copies between a whole tensor and the slices of all ranks.
enum class Direction { kToSlices, kFromSlices };
void CopySlices(RankContext& context, const Communicator& axis, const Tensor& whole, const Tensor& slices,
                Direction direction) {
  const int64_t images = whole.dim(0), tokens = whole.dim(1), width = whole.dim(2);
  for (int r = 0; r < axis.size(); ++r) {
    const Range range = PartRange(tokens, axis.size(), r);
    const Elements in_whole = whole.ref().At(range.begin * width);
    const Elements in_slices = slices.ref().At(images * range.begin * width);
    CopyRowsArgs copy{.rows = images, .count = range.size() * width};
    const bool to_slices = direction == Direction::kToSlices;
    copy.source = to_slices ? in_whole : in_slices;
    copy.source_stride = to_slices ? tokens * width : copy.count;
    copy.destination = to_slices ? in_slices : in_whole;
    copy.destination_stride = to_slices ? copy.count : tokens * width;
    CopyRows(copy, context);
  }
}

void CheckTokens(const Communicator& axis, const Tensor& tensor, int64_t tokens, const char* site) {
  CHECK(tensor.ndim() == 3 && tensor.is_dense())
      << "[" << site << "] tokens " << tensor.shape() << " with strides " << tensor.strides();
  CHECK_GE(tokens, axis.size()) << "[" << site << "] every rank of the axis owns a token";
}

Tensor Buffer(RankContext& context, const Shape& shape, DType dtype) {
  const MemoryOwnerScope owner(context.allocator(), MemoryOwner::kBuffers);
  return Tensor::Empty(context.allocator(), shape, dtype);
}

}  // namespace

TokenGather::TokenGather(RankContext& context, Communicator& axis, const Tensor& own, int64_t tokens, const char* site)
    : axis_(axis), site_(site), own_(own) {
  CheckTokens(axis, own, tokens, site);
  CHECK_EQ(own.dim(1), OwnTokens(axis, tokens).size()) << "[" << site << "] own tokens of " << tokens;
  const Shape whole{own.dim(0), tokens, own.dim(2)};
  slices_ =
      own.dim(0) == 1 ? Tensor::Empty(context.allocator(), whole, own.dtype()) : Buffer(context, whole, own.dtype());
  work_ = axis.AllGather(own_.ref(), slices_.ref(), SliceOffsets(axis, whole), {site});
}

Tensor TokenGather::Wait(RankContext& context) {
  TimedWait(context, work_, site_);
  if (slices_.dim(0) == 1) return std::move(slices_);
  Tensor whole = Tensor::Empty(context.allocator(), slices_.shape(), slices_.dtype());
  CopySlices(context, axis_, whole, slices_, Direction::kFromSlices);
  slices_ = Tensor();
  return whole;
}

TokenReduceScatter::TokenReduceScatter(RankContext& context, Communicator& axis, const Tensor& whole, const char* site)
    : site_(site) {
  CheckTokens(axis, whole, whole.dim(1), site);
  slices_ = whole;
  if (whole.dim(0) > 1) {
    slices_ = Buffer(context, whole.shape(), whole.dtype());
    CopySlices(context, axis, whole, slices_, Direction::kToSlices);
  }
  own_ = Tensor::Empty(context.allocator(), {whole.dim(0), OwnTokens(axis, whole.dim(1)).size(), whole.dim(2)},
                       whole.dtype());
  work_ = axis.ReduceScatter(slices_.ref(), own_.ref(), SliceOffsets(axis, whole.shape()), {site});
}

Tensor TokenReduceScatter::Wait(RankContext& context) {
  TimedWait(context, work_, site_);
  slices_ = Tensor();
  return std::move(own_);
}

}  // namespace shardit
