#include "parallel/comm/engine.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"

namespace shardit {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kYields = 64;
constexpr auto kFirstSleep = std::chrono::microseconds(5);
constexpr auto kLongestSleep = std::chrono::microseconds(50);
// Without messages in flight: look at the transport this often, and less often once it has been quiet for a while.
constexpr auto kIdleSleep = std::chrono::milliseconds(1);
constexpr auto kLongIdleSleep = std::chrono::milliseconds(10);
constexpr auto kQuietAfter = std::chrono::seconds(1);
// A poll that takes this long was moving bytes, although no message completed.
constexpr auto kBusyPoll = std::chrono::microseconds(2);
constexpr auto kAbortPatience = std::chrono::seconds(5);

bool IsPointToPoint(CollectiveKind kind) { return kind == CollectiveKind::kSend || kind == CollectiveKind::kRecv; }

// 23 bits: channel, kind of matching, then the caller's tag or the collective's number. That number may wrap: messages
// of equal tags match in the order posted.
int WireTag(const Channel& channel, const CollectiveSpec& spec) {
  const bool point_to_point = IsPointToPoint(spec.kind);
  const int low = point_to_point ? spec.tag : static_cast<int>(spec.sequence % Communicator::kMaxTag);
  return (channel.id * 2 + (point_to_point ? 1 : 0)) * Communicator::kMaxTag + low;
}

}  // namespace

// A collective in flight, and the port its operation posts to.
class CommEngine::Running final : public Port {
 public:
  Running(CommEngine* engine, std::shared_ptr<Channel> channel, CollectiveSpec spec, std::shared_ptr<WorkState> work)
      : engine(engine),
        channel(std::move(channel)),
        collective(!IsPointToPoint(spec.kind)),
        tag(WireTag(*this->channel, spec)),
        work(std::move(work)),
        operation(MakeOperation(std::move(spec), this->channel->rank, static_cast<int>(this->channel->members.size()),
                                &engine->scratch_)) {}

  void Send(int peer, const void* data, int64_t bytes) override {
    const uint8_t* begin = static_cast<const uint8_t*>(data);
    InMessages(bytes, [&](int64_t offset, int64_t length) {
      engine->transport_->PostSend(channel->members[peer], tag, begin + offset, length, this);
    });
  }
  void Recv(int peer, void* data, int64_t bytes) override {
    uint8_t* begin = static_cast<uint8_t*>(data);
    InMessages(bytes, [&](int64_t offset, int64_t length) {
      engine->transport_->PostRecv(channel->members[peer], tag, begin + offset, length, this);
    });
  }

  CommEngine* const engine;
  const std::shared_ptr<Channel> channel;
  const bool collective;
  const int tag;
  const std::shared_ptr<WorkState> work;
  const std::unique_ptr<Operation> operation;
  int64_t pending = 0;  // messages posted and not yet completed
  std::list<Running>::iterator self;

 private:
  template <class Post>
  void InMessages(int64_t bytes, Post post) {
    for (int64_t offset = 0; offset < bytes; offset += Transport::kMaxMessageBytes) {
      ++pending;
      ++engine->messages_in_flight_;
      post(offset, std::min(Transport::kMaxMessageBytes, bytes - offset));
    }
  }
};

CommEngine::CommEngine() = default;

absl::StatusOr<std::unique_ptr<CommEngine>> CommEngine::Start(const TransportFactory& factory) {
  std::unique_ptr<CommEngine> engine(new CommEngine);
  std::promise<absl::Status> made;
  engine->thread_ = std::thread([engine = engine.get(), &factory, &made] {
    // Signals are the main thread's; threads that the transport starts inherit this mask.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    // Sleeps of a few microseconds would otherwise be rounded up to the default slack of 50.
    prctl(PR_SET_TIMERSLACK, 1);
    SetThreadIdentity("communication thread");
    const absl::Status status = engine->MakeTransport(factory);
    made.set_value(status);
    if (status.ok()) engine->Loop();
    engine->transport_.reset();
  });
  const absl::Status status = made.get_future().get();
  if (!status.ok()) return status;
  return engine;
}

CommEngine::~CommEngine() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  Wake();
  thread_.join();
}

void CommEngine::Submit(std::shared_ptr<Channel> channel, CollectiveSpec spec, std::shared_ptr<WorkState> work) {
  Push({std::move(channel), std::move(spec), std::move(work), nullptr});
}

void CommEngine::Run(absl::FunctionRef<void()> body) {
  std::promise<void> done;
  Push({nullptr, {}, nullptr, [&] {
          body();
          done.set_value();
        }});
  done.get_future().wait();
}

void CommEngine::Abort(int exit_code) {
  abort_code_.store(exit_code);
  Wake();
  std::this_thread::sleep_for(kAbortPatience);
  std::fflush(nullptr);
  // The launcher ends the job when a rank leaves without finalizing.
  _exit(exit_code);
}

