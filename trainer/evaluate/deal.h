// Independent work dealt out over ranks and their threads: chunks of images, bootstrap replicates, rows of distances.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/math.h"
#include "core/base/thread_pool.h"
#include "parallel/comm/communicator.h"
#include "trainer/train/stop_signal.h"

namespace shardit {

// Who takes part. All ranks of `comm` make the same calls.
struct Crew {
  Communicator& comm;
  ThreadPool& pool;
  const StopSignal* stop = nullptr;  // null: signals have their default effect
};

// Rank 0's text, on all ranks. Collective.
std::string ShareText(Communicator& comm, const std::string& text);

// Cancelled (exit code 75) on every rank once a signal has reached one of them. Collective.
absl::Status CheckStop(const Crew& crew);

// Calls body for all pieces of [0, count), `piece` items long but the last, each on one thread of one rank; all ranks
// get all results, in order of the pieces. Between rounds the ranks agree on errors and on signals. Results must not
// depend on who computes them; then they do not depend on the number of ranks and threads.
using PieceBody = std::function<absl::StatusOr<std::string>(Range items)>;
absl::StatusOr<std::string> DealPieces(const Crew& crew, int64_t count, int64_t piece, const PieceBody& body);

// Calls body for every one of `chunks`, the i-th on rank i mod ranks: equal lists on all ranks. After each round, one
// chunk a rank, the ranks agree on errors, on those of `after_round` (called with the place in `chunks` where the round
// began; may be null) and on signals. Says now and then how many chunks of `name` are done.
absl::Status DealChunks(const Crew& crew, const std::vector<int64_t>& chunks, const std::string& name,
                        const std::function<absl::Status(int64_t chunk)>& body,
                        const std::function<absl::Status(int64_t begin)>& after_round = nullptr);

// DealPieces where every item has one result of type T.
template <class T>
absl::StatusOr<std::vector<T>> Deal(const Crew& crew, int64_t count, int64_t piece,
                                    const std::function<absl::StatusOr<std::vector<T>>(Range items)>& body) {
  const absl::StatusOr<std::string> bytes =
      DealPieces(crew, count, piece, [&body](Range items) -> absl::StatusOr<std::string> {
        const absl::StatusOr<std::vector<T>> values = body(items);
        if (!values.ok()) return values.status();
        return std::string(reinterpret_cast<const char*>(values->data()), values->size() * sizeof(T));
      });
  if (!bytes.ok()) return bytes.status();
  std::vector<T> values(bytes->size() / sizeof(T));
  std::memcpy(values.data(), bytes->data(), values.size() * sizeof(T));
  return values;
}

}  // namespace shardit
