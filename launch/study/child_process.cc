#include "launch/study/child_process.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/base/file.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

constexpr int64_t kLogEndBytes = 64 << 10;  // of a log's end, searched for the error
constexpr size_t kLongestLine = 400;        // bytes of a line that are shown

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int operator*() const { return number_; }

 private:
  const int number_;
};

struct Prepared {
  std::vector<char*> argv;  // null at the end
  int input = -1, log = -1, failed = -1;
  pid_t parent = 0;
  cpu_set_t cpus;
  bool bind = false;
};

// In the child, between fork and exec: only what may be called there. Sends errno and leaves where there is no exec.
[[noreturn]] void Become(const Prepared& prepared) {
  setpgid(0, 0);
  // What a stop asks for, should this process die: mpirun passes USR1 on, trainings save.
  prctl(PR_SET_PDEATHSIG, SIGUSR1);
  if (getppid() != prepared.parent) _exit(127);
  if (prepared.bind) sched_setaffinity(0, sizeof(prepared.cpus), &prepared.cpus);
  dup2(prepared.input, 0);
  dup2(prepared.log, 1);
  dup2(prepared.log, 2);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execvp(prepared.argv[0], prepared.argv.data());
  const int error = errno;
  (void)!write(prepared.failed, &error, sizeof(error));
  _exit(127);
}

Prepared Prepare(const ChildCommand& command, int input, int log, int failed) {
  Prepared prepared{.input = input, .log = log, .failed = failed, .parent = getpid(), .bind = !command.cpus.empty()};
  for (const std::string& word : command.argv) prepared.argv.push_back(const_cast<char*>(word.c_str()));
  prepared.argv.push_back(nullptr);
  CPU_ZERO(&prepared.cpus);
  for (const int cpu : command.cpus) CPU_SET(cpu, &prepared.cpus);
  return prepared;
}

// The errno with which exec failed; 0 where it went well (the pipe closes then).
int ExecError(int pipe) {
  int error = 0;
  ssize_t got;
  do {
    got = read(pipe, &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  return got == sizeof(error) ? error : 0;
}

absl::Status StartError(int error, const std::string& program) {
  const absl::Status status = ErrnoStatus(error, absl::StrCat("cannot start ", Quoted(program)));
  return WithExitCode(status, error == ENOENT || error == EACCES ? ExitCode::kUsage : ExitCode::kIo);
}

int64_t FileBytes(int descriptor) {
  struct stat info {};
  return fstat(descriptor, &info) == 0 ? int64_t{info.st_size} : 0;
}

std::string Printable(absl::string_view line) {
  std::string text;
  for (const char c : line.substr(0, kLongestLine)) {
    const unsigned char byte = static_cast<unsigned char>(c);
    absl::ascii_isprint(byte) ? text.push_back(c) : absl::StrAppend(&text, "\\x", absl::Hex(byte, absl::kZeroPad2));
  }
  return text;
}

}  // namespace

struct ChildProcess::State {
  pid_t pid = 0;
  std::string log;
  int64_t log_begin = 0;  // bytes in the log before this child
  std::mutex mutex;
  bool ended = false;  // guarded by mutex: once reaped, its number may be another's
};

ChildProcess::ChildProcess(std::unique_ptr<State> state) : state_(std::move(state)) {}

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(const ChildCommand& command) {
  const Descriptor log(open(command.log.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  if (*log < 0) {
    return WithExitCode(ErrnoStatus(errno, absl::StrCat("cannot open ", Quoted(command.log))), ExitCode::kIo);
  }
  const Descriptor input(open("/dev/null", O_RDONLY | O_CLOEXEC));
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return StartError(errno, command.argv[0]);
  const Descriptor read_end(ends[0]);
  auto state = std::make_unique<State>();
  state->log = command.log;
  state->log_begin = FileBytes(*log);
  {
    const Descriptor write_end(ends[1]);
    const Prepared prepared = Prepare(command, *input, *log, *write_end);
    state->pid = fork();
    if (state->pid == 0) Become(prepared);
    if (state->pid < 0) return StartError(errno, command.argv[0]);
    setpgid(state->pid, state->pid);  // here too: a signal may come before the child has run
  }
  const int error = ExecError(*read_end);
  if (error == 0) return std::unique_ptr<ChildProcess>(new ChildProcess(std::move(state)));
  waitpid(state->pid, nullptr, 0);
  return StartError(error, command.argv[0]);
}

ChildProcess::~ChildProcess() {
  if (state_->ended) return;
  Signal(SIGKILL);
  Wait();
}

ChildResult ChildProcess::Wait() {
  siginfo_t info{};
  while (waitid(P_PID, static_cast<id_t>(state_->pid), &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
  }
  int status = 0;
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->ended = true;
    while (waitpid(state_->pid, &status, 0) < 0 && errno == EINTR) {
    }
  }
  ChildResult result;
  result.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  const absl::StatusOr<RandomAccessFile> log = RandomAccessFile::Open(state_->log);
  if (!log.ok()) return result;
  const int64_t begin = std::max(state_->log_begin, log->size() - kLogEndBytes);
  std::string end(static_cast<size_t>(std::max<int64_t>(0, log->size() - begin)), '\0');
  if (log->ReadAt(begin, end.data(), static_cast<int64_t>(end.size())).ok()) result.last_error = LastErrorLine(end);
  return result;
}

void ChildProcess::Signal(int number) {
  std::lock_guard<std::mutex> lock(state_->mutex);
  if (!state_->ended) kill(-state_->pid, number);
}

std::string LastErrorLine(const std::string& log_end) {
  constexpr absl::string_view kOurs = "shardit: ";
  absl::string_view last;
  bool found = false;
  for (const absl::string_view line : absl::StrSplit(log_end, '\n')) {
    const absl::string_view text = absl::StripAsciiWhitespace(line);
    const bool ours = absl::StartsWith(text, kOurs);
    if (text.empty() || (found && !ours)) continue;
    last = ours ? absl::StripPrefix(text, kOurs) : text;
    found = ours;
  }
  return Printable(last);
}

}  // namespace shardit
