#include "trainer/train/state_checkpoint.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "parallel/comm/agree_status.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

std::vector<int64_t> Dims(const Shape& shape) { return {shape.begin(), shape.end()}; }

const Tensor& FlatRange(const TrainState& state, StateGroup group) {
  switch (group) {
    case StateGroup::kModel:
      return state.weights();
    case StateGroup::kEma:
      return state.ema();
    case StateGroup::kAdamM:
      return state.adam_m();
    case StateGroup::kAdamV:
      return state.adam_v();
  }
  return state.weights();
}

}  // namespace

std::vector<SliceRef> ReplicaSlices(const TrainState& state, int64_t rank, int64_t ranks) {
  std::vector<SliceRef> slices;
  const Range own = PartRange(state.layout().size(), ranks, rank);
  for (const StateGroup group : kStateGroups) {
    const float* flat = FlatRange(state, group).data();
    for (const FlatLayout::Entry& entry : state.layout().entries()) {
      const int64_t begin = std::max(own.begin, entry.offset), end = std::min(own.end, entry.offset + entry.count);
      if (begin >= end) continue;
      const std::vector<int64_t> shape = Dims(entry.parameter->shape);
      int64_t at = begin;
      for (const Box& box : BoxesOfFlatRange(shape, begin - entry.offset, end - entry.offset)) {
        slices.push_back({group, entry.parameter->name, shape, box, flat + at});
        at += Volume(box);
      }
    }
  }
  return slices;
}

absl::Status LoadGroup(const CheckpointReader& reader, StateGroup group, ParameterList& parameters) {
  std::vector<RequiredTensor> required;
  for (const auto& parameter : parameters.all()) required.push_back({group, parameter->name, Dims(parameter->shape)});
  RETURN_IF_ERROR(reader.Require(required));
  for (const auto& parameter : parameters.all()) {
    RETURN_IF_ERROR(reader.ReadBox(group, parameter->name, WholeBox(Dims(parameter->shape)), parameter->value.data()));
  }
  return absl::OkStatus();
}

absl::Status LoadState(const CheckpointReader& reader, TrainState& state) {
  std::vector<RequiredTensor> required;
  for (const StateGroup group : kStateGroups) {
    for (const FlatLayout::Entry& entry : state.layout().entries()) {
      required.push_back({group, entry.parameter->name, Dims(entry.parameter->shape)});
    }
  }
  RETURN_IF_ERROR(reader.Require(required));
  for (const StateGroup group : kStateGroups) {
    float* flat = FlatRange(state, group).data();
    for (const FlatLayout::Entry& entry : state.layout().entries()) {
      RETURN_IF_ERROR(
          reader.ReadBox(group, entry.parameter->name, WholeBox(Dims(entry.parameter->shape)), flat + entry.offset));
    }
  }
  state.step = reader.state().step;
  state.updates = reader.state().optimizer_updates;
  state.skipped = reader.state().skipped_steps;
  return absl::OkStatus();
}

namespace {

struct Candidate {
  std::string folder;  // empty: start fresh
  std::vector<std::string> skipped;
};

// Rank 0's choice. `below` excludes checkpoints whose shards proved damaged while they were read.
absl::StatusOr<Candidate> Choose(const std::string& checkpoints, const std::string& resume,
                                 std::optional<int64_t> below) {
  Candidate candidate;
  if (resume == "auto") {
    ASSIGN_OR_RETURN(FoundCheckpoint found, FindNewestCheckpoint(checkpoints, below));
    candidate.skipped = std::move(found.skipped);
    if (found.reader.has_value()) candidate.folder = found.reader->folder();
    return candidate;
  }
  ASSIGN_OR_RETURN(const std::vector<CommittedCheckpoint> existing, ListCheckpoints(checkpoints));
  if (resume == "never") {
    if (existing.empty()) return candidate;
    return WithExitCode(absl::FailedPreconditionError(absl::StrCat(
                            Quoted(checkpoints), " holds ", existing.size(),
                            " checkpoint(s) of an earlier run and --resume is never; choose another --out, or "
                            "--resume auto")),
                        ExitCode::kUsage);
  }
  int64_t step = 0;
  if (!absl::SimpleAtoi(resume, &step)) {
    candidate.folder = resume;
    return candidate;
  }
  ASSIGN_OR_RETURN(const CheckpointReader reader, OpenCheckpointStep(checkpoints, step));
  candidate.folder = reader.folder();
  return candidate;
}

// Fills the state; returns the settings that may change and did.
absl::StatusOr<std::vector<std::string>> LoadChecked(const CheckpointReader& reader, const ResolvedConfig& config,
                                                     TrainState& state) {
  ASSIGN_OR_RETURN(ConfigDiff diff, DiffRunConfigs(reader.state().config_text, config.text));
  RETURN_IF_ERROR(CheckResumable(diff));
  RETURN_IF_ERROR(LoadState(reader, state));
  return std::move(diff.reported);
}

}  // namespace

absl::StatusOr<std::optional<Resumed>> ResumeState(Communicator& world, const std::string& checkpoints,
                                                   const std::string& resume, const ResolvedConfig& config,
                                                   TrainState& state) {
  std::vector<std::string> skipped;
  std::optional<int64_t> below;
  while (true) {
    absl::StatusOr<Candidate> choice = Candidate{};
    if (world.rank() == 0) choice = Choose(checkpoints, resume, below);
    RETURN_IF_ERROR(AgreeStatus(world, choice.status()));
    // World: everybody loads the checkpoint that rank 0 saw.
    const std::string folder = world.AllGatherBytes(choice->folder, {.tag = "resume folder", .control = true})[0];
    skipped.insert(skipped.end(), choice->skipped.begin(), choice->skipped.end());
    if (folder.empty()) return std::optional<Resumed>();

    const absl::StatusOr<CheckpointReader> reader = CheckpointReader::Open(folder);
    const absl::StatusOr<std::vector<std::string>> changed =
        reader.ok() ? LoadChecked(*reader, config, state) : absl::StatusOr<std::vector<std::string>>(reader.status());
    const absl::Status loaded = changed.status();
    const absl::Status agreed = AgreeStatus(world, loaded);
    if (agreed.ok()) return std::optional<Resumed>({folder, reader->state().run_id, skipped, *changed});
    if (resume != "auto" || !absl::IsDataLoss(agreed)) {
      return loaded.ok() ? agreed : WithExitCode(agreed, ExitCodeOf(loaded));
    }
    skipped.push_back(absl::StrCat(Quoted(folder), ": ", std::string(agreed.message())));
    // A damaged shard: the next older checkpoint, for everybody.
    int64_t step = reader.ok() ? reader->state().step : state.step;
    const Work work = world.Broadcast(&step, 1, 0, {.tag = "step back", .control = true});
    work.Wait();
    below = step;
  }
}

}  // namespace shardit
