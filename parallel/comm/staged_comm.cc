#include "parallel/comm/staged_comm.h"

#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/base/math.h"
#include "core/tensor/device_memory.h"
#include "core/tensor/host_buffer.h"
#include "parallel/comm/device_facts.h"

namespace shardit {
namespace {

// Which bytes of the payload a rank reads from `in`, and which it writes to `out`.
struct Parts {
  Range in{0, 0}, out{0, 0};
};

Parts PartsOf(const CollectiveSpec& spec, int rank) {
  const Range whole{0, spec.bytes()}, nothing{0, 0};
  const auto own = [&] {
    return Range{spec.offsets[static_cast<size_t>(rank)], spec.offsets[static_cast<size_t>(rank) + 1]};
  };
  switch (spec.kind) {
    case CollectiveKind::kAllReduce:
      return {whole, whole};
    case CollectiveKind::kReduceScatter:
      return {whole, own()};
    case CollectiveKind::kAllGather:
      return {own(), whole};
    case CollectiveKind::kGather:
      return {own(), rank == spec.peer ? whole : nothing};
    case CollectiveKind::kBroadcast:
      return rank == spec.peer ? Parts{whole, nothing} : Parts{nothing, whole};
    case CollectiveKind::kSend:
      return {whole, nothing};
    case CollectiveKind::kRecv:
      return {nothing, whole};
    case CollectiveKind::kBarrier:
      break;
  }
  return {};
}

}  // namespace

// Pinned buffers, reused once the device has taken the result out of them. One thread.
class StagedCommunicator::Slots {
 public:
  struct Slot {
    HostBuffer buffer;
    int64_t bytes = 0;
    cuda::Event taken;
    char* data() const { return static_cast<char*>(buffer.data()); }
  };

  explicit Slots(Device device) : device_(device) {}
  ~Slots() {
    for (const Slot& slot : free_) slot.taken.Synchronize();
  }

  Slot Take(int64_t bytes) {
    for (auto slot = free_.begin(); slot != free_.end(); ++slot) {
      if (slot->bytes < bytes || !slot->taken.Done()) continue;
      Slot found = std::move(*slot);
      free_.erase(slot);
      return found;
    }
    return {HostBuffer(bytes, /*pinned=*/true), bytes, cuda::Event::Make(device_)};
  }
  // After the last copy out of it was issued on `stream`.
  void Give(Slot slot, Stream stream) {
    slot.taken.Record(stream);
    free_.push_back(std::move(slot));
  }

 private:
  const Device device_;
  std::vector<Slot> free_;
};

// One collective under way.
struct StagedCommunicator::Staging {
  Staging(std::shared_ptr<Slots> slots, Stream stream, int64_t bytes)
      : slots(std::move(slots)), stream(stream), slot(this->slots->Take(bytes)) {}
  ~Staging() {
    work.Wait();  // dropped by its caller, it may still be writing here
    slots->Give(std::move(slot), stream);
  }

  const std::shared_ptr<Slots> slots;
  const Stream stream;
  Slots::Slot slot;
  Work work;
};

StagedCommunicator::StagedCommunicator(std::unique_ptr<Communicator> host, std::string name, RankContext& context)
    : Communicator(host->rank(), host->size(), std::move(name), host->log()),
      host_(std::move(host)),
      stream_(context.cuda().stream),
      slots_(std::make_shared<Slots>(stream_.device)) {}

StagedCommunicator::~StagedCommunicator() = default;

std::unique_ptr<Communicator> StagedCommunicator::Split(int color, int key, std::string name) {
  CHECK(false) << "[comm " << this->name() << "] split the host's communicator, then make the device's";
  return nullptr;
}

void StagedCommunicator::Start(CollectiveSpec spec, std::shared_ptr<WorkState> work) {
  CHECK(!cuda::IsRecorded(stream_)) << "[" << Name(spec.kind) << " on " << name()
                                    << "] goes through host memory and cannot be recorded in a graph: run without "
                                       "graphs, or with NCCL and a GPU for every rank";
  work->MarkStart();
  const Parts parts = PartsOf(spec, rank());
  auto staging = std::make_shared<Staging>(slots_, stream_, spec.bytes());
  char* const payload = staging->slot.data();
  if (parts.in.size() > 0) {
    cuda::CopyAsync(payload + parts.in.begin, spec.in, parts.in.size(), stream_);
    cuda::Synchronize(stream_);  // the host's collective reads it
  }
  void* const out = spec.out;
  spec.in = payload + parts.in.begin;
  spec.out = payload + parts.out.begin;
  const CallSite site = spec.site;
  staging->work = host_->Issue(std::move(spec), site);
  work->SetProgress([staging = std::move(staging), parts, out](WorkState& state, bool wait) mutable {
    if (!wait) return;
    staging->work.Wait();
    cuda::CopyAsync(out, staging->slot.data() + parts.out.begin, parts.out.size(), staging->stream);
    staging = nullptr;
    state.MarkDone();
  });
  work->SetDeviceWait([stream = stream_] { cuda::Synchronize(stream); }, /*stream_ordered=*/false);
}

}  // namespace shardit
