#include "parallel/comm/agree_status.h"

#include <charconv>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shardit {
namespace {

constexpr CallSite kSite{"agree status", /*control=*/true};
constexpr size_t kMaxDifferent = 8;

struct Failure {
  absl::Status status;
  std::vector<int> ranks;
};

// "code message", empty for OK.
std::string Pack(const absl::Status& status) {
  return status.ok() ? std::string() : absl::StrCat(status.raw_code(), " ", status.message());
}

absl::Status Unpack(const std::string& packed) {
  int code = 0;
  const auto [end, error] = std::from_chars(packed.data(), packed.data() + packed.size(), code);
  return absl::Status(static_cast<absl::StatusCode>(code), packed.substr(end - packed.data() + 1));
}

// Different failures in order of their lowest ranks.
std::vector<Failure> Group(const std::vector<std::string>& packed) {
  std::vector<Failure> failures;
  for (size_t r = 0; r < packed.size(); ++r) {
    if (packed[r].empty()) continue;
    const absl::Status status = Unpack(packed[r]);
    auto same = failures.begin();
    while (same != failures.end() && same->status != status) ++same;
    if (same == failures.end()) same = failures.insert(same, {status, {}});
    same->ranks.push_back(static_cast<int>(r));
  }
  return failures;
}

}  // namespace

absl::Status AgreeStatus(Communicator& comm, const absl::Status& mine) {
  if (comm.size() == 1) return mine;
  int32_t failed = mine.ok() ? 0 : 1;
  comm.AllReduce(&failed, &failed, 1, ReduceOp::kMax, kSite).Wait();
  if (failed == 0) return absl::OkStatus();

  const std::vector<Failure> failures = Group(comm.AllGatherBytes(Pack(mine), kSite));
  std::vector<std::string> parts;
  for (const Failure& failure : failures) {
    if (parts.size() == kMaxDifferent) {
      parts.push_back(absl::StrCat("and ", failures.size() - kMaxDifferent, " other failures"));
      break;
    }
    parts.push_back(absl::StrCat(failure.ranks.size() == 1 ? "rank " : "ranks ", absl::StrJoin(failure.ranks, ", "),
                                 ": ", failure.status.message()));
  }
  return absl::Status(failures.front().status.code(), absl::StrJoin(parts, "; "));
}

}  // namespace shardit
