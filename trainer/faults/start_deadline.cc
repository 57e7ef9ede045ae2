#include "trainer/faults/start_deadline.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

// Missing ranks beyond this are counted, not listed.
constexpr size_t kMaxListed = 16;

// The first of the variables that is set and a number; `otherwise` if none is.
int FirstNumber(std::initializer_list<const char*> variables, int otherwise) {
  for (const char* variable : variables) {
    int value = 0;
    if (const char* text = std::getenv(variable); text != nullptr && absl::SimpleAtoi(text, &value)) return value;
  }
  return otherwise;
}

// What tells this start of a job from all others, from the launcher.
std::string JobName() {
  std::string name;
  for (const char* variable : {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"}) {
    if (const char* text = std::getenv(variable); text != nullptr) absl::StrAppend(&name, text, ".");
  }
  return absl::StrCat(absl::Hex(HashBytes(name), absl::kZeroPad16));
}

}  // namespace

double StartSeconds(double otherwise) {
  double seconds = 0.0;
  const char* text = std::getenv("SHARDIT_START_SECONDS");
  return text != nullptr && absl::SimpleAtod(text, &seconds) && seconds > 0.0 ? seconds : otherwise;
}

StartDeadline::StartDeadline(const StartDeadlineOptions& options)
    : options_(options),
      rank_(FirstNumber({"OMPI_COMM_WORLD_RANK", "PMIX_RANK"}, -1)),
      size_(FirstNumber({"OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"}, 0)) {
  if (rank_ < 0) return;
  if (!options_.folder.empty()) tokens_ = JoinPath(options_.folder, absl::StrCat(".start-", JobName()));
  thread_ = std::thread([this] {
    // Signals are the main thread's.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    Watch();
  });
}

StartDeadline::~StartDeadline() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    done_ = true;
  }
  done_signal_.notify_all();
  thread_.join();
}

bool StartDeadline::WaitFor(double seconds) {
  std::unique_lock<std::mutex> lock(mutex_);
  return done_signal_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return done_; });
}

void StartDeadline::Watch() {
  if (WaitFor(options_.seconds / 2.0)) return;
  WriteToken();
  if (WaitFor(options_.seconds / 2.0)) {
    // Late, but all have come. Whoever is last removes the folder.
    if (!tokens_.empty()) {
      std::remove(JoinPath(tokens_, absl::StrCat(rank_)).c_str());
      rmdir(tokens_.c_str());
    }
    return;
  }
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  std::fprintf(stderr, "shardit: rank %d of %d on host %s: the ranks did not come together within %g s%s\n", rank_,
               size_, host, options_.seconds, Missing().c_str());
  std::fflush(nullptr);
  // No communication exists to end the job by; the launcher does when a rank leaves like this.
  _exit(static_cast<int>(ExitCode::kHang));
}

void StartDeadline::WriteToken() const {
  if (tokens_.empty()) return;
  mkdir(tokens_.c_str(), 0777);
  const int descriptor = open(JoinPath(tokens_, absl::StrCat(rank_)).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
  if (descriptor >= 0) close(descriptor);
}

std::string StartDeadline::Missing() const {
  if (tokens_.empty()) return "";
  std::vector<int> missing;
  for (int r = 0; r < size_; ++r) {
    if (KindOfPath(JoinPath(tokens_, absl::StrCat(r))) == PathKind::kMissing) missing.push_back(r);
  }
  // Ranks end one another: the first to get here tidies up, a later one may find nothing.
  RemoveTree(PosixFileSystem(), tokens_).IgnoreError();
  if (missing.empty()) return "; every rank was started, so look at the network between the hosts";
  if (static_cast<int>(missing.size()) == size_) return "";
  const size_t count = missing.size();
  missing.resize(std::min(count, kMaxListed));
  return absl::StrCat("; missing: rank ", absl::StrJoin(missing, ", "),
                      count > kMaxListed ? absl::StrCat(" and ", count - kMaxListed, " more") : "");
}

}  // namespace shardit
