#include "parallel/comm/agree_status.h"

#include <charconv>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "core/base/check.h"

namespace shardit {
namespace {

constexpr CallSite kSite{"agree status", /*control=*/true};
constexpr size_t kMaxDifferent = 8;

struct Failure {
  absl::Status status;
  std::vector<int> ranks;
};

// "length text", which may hold any byte.
void AppendText(absl::string_view text, std::string& packed) { absl::StrAppend(&packed, text.size(), " ", text); }

std::string TakeText(absl::string_view& packed) {
  size_t length = 0;
  const auto [end, error] = std::from_chars(packed.data(), packed.data() + packed.size(), length);
  packed.remove_prefix(static_cast<size_t>(end - packed.data()) + 1);
  const std::string text(packed.substr(0, length));
  packed.remove_prefix(text.size());
  return text;
}

// Code, message, and the payloads: url and value in turn. Empty for OK.
std::string Pack(const absl::Status& status) {
  if (status.ok()) return "";
  std::string packed;
  AppendText(absl::StrCat(status.raw_code()), packed);
  AppendText(status.message(), packed);
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& value) {
    AppendText(url, packed);
    AppendText(std::string(value), packed);
  });
  return packed;
}

absl::Status Unpack(absl::string_view packed) {
  int code = 0;
  CHECK(absl::SimpleAtoi(TakeText(packed), &code));
  absl::Status status(static_cast<absl::StatusCode>(code), TakeText(packed));
  while (!packed.empty()) {
    const std::string url = TakeText(packed);
    status.SetPayload(url, absl::Cord(TakeText(packed)));
  }
  return status;
}

// The same error with another message.
absl::Status Reworded(const absl::Status& status, absl::string_view message) {
  absl::Status reworded(status.code(), message);
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& value) { reworded.SetPayload(url, value); });
  return reworded;
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
  return Reworded(failures.front().status, absl::StrJoin(parts, "; "));
}

}  // namespace shardit
