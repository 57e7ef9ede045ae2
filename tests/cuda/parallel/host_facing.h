// HostFacing: a communicator for host buffers over one for device buffers, so that the cases of the host's backends
// (tests/parallel/comm_cases.h) run on the device's.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/tensor/rank_context.h"
#include "core/tensor/tensor.h"
#include "parallel/comm/device_comm.h"

namespace shardit {

class HostFacing final : public Communicator {
 public:
  // Collective over `host`.
  HostFacing(std::unique_ptr<Communicator> host, RankContext& context, const DeviceCommOptions& options)
      : Communicator(host->rank(), host->size(), host->name(), host->log()),
        host_(std::move(host)),
        context_(context),
        options_(options) {
    auto comm = MakeDeviceComm(*host_, context, options);
    CHECK(comm.ok()) << comm.status().message();
    device_ = *std::move(comm);
  }
  ~HostFacing() override {
    EXPECT_EQ(counters().data, device_->counters().data);
    EXPECT_EQ(counters().control, device_->counters().control);
    EXPECT_TRUE(device_->Health().ok());
  }

  std::unique_ptr<Communicator> Split(int color, int key, std::string name) override {
    return std::make_unique<HostFacing>(host_->Split(color, key, std::move(name)), context_, options_);
  }

 private:
  void Start(CollectiveSpec spec, std::shared_ptr<WorkState> work) override {
    work->MarkStart();
    const Stream stream = context_.cuda().stream;
    const int64_t bytes = std::max<int64_t>(spec.bytes(), 1);
    const auto [in_begin, out_begin] = Begins(spec);
    const int64_t in_bytes = spec.in == nullptr ? 0 : InBytes(spec);
    const bool in_place =
        spec.in != nullptr && static_cast<const char*>(spec.in) - in_begin == static_cast<char*>(spec.out) - out_begin;
    const Tensor payload = Tensor::Empty(context_.allocator(), {bytes}, DType::kU8);
    const Tensor result = in_place ? payload : Tensor::Empty(context_.allocator(), {bytes}, DType::kU8);
    char* const in = static_cast<char*>(payload.raw()) + in_begin;
    char* const out = static_cast<char*>(result.raw()) + out_begin;
    cuda::CopyAsync(in, spec.in, in_bytes, stream);
    const Work on_device = Issue(spec, in, out);
    EXPECT_FALSE(spec.bytes() > 0 && size() > 1 && on_device.Done());
    // All of it, where input and result are one: what lies outside of the result must be as it was.
    const bool whole = in_place && spec.kind == CollectiveKind::kReduceScatter;
    char* const to = static_cast<char*>(spec.out) - (whole ? out_begin : 0);
    const int64_t out_bytes = spec.out == nullptr ? 0 : whole ? spec.bytes() : OutBytes(spec);
    work->SetProgress([=, from = out - (whole ? out_begin : 0)](WorkState& state, bool wait) {
      if (!wait) return;
      on_device.WaitOnHost();
      cuda::CopyAsync(to, from, out_bytes, stream);
      cuda::Synchronize(stream);
      (void)payload, (void)result;
      state.MarkDone();
    });
  }

  Work Issue(const CollectiveSpec& spec, char* in, char* out) {
    std::vector<int64_t> elements = spec.offsets;
    for (int64_t& offset : elements) offset /= SizeOf(spec.dtype);
    const ConstElements typed_in(in, spec.dtype);
    const Elements typed_out(out, spec.dtype);
    switch (spec.kind) {
      case CollectiveKind::kAllReduce:
        return device_->AllReduce(typed_in, typed_out, elements.back(), spec.op, spec.site);
      case CollectiveKind::kReduceScatter:
        return device_->ReduceScatter(typed_in, typed_out, elements, spec.site);
      case CollectiveKind::kAllGather:
        return device_->AllGather(ConstElements(in, DType::kU8), Elements(out, DType::kU8), spec.offsets, spec.site);
      case CollectiveKind::kBroadcast:
        return device_->Broadcast(out, spec.bytes(), spec.peer, spec.site);
      case CollectiveKind::kBarrier:
        return device_->Barrier(spec.site);
      case CollectiveKind::kSend:
        return device_->Send(in, spec.bytes(), spec.peer, spec.tag, spec.site);
      case CollectiveKind::kRecv:
        return device_->Recv(out, spec.bytes(), spec.peer, spec.tag, spec.site);
      case CollectiveKind::kGather:
        break;
    }
    CHECK(false) << Name(spec.kind) << " is the host's";
    return {};
  }

  // Where in the payload `in` and `out` begin, in bytes.
  std::pair<int64_t, int64_t> Begins(const CollectiveSpec& spec) const {
    const int64_t own = OwnBegin(spec);
    return {spec.kind == CollectiveKind::kAllGather ? own : 0, spec.kind == CollectiveKind::kReduceScatter ? own : 0};
  }
  int64_t InBytes(const CollectiveSpec& spec) const {
    return spec.kind == CollectiveKind::kAllGather ? OwnBytes(spec) : spec.bytes();
  }
  int64_t OutBytes(const CollectiveSpec& spec) const {
    return spec.kind == CollectiveKind::kReduceScatter ? OwnBytes(spec) : spec.bytes();
  }
  bool HasSlices(const CollectiveSpec& spec) const { return spec.offsets.size() == static_cast<size_t>(size()) + 1; }
  int64_t OwnBegin(const CollectiveSpec& spec) const {
    return HasSlices(spec) ? spec.offsets[static_cast<size_t>(rank())] : 0;
  }
  int64_t OwnBytes(const CollectiveSpec& spec) const {
    return spec.offsets[static_cast<size_t>(rank()) + 1] - spec.offsets[static_cast<size_t>(rank())];
  }

  const std::unique_ptr<Communicator> host_;
  RankContext& context_;
  const DeviceCommOptions options_;
  std::unique_ptr<Communicator> device_;
};

}  // namespace shardit
