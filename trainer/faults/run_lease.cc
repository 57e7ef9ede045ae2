#include "trainer/faults/run_lease.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/check.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "parallel/comm/agree_status.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMaxLeaseBytes = 4096;
constexpr int64_t kLeaseBytes = 512;
constexpr double kLongestLook = 1.0;  // seconds between looks at a remote holder's file

// Bound to the open file, not the process: freed when its last descriptor closes, however the process ends.
int TryLock(int descriptor) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return fcntl(descriptor, F_OFD_SETLK, &lock) == 0 ? 0 : errno;
}

// "host\tpid 12 since 2024-01-01T00:00:00Z\trenewals": the holder's first two fields name it, the third moves.
std::vector<std::string> Fields(const std::string& content) { return absl::StrSplit(content, '\t'); }

std::string HolderOf(const std::string& content) {
  const std::vector<std::string> fields = Fields(content);
  return fields.size() == 3 ? absl::StrCat(Quoted(fields[0]), ", ", Quoted(fields[1])) : "a process of unknown name";
}

absl::Status Refuse(const std::string& path, const std::string& content) {
  return WithExitCode(
      absl::AlreadyExistsError(absl::StrCat("another job uses this run folder: ", Quoted(path), " is held by host ",
                                            HolderOf(content), "; stop that job, or give another --out")),
      ExitCode::kCannotCreate);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RunLease>> RunLease::Take(World& world, const std::string& run_folder,
                                                         LeaseOptions options) {
  std::unique_ptr<RunLease> lease(new RunLease);
  if (options.host.empty()) options.host = world.host_name();
  if (!options.lost) {
    options.lost = [&world, run_folder](const std::string& taker) {
      std::fprintf(stderr, "shardit: run folder %s was taken over by %s while this job was suspended\n",
                   Quoted(run_folder).c_str(), taker.c_str());
      world.Abort(static_cast<int>(ExitCode::kIo));
    };
  }
  absl::Status taken;
  if (world.rank() == 0) taken = lease->Acquire(run_folder, std::move(options));
  // World: rank 0's verdict, its exit code included.
  int32_t held = absl::IsAlreadyExists(taken) ? 1 : 0;
  world.comm().Broadcast(&held, 1, 0, {.tag = "lease", .control = true}).Wait();
  RETURN_IF_ERROR(held != 0 ? WithExitCode(AgreeStatus(world.comm(), taken), ExitCode::kCannotCreate)
                            : AgreeStatus(world.comm(), taken));
  return lease;
}

absl::Status RunLease::Acquire(const std::string& run_folder, LeaseOptions options) {
  options_ = std::move(options);
  RETURN_IF_ERROR(MakeFolders(PosixFileSystem(), run_folder));
  path_ = JoinPath(run_folder, "lease");
  descriptor_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (descriptor_ < 0) return ErrnoStatus(errno, absl::StrCat("cannot open ", Quoted(path_)));
  const int error = TryLock(descriptor_);
  const absl::StatusOr<std::string> content = Read();
  if (error == EAGAIN || error == EACCES) return Refuse(path_, content.value_or(""));
  RETURN_IF_ERROR(content.status());  // nobody knows whose it is
  const bool locked = error == 0;     // else the file system has no locks, and renewals alone tell
  const std::vector<std::string> holder = Fields(*content);
  const bool local = locked && holder[0] == options_.host;
  if (!content->empty() && !local) RETURN_IF_ERROR(WaitForRemote(*content));
  identity_ = absl::StrCat(options_.host, "\tpid ", getpid(), " since ",
                           absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone()));
  RETURN_IF_ERROR(Write());
  thread_ = std::thread([this, identity = ThreadIdentity()] {
    // Signals are the main thread's.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    SetThreadIdentity(absl::StrCat(identity, ", lease"));
    Renew();
  });
  return absl::OkStatus();
}

absl::Status RunLease::WaitForRemote(const std::string& content) {
  LOG_INFO("waiting up to {:.0f} s to see whether the last job in this run folder, on host {}, still lives",
           options_.remote_patience_seconds, HolderOf(content));
  const std::chrono::duration<double> patience(options_.remote_patience_seconds);
  const std::chrono::duration<double> look(std::min(kLongestLook, options_.remote_patience_seconds / 4.0));
  for (const Clock::time_point start = Clock::now(); Clock::now() - start < patience;) {
    std::this_thread::sleep_for(look);
    const absl::StatusOr<std::string> now = Read();
    if (!now.ok()) continue;
    if (now->empty()) return absl::OkStatus();
    if (*now != content) return Refuse(path_, *now);
  }
  return absl::OkStatus();
}

// Opened anew: a network file system promises fresh content to those who open, not to those who hold.
absl::StatusOr<std::string> RunLease::Read() const {
  return ReadWholeFile(path_, kMaxLeaseBytes, RandomAccessFile::Links::kRefuse);
}

// In place and of one length: a file that is empty for a moment would read as released.
absl::Status RunLease::Write() {
  std::string text = absl::StrCat(identity_, "\t", renewals_);
  text.resize(kLeaseBytes - 1, ' ');
  text += '\n';
  if (pwrite(descriptor_, text.data(), text.size(), 0) != kLeaseBytes || ftruncate(descriptor_, kLeaseBytes) != 0 ||
      fsync(descriptor_) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot write ", Quoted(path_)));
  }
  return absl::OkStatus();
}

bool RunLease::IsOurs(const std::string& content) const { return content.compare(0, identity_.size(), identity_) == 0; }

void RunLease::Renew() {
  std::unique_lock<std::mutex> lock(mutex_);
  const std::chrono::duration<double> pause(options_.renew_seconds);
  while (!stop_signal_.wait_for(lock, pause, [this] { return stop_; })) {
    lock.unlock();
    const absl::StatusOr<std::string> content = Read();
    // Empty: released, and not by this job. The kernel lock proves nothing here: a server may have dropped it.
    if (content.ok() && content->empty()) return options_.lost("a job that has ended since");
    if (content.ok() && !IsOurs(*content)) return options_.lost(absl::StrCat("host ", HolderOf(*content)));
    ++renewals_;
    // A full disk or a moment's failure, of the read too, is for those who save to report; the kernel lock holds all
    // the same.
    Write().IgnoreError();
    lock.lock();
  }
}

RunLease::~RunLease() {
  if (thread_.joinable()) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    stop_signal_.notify_all();
    thread_.join();
    // Released: the next job need not wait. If it fails the file stays, and the next job waits for its patience.
    if (IsOurs(Read().value_or(""))) (void)!ftruncate(descriptor_, 0);
  }
  if (descriptor_ >= 0) close(descriptor_);
}

}  // namespace shardit
