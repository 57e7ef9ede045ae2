// Ranks with devices, as threads: what the tests of communication between devices share.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/cuda/device_query.h"
#include "core/tensor/rank_context.h"
#include "parallel/comm/device_comm.h"
#include "parallel/comm/world.h"
#include "tests/cuda/wants_gpus.h"

namespace shardit {

using Backend = DeviceCommOptions::Backend;

struct AxisCase {
  int ranks = 2;
  Backend backend = Backend::kNccl;
  CudaOptions options;
  bool messages = false;

  // NCCL wants one for every rank.
  int gpus() const { return backend == Backend::kNccl ? ranks : 1; }
};

inline std::string Name(const AxisCase& axis) {
  const std::string backend = axis.backend == Backend::kNccl ? "nccl" : "staged";
  return backend + (axis.options.deterministic ? "_deterministic" : "") + "_" + std::to_string(axis.ranks);
}

// The context of a rank, made once in a process: the next test's rank of the same number takes it over. Its device is
// the calling thread's from here on.
inline RankContext& ContextOf(int rank, const CudaOptions& options) {
  static auto* const mutex = new std::mutex;
  static auto* const contexts = new std::map<std::pair<int, bool>, std::unique_ptr<RankContext>>;
  const Device device = Device::Cuda(rank % static_cast<int>(cuda::Devices().size()));
  cuda::UseDevice(device);
  std::lock_guard<std::mutex> lock(*mutex);
  std::unique_ptr<RankContext>& context = (*contexts)[{rank, options.deterministic}];
  if (context == nullptr) context = std::make_unique<RankContext>(device, options, 1);
  return *context;
}

// One rank of an axis. `host` and `comm` have the same ranks.
struct DeviceRank {
  World& world;
  RankContext& context;
  Communicator& host;
  Communicator& comm;
};

// Runs the body as every rank; `comm` is made as the case says.
inline void RunOnDevices(const AxisCase& axis, const std::function<void(DeviceRank& rank)>& body) {
  RunThreadWorld(axis.ranks, [&](World& world) {
    SCOPED_TRACE(Name(axis) + ", rank " + std::to_string(world.rank()));
    RankContext& context = ContextOf(world.rank(), axis.options);
    const std::unique_ptr<Communicator> host = world.comm().Split(0, world.rank(), "axis");
    auto comm = MakeDeviceComm(*host, context, {.backend = axis.backend, .messages = axis.messages});
    ASSERT_TRUE(comm.ok()) << comm.status();
    DeviceRank rank{world, context, *host, **comm};
    body(rank);
    context.Synchronize();
  });
}

}  // namespace shardit
