#include "trainer/faults/hang_watchdog.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/base/check.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "parallel/comm/agree_status.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kLongestTick = 1.0;  // seconds
constexpr double kPatience = 2.5;     // seconds that the reporter waits for other ranks' dumps
// A rank that was idle for less than this part of the reporter's idle time is not stuck: it moved while others waited.
constexpr double kMoving = 0.5;
// Any collective that a rank still waits for is in the log's last 1,024.
constexpr int64_t kReadRecords = 256;
constexpr int64_t kReportedRecords = 32;
constexpr size_t kReportedOperations = 24;
constexpr int64_t kMaxDumpBytes = 1 << 20;
constexpr size_t kBeatBytes = 64;

void Sleep(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

std::vector<RankPlace> ExchangePlaces(World& world, const std::string& coordinates) {
  // World, once: who to name, and which neighbours a rank can ask the kernel about.
  const std::vector<std::string> texts = world.comm().AllGatherBytes(
      absl::StrCat(world.host_name(), "\t", getpid(), "\t", coordinates), {.tag = "watchdog places", .control = true});
  std::vector<RankPlace> places;
  for (const std::string& text : texts) {
    const std::vector<std::string> words = absl::StrSplit(text, '\t');
    RankPlace place{.host = words[0], .coordinates = words[2]};
    CHECK(absl::SimpleAtoi(words[1], &place.pid));
    places.push_back(std::move(place));
  }
  return places;
}

// The kernel's letter for a process of this host.
std::string ProcessState(int64_t pid) {
  std::FILE* file = std::fopen(absl::StrCat("/proc/", pid, "/stat").c_str(), "r");
  if (file == nullptr) return "gone";
  char text[512] = "";
  const size_t bytes = std::fread(text, 1, sizeof(text) - 1, file);
  std::fclose(file);
  const absl::string_view line(text, bytes);
  const size_t name_end = line.rfind(") ");
  return name_end == absl::string_view::npos ? "?" : std::string(line.substr(name_end + 2, 1));
}

// A file that others only look at: no fsync, and an error is as good as silence.
void WriteQuietly(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".tmp";
  std::FILE* file = std::fopen(temporary.c_str(), "we");
  if (file == nullptr) return;
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (std::fclose(file) == 0 && written) std::rename(temporary.c_str(), path.c_str());
}

// True where this call made the file.
bool MakeFile(const std::string& path) {
  const int descriptor = open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
  if (descriptor < 0) return false;
  close(descriptor);
  return true;
}

std::string BeatFile(int rank) { return absl::StrCat("rank-", rank, ".beat"); }
std::string DumpFile(int rank) { return absl::StrCat("rank-", rank, ".dump"); }

}  // namespace

absl::StatusOr<std::unique_ptr<HangWatchdog>> HangWatchdog::Start(World& world, const Beacon& beacon, const OpRing& ops,
                                                                  WatchdogOptions options) {
  const std::string folder = JoinPath(options.run_folder, "watch");
  absl::Status cleared;
  if (world.rank() == 0) {
    cleared = RemoveTree(PosixFileSystem(), folder);
    if (cleared.ok()) cleared = MakeFolders(PosixFileSystem(), folder);
  }
  RETURN_IF_ERROR(AgreeStatus(world.comm(), cleared));
  std::vector<RankPlace> places = ExchangePlaces(world, options.coordinates);
  return std::unique_ptr<HangWatchdog>(new HangWatchdog(world, beacon, ops, std::move(options), std::move(places)));
}

HangWatchdog::HangWatchdog(World& world, const Beacon& beacon, const OpRing& ops, WatchdogOptions options,
                           std::vector<RankPlace> places)
    : world_(world),
      beacon_(beacon),
      ops_(ops),
      options_(std::move(options)),
      places_(std::move(places)),
      folder_(JoinPath(options_.run_folder, "watch")),
      tick_seconds_(options_.hang_seconds > 0.0 ? std::min(kLongestTick, options_.hang_seconds / 8.0) : kLongestTick),
      beat_descriptor_(open(File(BeatFile(world.rank())).c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0666)),
      deadline_(options_.hang_seconds) {
  thread_ = std::thread([this, identity = ThreadIdentity()] {
    // Signals are the main thread's.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    SetThreadIdentity(absl::StrCat(identity, ", watchdog"));
    Watch();
  });
}