double CommEngine::CpuSeconds() const {
  clockid_t clock;
  timespec time{};
  // The thread lives as long as the engine, so its clock exists.
  CHECK_EQ(pthread_getcpuclockid(const_cast<std::thread&>(thread_).native_handle(), &clock), 0);
  CHECK_EQ(clock_gettime(clock, &time), 0);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void CommEngine::set_next_channel_id(int id) {
  CHECK_LE(id, Channel::kMaxChannels) << "[comm] too many communicators on one rank";
  next_channel_id_ = id;
}

void CommEngine::Push(Command command) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    commands_.push_back(std::move(command));
  }
  wake_signal_.notify_one();
}

void CommEngine::Wake() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    awake_ = true;
  }
  wake_signal_.notify_one();
}

absl::Status CommEngine::MakeTransport(const TransportFactory& factory) {
  absl::StatusOr<std::unique_ptr<Transport>> transport = factory([this] { Wake(); });
  if (!transport.ok()) return transport.status();
  transport_ = *std::move(transport);
  rank_ = transport_->rank();
  size_ = transport_->size();
  SetThreadIdentity(absl::StrCat("rank ", rank_, ", communication thread"));
  return absl::OkStatus();
}

void CommEngine::Loop() {
  last_progress_ = Clock::now();
  for (;;) {
    const bool took = TakeCommands();
    const bool progressed = Progress();
    if (abort_code_.load() >= 0) transport_->Abort(abort_code_.load());
    if (took || progressed) {
      idle_polls_ = 0;
      last_progress_ = Clock::now();
      continue;
    }
    if (running_.empty() && Stopped()) return;
    Sleep();
  }
}

bool CommEngine::TakeCommands() {
  taken_.clear();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    taken_.swap(commands_);
    awake_ = false;
  }
  for (Command& command : taken_) {
    if (command.task != nullptr) {
      command.task();
    } else {
      Begin(std::move(command));
    }
  }
  return !taken_.empty();
}

void CommEngine::Begin(Command command) {
  if (IsPointToPoint(command.spec.kind)) {
    Launch(std::move(command.channel), std::move(command.spec), std::move(command.work));
    return;
  }
  command.channel->waiting_.push_back({std::move(command.spec), std::move(command.work)});
  BeginWaiting(command.channel);
}

void CommEngine::BeginWaiting(const std::shared_ptr<Channel>& channel) {
  while (!channel->waiting_.empty() && channel->active_ < Channel::kMaxActiveCollectives) {
    Channel::Waiting next = std::move(channel->waiting_.front());
    channel->waiting_.pop_front();
    Launch(channel, std::move(next.spec), std::move(next.work));
  }
}

void CommEngine::Launch(std::shared_ptr<Channel> channel, CollectiveSpec spec, std::shared_ptr<WorkState> work) {
  work->MarkStart();
  running_.emplace_front(this, std::move(channel), std::move(spec), std::move(work));
  Running& running = running_.front();
  running.self = running_.begin();
  if (running.collective) ++running.channel->active_;
  AdvanceUntilBlocked(&running);
}

// Returns true when the operation has finished; `running` is then gone.
bool CommEngine::AdvanceUntilBlocked(Running* running) {
  while (running->operation->Advance(*running)) {
    if (running->pending > 0) return false;
  }
  if (running->collective) --running->channel->active_;
  const std::shared_ptr<WorkState> work = running->work;
  running_.erase(running->self);
  work->MarkDone();
  return true;
}

bool CommEngine::Progress() {
  cookies_.clear();
  const Clock::time_point before = Clock::now();
  transport_->Poll(&cookies_);
  const bool busy = messages_in_flight_ > 0 && Clock::now() - before > kBusyPoll;
  messages_in_flight_ -= static_cast<int64_t>(cookies_.size());
  for (void* cookie : cookies_) {
    Running* running = static_cast<Running*>(cookie);
    if (--running->pending > 0) continue;
    const std::shared_ptr<Channel> channel = running->channel;
    if (AdvanceUntilBlocked(running)) BeginWaiting(channel);
  }
  return busy || !cookies_.empty();
}

bool CommEngine::Stopped() {
  std::lock_guard<std::mutex> lock(mutex_);
  return stopping_ && commands_.empty();
}

void CommEngine::Sleep() {
  const bool polling = transport_->NeedsPolling();
  if (polling && messages_in_flight_ > 0 && idle_polls_ < kYields) {
    ++idle_polls_;
    sched_yield();
    return;
  }
  std::unique_lock<std::mutex> lock(mutex_);
  const auto woken = [this] { return awake_ || !commands_.empty(); };
  if (!polling) {
    wake_signal_.wait(lock, woken);
  } else if (messages_in_flight_ > 0) {
    const int doublings = std::min(4, (idle_polls_++ - kYields) / 4);
    wake_signal_.wait_for(lock, std::min(kLongestSleep, kFirstSleep * (1 << doublings)), woken);
  } else {
    const bool quiet = Clock::now() - last_progress_ > kQuietAfter;
    wake_signal_.wait_for(lock, quiet ? kLongIdleSleep : kIdleSleep, woken);
  }
}

}  // namespace shardit
