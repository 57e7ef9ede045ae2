// Independent work dealt out over ranks and their threads: bootstrap replicates, rows of distances.
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

// Cancelled (exit code 75) on every rank once a signal has reached one of them. Collective.
absl::Status CheckStop(const Crew& crew);

// Calls body for all pieces of [0, count), `piece` items long but the last, each on one thread of one rank; all ranks
// get all results, in order of the pieces. Between rounds the ranks agree on errors and on signals. Results must not
// depend on who computes them; then they do not depend on the number of ranks and threads.
using PieceBody = std::function<absl::StatusOr<std::string>(Range items)>;
absl::StatusOr<std::string> DealPieces(const Crew& crew, int64_t count, int64_t piece, const PieceBody& body);

// The same where every item has one result of type T.
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
