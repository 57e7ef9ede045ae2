#include "trainer/evaluate/deal.h"

#include <algorithm>
#include <chrono>

#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "parallel/comm/agree_status.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

constexpr CallSite kStopSite{"evaluation stop", /*control=*/true};
constexpr CallSite kResultSite{"evaluation results"};
constexpr CallSite kTextSite{"inputs", /*control=*/true};
constexpr std::chrono::seconds kProgressPeriod(10);

// This rank's pieces of a round, one a thread: from `begin`.
absl::StatusOr<std::string> RunRound(const Crew& crew, int64_t begin, int64_t count, int64_t piece,
                                     const PieceBody& body) {
  std::vector<absl::StatusOr<std::string>> results(static_cast<size_t>(crew.pool.threads()), std::string());
  crew.pool.RunOnAll([&](int thread) {
    const int64_t first = (begin + thread) * piece;
    if (first < count) results[static_cast<size_t>(thread)] = body({first, std::min(first + piece, count)});
  });
  std::string all;
  for (const absl::StatusOr<std::string>& result : results) {
    RETURN_IF_ERROR(result.status());
    all += *result;
  }
  return all;
}

}  // namespace

std::string ShareText(Communicator& comm, const std::string& text) {
  return comm.AllGatherBytes(comm.rank() == 0 ? text : "", kTextSite).front();
}

absl::Status CheckStop(const Crew& crew) {
  if (crew.stop == nullptr) return absl::OkStatus();
  // World: one rank that got a signal is enough.
  int32_t stop = crew.stop->requested() ? 1 : 0;
  crew.comm.AllReduce(&stop, &stop, 1, ReduceOp::kMax, kStopSite).Wait();
  if (stop == 0) return absl::OkStatus();
  return WithExitCode(absl::CancelledError("stopped by a signal; the same command goes on from here"),
                      ExitCode::kRequeue);
}

absl::StatusOr<std::string> DealPieces(const Crew& crew, int64_t count, int64_t piece, const PieceBody& body) {
  // Ranks may have different numbers of threads: each has its place in a round.
  std::vector<int32_t> threads(static_cast<size_t>(crew.comm.size()), 0);
  threads[static_cast<size_t>(crew.comm.rank())] = crew.pool.threads();
  crew.comm.AllReduce(threads.data(), threads.data(), crew.comm.size(), ReduceOp::kMax, kStopSite).Wait();
  int64_t before = 0, round = 0;
  for (int rank = 0; rank < crew.comm.size(); ++rank) {
    if (rank < crew.comm.rank()) before += threads[static_cast<size_t>(rank)];
    round += threads[static_cast<size_t>(rank)];
  }
  std::string all;
  for (int64_t begin = 0; begin < CeilDiv(count, piece); begin += round) {
    const absl::StatusOr<std::string> mine = RunRound(crew, begin + before, count, piece, body);
    RETURN_IF_ERROR(AgreeStatus(crew.comm, mine.status()));
    // World: every rank goes on with all results.
    for (const std::string& part : crew.comm.AllGatherBytes(*mine, kResultSite)) all += part;
    RETURN_IF_ERROR(CheckStop(crew));
  }
  return all;
}

absl::Status DealChunks(const Crew& crew, const std::vector<int64_t>& chunks, const std::string& name,
                        const std::function<absl::Status(int64_t chunk)>& body,
                        const std::function<absl::Status(int64_t begin)>& after_round) {
  const int64_t ranks = crew.comm.size(), count = std::ssize(chunks);
  auto told = std::chrono::steady_clock::now();
  for (int64_t begin = 0; begin < count; begin += ranks) {
    const int64_t mine = begin + crew.comm.rank();
    const absl::Status status = mine < count ? body(chunks[static_cast<size_t>(mine)]) : absl::OkStatus();
    RETURN_IF_ERROR(AgreeStatus(crew.comm, status));
    if (after_round) RETURN_IF_ERROR(AgreeStatus(crew.comm, after_round(begin)));
    if (std::chrono::steady_clock::now() - told > kProgressPeriod && crew.comm.rank() == 0) {
      LOG_INFO("{} of {} chunks of {} are done", std::min(begin + ranks, count), count, name);
      told = std::chrono::steady_clock::now();
    }
    RETURN_IF_ERROR(CheckStop(crew));
  }
  return absl::OkStatus();
}

}  // namespace shardit
