// The communication thread of a rank. Open MPI advances nonblocking messages only inside its calls, and most clusters'
// builds are safest when one thread makes them: so one thread makes the transport, makes every call on it, runs the
// collectives' state machines and their local reductions, and destroys it (for MPI: MPI_Init to MPI_Finalize).
//
// It never blocks in the transport. With messages in flight it polls, first with yields, then with sleeps that grow to
// 50 us; without, it sleeps on the command queue and looks at the transport every 1 to 10 ms, because a message that
// counts as sent may still wait inside the library for a call to push it out. CpuSeconds() says what this costs.
#pragma once

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/operation.h"
#include "parallel/comm/scratch_pool.h"
#include "parallel/comm/transport.h"

namespace shardit {

// A communicator as the engine sees it. Collectives of one channel start in the order of submission, at most
// kMaxActiveCollectives at a time, which bounds scratch memory; every rank holds back the same ones, so none waits for
// a collective that another rank may not start. Sends and receives always start at once.
class Channel {
 public:
  // id: equal on all members, unique among the channels of each. members: world ranks, in rank order.
  Channel(int id, std::vector<int> members, int rank) : id(id), members(std::move(members)), rank(rank) {}

  static constexpr int kMaxChannels = 64;
  static constexpr int kMaxActiveCollectives = 4;

  const int id;
  const std::vector<int> members;
  const int rank;

 private:
  friend class CommEngine;
  struct Waiting {
    CollectiveSpec spec;
    std::shared_ptr<WorkState> work;
  };
  // Used by the communication thread only.
  int active_ = 0;
  std::deque<Waiting> waiting_;
};

class CommEngine {
 public:
  // Starts the thread and makes the transport on it.
  static absl::StatusOr<std::unique_ptr<CommEngine>> Start(const TransportFactory& factory);
  // Completes everything submitted, destroys the transport and joins the thread. A collective that another rank never
  // issues makes it hang: leave a broken job by Abort.
  ~CommEngine();
  CommEngine(const CommEngine&) = delete;
  CommEngine& operator=(const CommEngine&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  // Thread-safe. The channel lives until its last collective is done.
  void Submit(std::shared_ptr<Channel> channel, CollectiveSpec spec, std::shared_ptr<WorkState> work);

  // Runs `body` on the communication thread and waits for it. Not from that thread.
  void Run(absl::FunctionRef<void()> body);

  // Ends the job with this exit code; at the latest after a few seconds, even if the thread is stuck.
  [[noreturn]] void Abort(int exit_code);

  // Processor time that the thread has used.
  double CpuSeconds() const;

  // Channel ids, handed out by Split, from one thread at a time.
  int next_channel_id() const { return next_channel_id_; }
  void set_next_channel_id(int id);

 private:
  // A collective to begin, or, where `task` is set, a function to run.
  struct Command {
    std::shared_ptr<Channel> channel;
    CollectiveSpec spec;
    std::shared_ptr<WorkState> work;
    std::function<void()> task;
  };
  class Running;

  CommEngine();
  void Push(Command command);
  void Wake();

  // On the communication thread.
  absl::Status MakeTransport(const TransportFactory& factory);
  void Loop();
  bool TakeCommands();
  void Begin(Command command);
  void BeginWaiting(const std::shared_ptr<Channel>& channel);
  bool Progress();
  void Launch(std::shared_ptr<Channel> channel, CollectiveSpec spec, std::shared_ptr<WorkState> work);
  bool AdvanceUntilBlocked(Running* running);
  bool Stopped();
  void Sleep();

  std::thread thread_;
  int rank_ = 0;
  int size_ = 1;
  int next_channel_id_ = 1;

  std::mutex mutex_;
  std::condition_variable wake_signal_;
  // Guarded by mutex_.
  bool awake_ = false;
  bool stopping_ = false;
  std::vector<Command> commands_;

  std::atomic<int> abort_code_{-1};

  // The communication thread's own.
  std::unique_ptr<Transport> transport_;
  ScratchPool scratch_;
  std::list<Running> running_;
  std::vector<Command> taken_;
  std::vector<void*> cookies_;
  int64_t messages_in_flight_ = 0;
  int idle_polls_ = 0;
  std::chrono::steady_clock::time_point last_progress_;
};

}  // namespace shardit
