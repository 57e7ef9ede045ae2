// Saving behind the training step. Save copies the slices into buffers of its own at the step boundary and returns; a
// thread writes and commits them. One save is in flight at a time, so memory is bounded by one copy of what this rank
// stores, and the buffers are reused. One thread copies: it alone reaches what memory gives.
//
// The collective callbacks of the writer run on that thread: they need a communicator that nothing else uses. The
// verdict of a save is the same on all ranks, and so is what Wait returns; how soon it is there is not, so no decision
// of all ranks may hang on what Poll said.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/tensor/host_buffer.h"
#include "trainer/checkpoint/checkpoint_writer.h"

namespace shardit {

struct CheckpointTiming {
  SaveReport save;
  double stall_ms = 0;     // that training waited: for the save before, and for the copy (or the whole write)
  double write_ms = 0;     // from the end of the copy to the end of the save
  int64_t copy_bytes = 0;  // held for the copy, between saves too; 0 where the writer reads the caller's data
};

// Called from one thread.
class AsyncCheckpointer {
 public:
  // With `async` false Save writes from the caller's data and thread, and returns when the save has ended.
  AsyncCheckpointer(CheckpointWriter writer, bool async);
  // Waits for the save in flight; its error is lost unless Wait was called.
  ~AsyncCheckpointer();
  AsyncCheckpointer(const AsyncCheckpointer&) = delete;
  AsyncCheckpointer& operator=(const AsyncCheckpointer&) = delete;

  // Starts a save; how it ended, Wait or Poll says. That of the save before must have been asked for (CHECK), so that
  // no failure is lost. Data may change as soon as it returns. Asynchronous saves copy slices with `data` from there
  // and fetch the others by `read` at once, which must not fail (CHECK). Training has stalled since `stalled_since`.
  void Save(const RunState& state, std::span<const SliceRef> slices,
            std::chrono::steady_clock::time_point stalled_since = std::chrono::steady_clock::now());

  // Takes and touches the memory for a copy of such slices ahead of the first save, which then stalls for a copy alone
  // (new pages cost several times that), and running out of memory is met at the start. Does nothing without `async`.
  void Reserve(std::span<const SliceRef> slices);

  // Waits for the save in flight and returns its error, once. OK where there is none.
  absl::Status Wait();

  // The same without waiting: OK while the save is under way.
  absl::Status Poll();

  // The report of the last save that ended well and was not yet asked for; only after Wait or Poll has collected it.
  std::optional<CheckpointTiming> TakeReport();

 private:
  void Snapshot(std::span<const SliceRef> slices);
  void Write(const RunState& state, std::span<const SliceRef> slices);
  void HoldElements(std::span<const SliceRef> slices);

  CheckpointWriter writer_;
  const bool async_;
  HostBuffer buffer_;
  int64_t buffer_elements_ = 0;
  std::vector<SliceRef> owned_;  // the slices in flight, pointing into buffer_
  bool started_ = false;         // and not yet asked for
  std::thread thread_;
  std::atomic<bool> ended_ = true;  // nothing is left to do for the thread
  // Written by the thread, read after joining it.
  absl::StatusOr<SaveReport> result_ = absl::UnavailableError("no save yet");
  double write_ms_ = 0;
  double stall_ms_ = 0;
  std::optional<CheckpointTiming> report_;
};

}  // namespace shardit
