// HangWatchdog: a thread on each rank that notices when the rank stops moving, collects the state of all ranks and ends
// the job with exit code 76, naming the odd rank. Communication may be what hangs, so ranks meet in a folder that all
// of them see, `<run folder>/watch`:
//
//   rank-<r>.beat   what rank r was doing, rewritten when that changes, at most once a tick: known even of a rank whose
//                   process is stopped. Nothing else is written while all is well.
//   suspect         made by the first rank without progress past the deadline: every watchdog that sees it writes
//   rank-<r>.dump   its rank's state (hang_report.h);
//   reporter        who makes this file waits for the dumps, at most kPatience, writes `<run folder>/hang_report.txt`,
//                   prints the verdict and aborts. If it dies, the others abort a little later.
//
// Progress is any of: a phase entered, a collective issued or done, an operation recorded; and, in Phase::kSave only, a
// piece of a checkpoint done, for in other phases a save behind them would hide their standstill. Time that the whole
// process spent suspended does not count, so that a job continued by its scheduler is not taken for hung. A rank that
// moves again while dumps are being collected is not aborted, nor is a job in which every rank answers and one still
// moves: that one is slow, not hung, and a warning names it. Where the folder is gone or takes no files, ranks cannot
// meet, and each ends the job a little after its own deadline. A file system that blocks every writer of the run folder
// blocks the watchdog too: the job then waits for it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "core/tensor/op_ring.h"
#include "parallel/comm/world.h"
#include "trainer/faults/beacon.h"
#include "trainer/faults/hang_deadline.h"
#include "trainer/faults/hang_report.h"

namespace shardit {

struct WatchdogOptions {
  std::string run_folder;
  std::string coordinates;         // of this rank on the mesh, "pp=0 dp=1 tp=0"
  double hang_seconds = 0.0;       // 0: learned
  double reporter_seconds = 20.0;  // after the deadline: ranks then give up on the reporter
  // Asked at every tick, on the watchdog's thread: an error, of a communication library for one, ends the job at once.
  // Empty: nobody is asked.
  std::function<absl::Status()> health;
  // Called before the job ends: gives up what is under way on the device.
  std::function<void()> abort_device;
  // What ends the job. Empty: prints the verdict, then World::Abort(76). For tests, which must go on: the watchdog then
  // stops watching.
  std::function<void(const Verdict&)> abort;
};

class HangWatchdog {
 public:
  // Collective over the world: clears the folder, exchanges places, starts the thread. `world`, `beacon` and `ops`
  // outlive the object. Make it right before the first step, when loading is over.
  static absl::StatusOr<std::unique_ptr<HangWatchdog>> Start(World& world, const Beacon& beacon, const OpRing& ops,
                                                             WatchdogOptions options);
  // Stops the thread; rank 0's removes the folder. Destroy it when the last step and save are over, before the job's
  // orderly end, whose waits are nobody's hang.
  ~HangWatchdog();
  HangWatchdog(const HangWatchdog&) = delete;
  HangWatchdog& operator=(const HangWatchdog&) = delete;

 private:
  HangWatchdog(World& world, const Beacon& beacon, const OpRing& ops, WatchdogOptions options,
               std::vector<RankPlace> places);

  struct Progress {
    uint64_t phases = 0, operations = 0, pieces = 0;
    int64_t collectives_issued = 0, collectives_done = 0;
    friend bool operator==(const Progress&, const Progress&) = default;
  };
  Progress ReadProgress() const;
  void Watch();
  void Tick(double elapsed);
  void LearnFrom(const Beacon::State& state);
  void WriteBeat(const Beacon::State& state);
  void Suspect(double seconds_over);
  HangDump MakeDump() const;
  bool SeesSuspect();
  void WriteDump();
  void Report();
  void StandDown();
  void ForgetSuspicion();
  std::vector<RankEvidence> Collect() const;
  void AbortJob(const Verdict& verdict);
  std::string File(const std::string& name) const;

  World& world_;
  const Beacon& beacon_;
  const OpRing& ops_;
  const WatchdogOptions options_;
  const std::vector<RankPlace> places_;
  const std::string folder_;
  const double tick_seconds_;
  const int beat_descriptor_;

  // The thread's own.
  HangDeadline deadline_;
  Progress last_progress_;
  double idle_seconds_ = 0.0;
  Beat written_;
  bool beat_written_ = false, aborted_ = false;
  // Since the last progress: this rank has dumped its state (or tried to), and has seen that `suspect` was there.
  bool dumped_ = false, suspect_seen_ = false;
  int64_t step_seen_ = -1;
  double step_seconds_ = 0.0;  // since step_seen_ began

  std::mutex mutex_;
  std::condition_variable stop_signal_;
  bool stop_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace shardit
