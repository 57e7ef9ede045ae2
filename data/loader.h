// Batches for training, prefetched. Step s consumes positions [s B, (s + 1) B) of the endless sample stream
// (data/epoch_order.h), B the global batch; rank r of n data-parallel ranks gets positions s B + [r B / n, (r + 1) B /
// n), or, dealt out in runs, the runs r, r + n, r + 2 n, ... of the B positions. Nothing is dropped at epoch ends and
// nothing is kept between steps: a loader that starts at step s continues exactly what another one, on any number of
// ranks, left there.
//
// Everything random is a function of (seed, position): the order, the mirror along the width (probability one half: the
// first bit of Philox(seed, kFlip, position)), the posterior draw of files that hold moments.
//
// Threads: one IO thread a loader reads, converts and, where the layout needs it, calls HDF5. It fills a ring of
// buffers that are allocated once; a step allocates nothing. The thread inherits the processor affinity of the thread
// that calls Create. Next is for one consumer thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/aligned_buffer.h"
#include "data/dataset.h"
#include "data/epoch_order.h"

namespace shardit {

struct LoaderOptions {
  uint64_t seed = 0;
  int64_t global_batch = 1;  // samples a step over all ranks
  int64_t dp_rank = 0;
  int64_t dp_size = 1;
  int64_t run = 0;  // samples of a run, a divisor of global_batch / dp_size; 0: one run a rank
  bool flip = true;
  int64_t start_step = 0;
  int prefetch = 2;  // batches read ahead of the one in use, at least 1
};

// A rank's part of one step: n = B / dp_size samples. Views into the loader, valid until the next call of Next.
struct Batch {
  int64_t step = 0;
  double wait_ms = 0;                   // how long Next blocked for this batch: the step's data_wait_ms
  std::span<const float> x;             // [n, C, H, W], 64-byte aligned
  std::span<const int32_t> y;           // [n]
  std::span<const int64_t> sample_ids;  // [n], indices into the data set
  std::span<const int64_t> positions;   // [n]
};

class Loader {
 public:
  // InvalidArgument when the ranks do not divide the global batch or a number is out of range; ResourceExhausted when
  // the ring does not fit into memory. Starts reading at once.
  static absl::StatusOr<std::unique_ptr<Loader>> Create(std::shared_ptr<const Dataset> dataset,
                                                        const LoaderOptions& options);
  // Stops after the sample being read.
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The next step's batch; the previous one's buffers go back to the ring. A read error is returned at the step that it
  // belongs to, and again by every later call.
  absl::StatusOr<const Batch*> Next();

  int64_t local_batch() const { return options_.global_batch / options_.dp_size; }

 private:
  struct Slot {
    AlignedBuffer<float> x;
    AlignedBuffer<int32_t> y;
    AlignedBuffer<int64_t> sample_ids, positions;
    Batch batch;
    absl::Status status;
  };

  Loader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options, SampleReader reader);
  absl::Status AllocateRing();
  void ReadAhead();
  absl::Status Fill(int64_t step, Slot& slot);

  const std::shared_ptr<const Dataset> dataset_;
  const LoaderOptions options_;
  // The IO thread's own.
  SampleReader reader_;
  SampleStream stream_;

  // Step s lives in slot s mod ring size. Slots of steps [taken_, filled_) are ready; the consumer holds taken_ - 1.
  std::vector<Slot> ring_;
  std::mutex mutex_;
  std::condition_variable slot_ready_, slot_free_;
  int64_t filled_;                  // first step not yet filled
  int64_t taken_;                   // first step not yet handed out
  std::atomic<bool> stop_ = false;  // set under the mutex; read without it between samples
  std::thread thread_;
};

}  // namespace shardit