HangWatchdog::~HangWatchdog() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  stop_signal_.notify_all();
  thread_.join();
  if (beat_descriptor_ >= 0) close(beat_descriptor_);
  if (world_.rank() == 0) RemoveTree(PosixFileSystem(), folder_).IgnoreError();
}

std::string HangWatchdog::File(const std::string& name) const { return JoinPath(folder_, name); }

void HangWatchdog::Watch() {
  const auto tick = std::chrono::duration<double>(tick_seconds_);
  std::unique_lock<std::mutex> lock(mutex_);
  Clock::time_point before = Clock::now();
  while (!aborted_ && !stop_signal_.wait_for(lock, tick, [this] { return stop_; })) {
    lock.unlock();
    const Clock::time_point now = Clock::now();
    // A tick that took much longer than asked for: this process was suspended, and so perhaps was the job.
    Tick(std::min(std::chrono::duration<double>(now - before).count(), 2.0 * tick_seconds_));
    before = now;
    lock.lock();
  }
}

HangWatchdog::Progress HangWatchdog::ReadProgress() const {
  const Beacon::State state = beacon_.Read();
  Progress progress{.phases = state.entered, .operations = ops_.recorded()};
  if (state.phase == Phase::kSave) progress.pieces = beacon_.ReadPieces();
  for (const CollectiveRecord& record : world_.log().Last(kReadRecords)) {
    progress.collectives_issued = record.number + 1;
    if (record.done()) progress.collectives_done = std::max(progress.collectives_done, record.number + 1);
  }
  return progress;
}

void HangWatchdog::Tick(double elapsed) {
  const Beacon::State state = beacon_.Read();
  const Progress progress = ReadProgress();
  step_seconds_ += elapsed;
  if (progress != last_progress_) {
    LearnFrom(state);
    last_progress_ = progress;
    idle_seconds_ = 0.0;
  } else {
    idle_seconds_ += elapsed;
  }
  WriteBeat(state);
  if (const absl::Status health = options_.health ? options_.health() : absl::OkStatus(); !health.ok()) {
    return AbortJob({.odd = {}, .line = absl::StrCat(ThreadIdentity(), ": ", std::string(health.message()))});
  }
  const double over = idle_seconds_ - deadline_.Seconds(state.phase, state.first_visit);
  if (over > 0.0) return Suspect(over);
  if (!dumped_ && SeesSuspect()) WriteDump();
}

bool HangWatchdog::SeesSuspect() {
  const bool there = KindOfPath(File("suspect")) == PathKind::kFile;
  suspect_seen_ |= there;
  return there;
}

void HangWatchdog::LearnFrom(const Beacon::State& state) {
  deadline_.PauseEnded(written_.phase, idle_seconds_);
  dumped_ = suspect_seen_ = false;  // what this rank said of itself no longer holds
  if (state.step == step_seen_) return;
  const int64_t steps = std::max<int64_t>(1, state.step - step_seen_);  // a tick may see several pass
  if (step_seen_ > 0) deadline_.StepTook(step_seconds_ / static_cast<double>(steps));
  step_seen_ = state.step;
  step_seconds_ = 0.0;
}

// Into an open file: no name changes, so that a shared file system's metadata server has nothing to do.
void HangWatchdog::WriteBeat(const Beacon::State& state) {
  if (beat_written_ && written_.phase == state.phase && written_.step == state.step) return;
  written_ = {state.phase, state.step};
  std::string text = FormatBeat(written_);
  text.resize(kBeatBytes - 1, ' ');
  text += '\n';
  beat_written_ = pwrite(beat_descriptor_, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size());
}

HangDump HangWatchdog::MakeDump() const {
  const std::vector<CollectiveRecord> records = world_.log().Last();
  const Beacon::State state = beacon_.Read();
  HangDump dump{.beat = {state.phase, state.step}, .idle_seconds = idle_seconds_, .comms = CommStates(records)};
  const std::vector<const char*> operations = ops_.Last();
  dump.operations =
      absl::StrJoin(operations.end() - static_cast<std::ptrdiff_t>(std::min(operations.size(), kReportedOperations)),
                    operations.end(), " ");
  const Clock::time_point now = Clock::now();
  const size_t reported = std::min(records.size(), static_cast<size_t>(kReportedRecords));
  for (size_t i = records.size() - reported; i < records.size(); ++i) {
    absl::StrAppend(&dump.collectives, Format(records[i], now), "\n");
  }
  std::vector<std::string> neighbours;
  for (size_t r = 0; r < places_.size(); ++r) {
    if (places_[r].host != world_.host_name()) continue;
    neighbours.push_back(absl::StrCat(r, "=", ProcessState(places_[r].pid)));
  }
  dump.neighbours = absl::StrJoin(neighbours, " ");
  return dump;
}

