// Messages between ranks that are threads of one process: whichever side comes second copies from buffer to buffer and
// wakes the other. For tests, debuggers and sanitizers, with the same collectives as across processes.
#pragma once

#include <functional>
#include <memory>

#include "parallel/comm/transport.h"

namespace shardit {

// Where the transports of one world meet. Thread-safe.
class ThreadFabric {
 public:
  explicit ThreadFabric(int size);
  ~ThreadFabric();

  // The transport of one rank, at most one at a time for each. The fabric outlives it.
  std::unique_ptr<Transport> Connect(int rank, std::function<void()> wake);

 private:
  class Endpoint;
  struct Shared;
  std::unique_ptr<Shared> shared_;
};

}  // namespace shardit
