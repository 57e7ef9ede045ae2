#include "parallel/comm/fake_comm.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/check.h"
#include "core/tensor/allocator.h"

namespace shardit {
namespace {

template <class T>
void Multiply(void* out, const void* in, int64_t bytes, int times) {
  const int64_t count = bytes / static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < count; ++i) {
    static_cast<T*>(out)[i] = static_cast<T>(static_cast<const T*>(in)[i] * static_cast<T>(times));
  }
}

void Sum(DType dtype, void* out, const void* in, int64_t bytes, int times) {
  switch (dtype) {
    case DType::kF32:
      return Multiply<float>(out, in, bytes, times);
    case DType::kF64:
      return Multiply<double>(out, in, bytes, times);
    case DType::kI32:
      return Multiply<int32_t>(out, in, bytes, times);
    case DType::kI64:
      return Multiply<int64_t>(out, in, bytes, times);
    default:
      return Multiply<uint8_t>(out, in, bytes, times);
  }
}

void Copy(void* out, const void* in, int64_t bytes) {
  if (out != in && bytes > 0) std::memmove(out, in, static_cast<size_t>(bytes));
}

// What the collective leaves in this rank's memory when all ranks give the same.
void RunAlone(const CollectiveSpec& spec, int rank, int size) {
  const auto begin = [&](int r) { return spec.offsets[static_cast<size_t>(r)]; };
  switch (spec.kind) {
    case CollectiveKind::kAllReduce:
      return spec.op == ReduceOp::kSum ? Sum(spec.dtype, spec.out, spec.in, spec.bytes(), size)
                                       : Copy(spec.out, spec.in, spec.bytes());
    case CollectiveKind::kReduceScatter:
      return Sum(spec.dtype, spec.out, static_cast<const char*>(spec.in) + begin(rank), begin(rank + 1) - begin(rank),
                 size);
    case CollectiveKind::kAllGather:
    case CollectiveKind::kGather: {
      if (spec.kind == CollectiveKind::kGather && spec.peer != rank) return;
      const int64_t own = begin(rank + 1) - begin(rank);
      char* out = static_cast<char*>(spec.out);
      Copy(out + begin(rank), spec.in, own);
      for (int r = 0; r < size; ++r) Copy(out + begin(r), out + begin(rank), std::min(own, begin(r + 1) - begin(r)));
      return;
    }
    case CollectiveKind::kRecv:
      if (spec.bytes() > 0) std::memset(spec.out, 0, static_cast<size_t>(spec.bytes()));
      return;
    case CollectiveKind::kBroadcast:
    case CollectiveKind::kBarrier:
    case CollectiveKind::kSend:
      return;
  }
}

}  // namespace

FakeCommunicator::FakeCommunicator(int rank, int size, std::string name, CollectiveLog* log, Hook hook)
    : Communicator(rank, size, std::move(name), log), hook_(std::move(hook)) {}

std::unique_ptr<FakeCommunicator> FakeCommunicator::Axis(int rank, int size, std::string name) const {
  return std::make_unique<FakeCommunicator>(rank, size, std::move(name), log(), hook_);
}

std::unique_ptr<Communicator> FakeCommunicator::Split(int color, int key, std::string name) {
  CHECK_EQ(key, rank()) << "[comm " << this->name() << "] a fake communicator can only be duplicated, not split";
  return Axis(rank(), size(), std::move(name));
}

void FakeCommunicator::Start(CollectiveSpec spec, std::shared_ptr<WorkState> work) {
  work->MarkStart();
  if (hook_) hook_(*this, spec);
  if (!Allocator::IsPlanned(spec.in) && !Allocator::IsPlanned(spec.out)) RunAlone(spec, rank(), size());
  work->MarkDone();
}

}  // namespace shardit