void HangWatchdog::WriteDump() {
  WriteQuietly(File(DumpFile(world_.rank())), FormatDump(MakeDump()));
  dumped_ = true;
}

void HangWatchdog::Suspect(double seconds_over) {
  // It was there and is not: the reporter stood down. Where it never came to be, there is nobody to wait for.
  if (dumped_ && !SeesSuspect() && suspect_seen_) return ForgetSuspicion();
  if (!dumped_) {
    if (MakeFile(File("suspect")) || errno == EEXIST) suspect_seen_ = true;
    WriteDump();
    if (MakeFile(File("reporter"))) return Report();
  }
  if (seconds_over < options_.reporter_seconds) return;
  AbortJob({.odd = {},
            .line = absl::StrCat("hang: no report came from the rank that was to write it; ", ThreadIdentity(), ": in ",
                                 FormatBeat(written_))});
}

// A slow moment, no hang. No dump may be left to answer for a rank that stops later.
void HangWatchdog::StandDown() {
  for (size_t r = 0; r < places_.size(); ++r) std::remove(File(DumpFile(static_cast<int>(r))).c_str());
  for (const char* name : {"reporter", "suspect"}) std::remove(File(name).c_str());
  ForgetSuspicion();
}

void HangWatchdog::ForgetSuspicion() {
  idle_seconds_ = 0.0;
  dumped_ = suspect_seen_ = false;
}

std::vector<RankEvidence> HangWatchdog::Collect() const {
  std::vector<RankEvidence> ranks;
  for (size_t r = 0; r < places_.size(); ++r) {
    RankEvidence evidence{.place = places_[r]};
    const int rank = static_cast<int>(r);
    const absl::StatusOr<std::string> beat = ReadWholeFile(File(BeatFile(rank)), kMaxDumpBytes);
    if (beat.ok()) evidence.beat = ParseBeat(*beat);
    const absl::StatusOr<std::string> dump = ReadWholeFile(File(DumpFile(rank)), kMaxDumpBytes);
    if (dump.ok()) evidence.dump = ParseDump(*dump);
    ranks.push_back(std::move(evidence));
  }
  return ranks;
}

void HangWatchdog::Report() {
  const auto answered = [](const RankEvidence& rank) { return rank.dump.has_value(); };
  std::vector<RankEvidence> ranks = Collect();
  for (double waited = 0.0; waited < kPatience && !std::all_of(ranks.begin(), ranks.end(), answered); waited += 0.1) {
    Sleep(0.1);
    ranks = Collect();
  }
  if (ReadProgress() != last_progress_) return StandDown();
  const Verdict verdict = Judge(ranks);
  const double moving = kMoving * idle_seconds_;
  const bool one_moves = std::any_of(ranks.begin(), ranks.end(), [&](const RankEvidence& rank) {
    return rank.dump.has_value() && rank.dump->idle_seconds < moving;
  });
  if (one_moves && std::all_of(ranks.begin(), ranks.end(), answered)) {
    LOG_WARN("{}: no progress here for {:.0f} s, but not a {}", ThreadIdentity(), idle_seconds_, verdict.line);
    return StandDown();
  }
  const std::string path = JoinPath(options_.run_folder, "hang_report.txt");
  WriteQuietly(path, FormatReport(verdict, ranks));
  AbortJob({.odd = verdict.odd, .line = absl::StrCat(verdict.line, "; see ", path)});
}

void HangWatchdog::AbortJob(const Verdict& verdict) {
  if (options_.abort_device) options_.abort_device();
  if (!options_.abort) {
    std::fprintf(stderr, "shardit: %s\n", verdict.line.c_str());
    world_.Abort(static_cast<int>(ExitCode::kHang));
  }
  options_.abort(verdict);
  aborted_ = true;
}

}  // namespace shardit
