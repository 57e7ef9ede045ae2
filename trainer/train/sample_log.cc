#include "trainer/train/sample_log.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "core/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "parallel/comm/agree_status.h"

namespace shardit {
namespace {

// A sample as it travels to rank 0.
struct Sample {
  int64_t position = 0;
  int64_t id = 0;
};

std::string Pack(const Batch& batch) {
  std::vector<Sample> samples(batch.sample_ids.size());
  for (size_t i = 0; i < samples.size(); ++i) samples[i] = {batch.positions[i], batch.sample_ids[i]};
  return {reinterpret_cast<const char*>(samples.data()), samples.size() * sizeof(Sample)};
}

}  // namespace

absl::StatusOr<SampleLog> SampleLog::Open(Communicator& comm, const std::string& path, int64_t resumed_step) {
  std::optional<MetricsFile> file;
  absl::Status opened;
  if (comm.rank() == 0) {
    absl::StatusOr<MetricsFile> made = MetricsFile::Open(path, resumed_step);
    opened = made.status();
    if (made.ok()) file = *std::move(made);
  }
  RETURN_IF_ERROR(AgreeStatus(comm, opened));
  return SampleLog(comm, std::move(file));
}

absl::Status SampleLog::Append(int64_t step, const Batch& batch, bool speaks) {
  // World: the ranks of the data axis, to the one that writes.
  const std::vector<std::string> parts =
      comm_->GatherBytes(speaks ? Pack(batch) : "", 0, {.tag = "sample ids", .control = true});
  return AgreeStatus(*comm_, comm_->rank() == 0 ? Write(step, parts) : absl::OkStatus());
}

absl::Status SampleLog::Write(int64_t step, const std::vector<std::string>& parts) {
  std::vector<Sample> samples;
  for (const std::string& part : parts) {
    const size_t count = part.size() / sizeof(Sample), begin = samples.size();
    samples.resize(begin + count);
    if (count > 0) std::memcpy(samples.data() + begin, part.data(), count * sizeof(Sample));
  }
  std::sort(samples.begin(), samples.end(), [](const Sample& a, const Sample& b) { return a.position < b.position; });
  nlohmann::ordered_json row = {{"step", step}, {"ids", nlohmann::ordered_json::array()}};
  for (const Sample& sample : samples) row["ids"].push_back(sample.id);
  RETURN_IF_ERROR(file_->Append(step, row.dump()));
  return file_->Sync();
}

}  // namespace shardit
