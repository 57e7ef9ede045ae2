#include "trainer/faults/replica_checksum.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "trainer/faults/bit_hash.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

constexpr int64_t kGrain = 1 << 16;
constexpr size_t kMaxNamed = 8;

// Ranks whose value is not that of the majority; all where no value has one.
std::vector<size_t> Minority(const std::vector<std::string>& values) {
  std::map<std::string, size_t> counts;
  for (const std::string& value : values) ++counts[value];
  std::vector<size_t> minority;
  for (size_t r = 0; r < values.size(); ++r) {
    if (2 * counts[values[r]] <= values.size()) minority.push_back(r);
  }
  return minority;
}

}  // namespace

uint64_t ChecksumBits(std::span<const float> values, uint64_t first_position) {
  uint64_t sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    uint32_t bits = 0;
    std::memcpy(&bits, &values[i], sizeof(bits));
    sum += HashOfBits(bits, first_position + i);
  }
  return sum;
}

uint64_t ChecksumBits(RankContext& context, const Tensor& values) {
  if (context.on_cuda()) {
    const Tensor sum = Tensor::Zeros(context.allocator(), {1}, DType::kI64);
    cuda::ChecksumBits(values.data(), values.elements(), static_cast<unsigned long long*>(sum.raw()), context.cuda());
    uint64_t total = 0;
    sum.ToHost(&total);
    return total;
  }
  const std::span<const float> elements(values.data(), static_cast<size_t>(values.elements()));
  std::vector<uint64_t> sums(static_cast<size_t>(context.pool().threads()), 0);
  context.pool().ParallelFor(values.elements(), kGrain, [&](int64_t begin, int64_t end, int thread) {
    const auto part = elements.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    sums[static_cast<size_t>(thread)] += ChecksumBits(part, static_cast<uint64_t>(begin));
  });
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

absl::Status CompareReplicas(Communicator& replicas, std::span<const ReplicaPart> parts, const std::string& place) {
  if (replicas.size() == 1) return absl::OkStatus();
  std::vector<std::string> sums;
  uint64_t total = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    sums.push_back(absl::StrCat(absl::Hex(parts[i].checksum, absl::kZeroPad16)));
    total += MixBits(parts[i].checksum + i);
  }
  // Replicas: the largest of x and of ~x, so that one reduction gives both ends of the range.
  int64_t range[] = {static_cast<int64_t>(total), ~static_cast<int64_t>(total)};
  replicas.AllReduce(range, range, 2, ReduceOp::kMax, {.tag = "replica checksum", .control = true}).Wait();
  if (range[0] == ~range[1]) return absl::OkStatus();

  // Replicas: who differs, and where. Only after a mismatch.
  const CallSite site{.tag = "replica mismatch", .control = true};
  const std::vector<std::string> all = replicas.AllGatherBytes(absl::StrJoin(sums, ","), site);
  const std::vector<std::string> places = replicas.AllGatherBytes(place, site);
  std::vector<std::string> who;
  for (const size_t rank : Minority(all)) who.push_back(places[rank]);
  std::vector<std::vector<std::string>> by_rank;
  for (const std::string& text : all) by_rank.push_back(absl::StrSplit(text, ','));
  std::vector<std::string> where;
  for (size_t i = 0; i < parts.size(); ++i) {
    const bool differs = std::any_of(by_rank.begin(), by_rank.end(),
                                     [&](const std::vector<std::string>& rank) { return rank[i] != by_rank[0][i]; });
    if (differs) where.push_back(parts[i].name);
  }
  const size_t differing = where.size();
  where.resize(std::min(where.size(), kMaxNamed));
  return WithExitCode(absl::InternalError(absl::StrCat(
                          "replicas of the parameters differ on axis ", replicas.name(), ": ", absl::StrJoin(who, ", "),
                          who.size() == all.size() ? " (no majority)" : " against the majority", "; first of ",
                          differing, " differing parts: ", absl::StrJoin(where, ", "),
                          "; memory or network of that host may be failing: exclude it and resume from a checkpoint")),
                      ExitCode::kInternal);
}

}  // namespace shardit
