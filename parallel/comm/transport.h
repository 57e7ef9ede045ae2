// Point-to-point messages between the ranks of a world: all that a backend has to provide for every collective. Made,
// used and destroyed on one communication thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"

namespace shardit {

class Transport {
 public:
  virtual ~Transport() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Begin a message of `bytes` in [1, kMaxMessageBytes] to or from world rank `peer` != rank(). Messages of equal
  // (sender, receiver, tag) match in the order posted; tags are in [0, 2^23), which every MPI library allows. The
  // cookie comes back from Poll once the buffer may be reused (send) or read (receive).
  virtual void PostSend(int peer, int tag, const void* data, int64_t bytes, void* cookie) = 0;
  virtual void PostRecv(int peer, int tag, void* data, int64_t bytes, void* cookie) = 0;

  // Appends the cookies of messages that have completed since the last call. Never blocks.
  virtual void Poll(std::vector<void*>* cookies) = 0;

  // True: messages advance only inside Poll, so the thread has to come back often. False: a completion calls the wake
  // function that the transport was made with.
  virtual bool NeedsPolling() const = 0;

  // Ends the whole job with this exit code.
  [[noreturn]] virtual void Abort(int exit_code) = 0;

  // Longer transfers go as several messages.
  static constexpr int64_t kMaxMessageBytes = 16 << 20;
};

// Makes a transport on the communication thread. `wake` may be called from any thread until the transport is destroyed.
using TransportFactory = std::function<absl::StatusOr<std::unique_ptr<Transport>>(std::function<void()> wake)>;

}  // namespace shardit
