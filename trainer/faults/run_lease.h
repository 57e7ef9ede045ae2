// RunLease: one run folder, one job. Rank 0 of a job holds a kernel lock on `<run folder>/lease` and keeps its name in
// that file, renewed every few seconds.
//
//   lock held by another           refused at once, with who holds it (a process of this host, or of another where the
//                                  file system's locks reach across hosts)
//   lock free, holder of this host dead (the kernel freed its lock): taken at once
//   lock free, holder elsewhere    its lock may be invisible here, so it is taken only after 60 s without renewal,
//                                  by change of the file's content: no clocks are compared
//   released                       the file is empty: taken at once
//
// A holder that finds another name in the file, or none, was suspended for longer than that: another job took the
// folder, and with none has released it since, leaving newer checkpoints. It must stop writing at once: `lost` is
// called.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "parallel/comm/world.h"

namespace shardit {

struct LeaseOptions {
  double renew_seconds = 10.0;
  double remote_patience_seconds = 60.0;
  std::string host;  // empty: this host's name
  // Called on the renewing thread with who took the folder. Empty: prints, then World::Abort(74).
  std::function<void(const std::string& taker)> lost;
};

class RunLease {
 public:
  // Collective over the world: rank 0 makes the folder and takes the lease, all ranks return its verdict: AlreadyExists
  // (exit code 73) where another job holds it. Others than rank 0 hold an empty object. Before RunFolder::Open, which
  // writes.
  static absl::StatusOr<std::unique_ptr<RunLease>> Take(World& world, const std::string& run_folder,
                                                        LeaseOptions options = {});
  // Releases.
  ~RunLease();
  RunLease(const RunLease&) = delete;
  RunLease& operator=(const RunLease&) = delete;

 private:
  RunLease() = default;
  absl::Status Acquire(const std::string& run_folder, LeaseOptions options);
  absl::Status WaitForRemote(const std::string& content);
  absl::Status Write();
  absl::StatusOr<std::string> Read() const;
  bool IsOurs(const std::string& content) const;
  void Renew();

  LeaseOptions options_;
  std::string path_, identity_;
  int descriptor_ = -1;
  int64_t renewals_ = 0;
  std::mutex mutex_;
  std::condition_variable stop_signal_;
  bool stop_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace shardit
