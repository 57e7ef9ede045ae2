#include "trainer/faults/agreement.h"

#include <unistd.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/crc32c.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "parallel/comm/agree_status.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/run_config/run_config.h"

namespace shardit {
namespace {

constexpr CallSite kSite{.tag = "start-up agreement", .control = true};
constexpr int64_t kReadBytes = 1 << 20;

// Becomes rank 0's text on every rank.
std::string FromRankZero(Communicator& world, const std::string& mine) {
  int64_t bytes = static_cast<int64_t>(mine.size());
  // World: the length, then the text.
  world.Broadcast(&bytes, 1, 0, kSite).Wait();
  std::string text = mine;
  text.resize(static_cast<size_t>(bytes));
  world.Broadcast(text.data(), bytes, 0, kSite).Wait();
  return text;
}

std::string ConfigDifference(const std::string& first, const std::string& mine) {
  const absl::StatusOr<ConfigDiff> diff = DiffRunConfigs(first, mine);
  if (!diff.ok()) return absl::StrCat("configurations that cannot be compared (", diff.status().message(), ")");
  std::vector<std::string> lines;
  for (const auto* list : {&diff->frozen, &diff->reported, &diff->free}) {
    lines.insert(lines.end(), list->begin(), list->end());
  }
  return lines.empty() ? "the text of the configuration" : absl::StrJoin(lines, ", ");
}

}  // namespace

absl::StatusOr<std::string> BinaryIdentity() {
  ASSIGN_OR_RETURN(const RandomAccessFile file, RandomAccessFile::Open("/proc/self/exe"));
  char path[4096] = "";
  if (readlink("/proc/self/exe", path, sizeof(path) - 1) < 0) path[0] = '\0';
  std::string block(kReadBytes, '\0');
  uint32_t crc = 0;
  for (int64_t offset = 0; offset < file.size(); offset += kReadBytes) {
    const int64_t bytes = std::min(kReadBytes, file.size() - offset);
    RETURN_IF_ERROR(file.ReadAt(offset, block.data(), bytes));
    crc = Crc32cExtend(crc, block.data(), static_cast<size_t>(bytes));
  }
  return absl::StrCat(Quoted(path), " (", file.size(), " bytes, CRC32C ", absl::Hex(crc, absl::kZeroPad8), ")");
}

absl::Status AgreeOnStart(Communicator& world, const StartFacts& mine) {
  const std::string config = FromRankZero(world, mine.config_text);
  const std::string binary = FromRankZero(world, mine.binary);
  const std::string data = FromRankZero(world, mine.data);
  std::vector<std::string> differences;
  if (config != mine.config_text) differences.push_back(ConfigDifference(config, mine.config_text));
  if (binary != mine.binary) differences.push_back(absl::StrCat("program ", binary, " -> ", mine.binary));
  if (data != mine.data) differences.push_back(absl::StrCat("data ", data, " -> ", mine.data));
  absl::Status agreed;
  if (!differences.empty()) {
    agreed = absl::FailedPreconditionError(absl::StrCat("differs from rank 0: ", absl::StrJoin(differences, "; "),
                                                        "; start all ranks with the same command, program and files"));
  }
  return WithExitCode(AgreeStatus(world, agreed), ExitCode::kUsage);
}

}  // namespace shardit
