#include "parallel/comm/thread_transport.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "core/base/check.h"

namespace shardit {
namespace {

struct Message {
  const void* source = nullptr;  // of a send
  void* target = nullptr;        // of a receive
  int64_t bytes = 0;
  int owner = 0;  // the rank that posted it
  void* cookie = nullptr;
};

// Sender, receiver, tag.
using Key = std::tuple<int, int, int>;

}  // namespace

struct ThreadFabric::Shared {
  struct Mailbox {
    std::vector<void*> completed;
    std::function<void()> wake;
  };

  // Pairs the message with the oldest one of the other direction, or leaves it for that to come.
  void Post(const Key& key, const Message& message) {
    Message other;
    {
      std::lock_guard<std::mutex> lock(mutex);
      auto& queue = unmatched[key];
      if (queue.empty() || (queue.front().source != nullptr) == (message.source != nullptr)) {
        queue.push_back(message);
        return;
      }
      other = queue.front();
      queue.pop_front();
      if (queue.empty()) unmatched.erase(key);
    }
    const auto [sender, receiver, tag] = key;
    CHECK_EQ(message.bytes, other.bytes) << "[comm] message from rank " << sender << " to rank " << receiver << ", tag "
                                         << tag << ": the two sides differ in size";
    const bool sending = message.source != nullptr;
    std::memcpy(sending ? other.target : message.target, sending ? message.source : other.source, message.bytes);
    std::lock_guard<std::mutex> lock(mutex);
    Complete(message);
    Complete(other);
  }

  // The wake call stays under the lock, so that a transport which has left is never woken.
  void Complete(const Message& message) {
    mailboxes[message.owner].completed.push_back(message.cookie);
    if (mailboxes[message.owner].wake != nullptr) mailboxes[message.owner].wake();
  }

  std::mutex mutex;
  std::map<Key, std::deque<Message>> unmatched;
  std::vector<Mailbox> mailboxes;
};

class ThreadFabric::Endpoint final : public Transport {
 public:
  Endpoint(Shared* shared, int rank) : shared_(shared), rank_(rank) {}
  ~Endpoint() override {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    shared_->mailboxes[rank_].wake = nullptr;
  }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(shared_->mailboxes.size()); }
  bool NeedsPolling() const override { return false; }

  void PostSend(int peer, int tag, const void* data, int64_t bytes, void* cookie) override {
    shared_->Post({rank_, peer, tag}, {data, nullptr, bytes, rank_, cookie});
  }
  void PostRecv(int peer, int tag, void* data, int64_t bytes, void* cookie) override {
    shared_->Post({peer, rank_, tag}, {nullptr, data, bytes, rank_, cookie});
  }
  void Poll(std::vector<void*>* cookies) override {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    auto& completed = shared_->mailboxes[rank_].completed;
    cookies->insert(cookies->end(), completed.begin(), completed.end());
    completed.clear();
  }
  void Abort(int exit_code) override {
    std::fflush(nullptr);
    std::_Exit(exit_code);
  }

 private:
  Shared* const shared_;
  const int rank_;
};

ThreadFabric::ThreadFabric(int size) : shared_(std::make_unique<Shared>()) { shared_->mailboxes.resize(size); }
ThreadFabric::~ThreadFabric() = default;

std::unique_ptr<Transport> ThreadFabric::Connect(int rank, std::function<void()> wake) {
  std::lock_guard<std::mutex> lock(shared_->mutex);
  CHECK(shared_->mailboxes[rank].wake == nullptr) << "[comm] rank " << rank << " is already connected";
  shared_->mailboxes[rank].wake = std::move(wake);
  return std::make_unique<Endpoint>(shared_.get(), rank);
}

}  // namespace shardit
