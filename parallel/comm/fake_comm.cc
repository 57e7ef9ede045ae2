#include "parallel/comm/fake_comm.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/tensor/allocator.h"
#include "parallel/comm/reduce.h"

namespace shardit {
namespace {

// The ranks' sum, smallest or largest when each gives `in`.
void Reduce(const CollectiveSpec& spec, const void* in, int64_t bytes, int size) {
  const std::string value(static_cast<const char*>(in), static_cast<size_t>(bytes));  // out may be in
  const std::vector<const void*> inputs(static_cast<size_t>(size), value.data());
  TreeReduce(spec.dtype, spec.op, inputs, spec.out, bytes / SizeOf(spec.dtype));
}

void Copy(void* out, const void* in, int64_t bytes) {
  if (out != in && bytes > 0) std::memmove(out, in, static_cast<size_t>(bytes));
}

// What the collective leaves in this rank's memory when all ranks give the same.
void RunAlone(const CollectiveSpec& spec, int rank, int size) {
  const auto begin = [&](int r) { return spec.offsets[static_cast<size_t>(r)]; };
  switch (spec.kind) {
    case CollectiveKind::kAllReduce:
      return Reduce(spec, spec.in, spec.bytes(), size);
    case CollectiveKind::kReduceScatter:
      return Reduce(spec, static_cast<const char*>(spec.in) + begin(rank), begin(rank + 1) - begin(rank), size);
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

FakeCommunicator::FakeCommunicator(int rank, int size, std::string name, CollectiveLog* log, FakeNetwork* network)
    : Communicator(rank, size, std::move(name), log), network_(network) {}

std::unique_ptr<FakeCommunicator> FakeCommunicator::Axis(int rank, int size, std::string name) const {
  return std::make_unique<FakeCommunicator>(rank, size, std::move(name), log(), network_);
}

std::unique_ptr<Communicator> FakeCommunicator::Split(int color, int key, std::string name) {
  CHECK_EQ(key, rank()) << "[comm " << this->name() << "] a fake communicator can only be duplicated, not split";
  return Axis(rank(), size(), std::move(name));
}

void FakeCommunicator::Start(CollectiveSpec spec, std::shared_ptr<WorkState> work) {
  work->MarkStart();
  if (!Allocator::IsPlanned(spec.in) && !Allocator::IsPlanned(spec.out)) RunAlone(spec, rank(), size());
  if (network_ == nullptr) return work->MarkDone();
  work->SetProgress([this, arrival = network_->Issue(*this, spec)](WorkState& state, bool wait) {
    if (!wait) return;
    network_->WaitUntil(*this, arrival);
    state.MarkDone();
  });
}

}  // namespace shardit
