#include "trainer/train/state_checkpoint.h"

#include <map>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "parallel/comm/agree_status.h"
#include "trainer/checkpoint/checkpoint_names.h"
#include "trainer/checkpoint/set_aside.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/weights/weights_file.h"

namespace shardit {
namespace {

std::vector<int64_t> Dims(const Shape& shape) { return {shape.begin(), shape.end()}; }

// One group of the state as this rank holds it.
struct GroupRange {
  Tensor values;
  Placement placement;
};

GroupRange RangeOf(const TrainState& state, StateGroup group) {
  const Placement kept = state.sharding().zero_stage == 0 ? Placement::kFlat : Placement::kShard;
  switch (group) {
    case StateGroup::kModel:
      return {state.weights(), state.weights_placement()};
    case StateGroup::kEma:
      return {state.ema(), kept};
    case StateGroup::kAdamM:
      return {state.adam_m(), kept};
    case StateGroup::kAdamV:
      return {state.adam_v(), kept};
  }
  return {state.weights(), kept};
}

}  // namespace

std::vector<SliceRef> StateSlices(const TrainState& state) {
  std::vector<SliceRef> slices;
  const TensorPart tensor = state.sharding().tensor();
  for (const StateGroup group : kStateGroups) {
    const auto [values, placement] = RangeOf(state, group);
    for (StateRun& run : StateRuns(state.owned(), placement, tensor)) {
      const bool is_cut = tensor.size > 1 && run.parameter->shard.dim >= 0;
      if (!is_cut && tensor.index != 0) continue;
      SliceRef slice{.group = group, .name = run.parameter->name, .shape = Dims(run.parameter->shape)};
      slice.box = std::move(run.box);
      const Tensor part = values.Narrow(0, run.begin, Volume(slice.box));
      if (part.device().is_cpu()) {
        slice.data = part.data();
      } else {
        slice.read = [part](int64_t begin, int64_t count, float* out) {
          part.Narrow(0, begin, count).ToHost(out);
          return absl::OkStatus();
        };
      }
      slices.push_back(std::move(slice));
    }
  }
  return slices;
}

absl::Status LoadWeights(const std::string& path, TrainState& state) {
  const ShardMap all(state.layout(), 1, 0);
  const auto [weights, placement] = RangeOf(state, StateGroup::kModel);
  const ShardMap& held = placement == Placement::kFlat ? all : state.kept();
  std::map<std::string_view, std::vector<StateRun>> runs;
  for (StateRun& run : StateRuns(held, placement, state.sharding().tensor())) {
    runs[run.parameter->name].push_back(std::move(run));
  }
  RETURN_IF_ERROR(LoadWeights(path, state.model(), [&](const Parameter& parameter, const std::vector<float>& values) {
    const Box whole = WholeBox(Dims(parameter.shape));
    for (const StateRun& run : runs[parameter.name]) {
      CHECK(FillRange(weights, run.begin, Volume(run.box), [&](float* out) {
              CopyBox(whole, values.data(), run.box, out);
              return absl::OkStatus();
            }).ok());
    }
  }));
  state.StartFromWeights();
  return absl::OkStatus();
}

absl::Status LoadGroup(const CheckpointReader& reader, StateGroup group, ParameterList& parameters) {
  std::vector<RequiredTensor> required;
  for (const auto& parameter : parameters.all()) required.push_back({group, parameter->name, Dims(parameter->shape)});
  RETURN_IF_ERROR(reader.Require(required));
  for (const auto& parameter : parameters.all()) {
    const Tensor flat = parameter->value.Reshape({parameter->value.elements()});
    RETURN_IF_ERROR(FillRange(flat, 0, flat.elements(), [&](float* out) {
      return reader.ReadBox(group, parameter->name, WholeBox(Dims(parameter->shape)), out);
    }));
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
  const ShardMap all(state.layout(), 1, 0);
  for (const StateGroup group : kStateGroups) {
    const auto [values, placement] = RangeOf(state, group);
    const ShardMap& held = placement == Placement::kFlat ? all : state.kept();
    for (const StateRun& run : StateRuns(held, placement, state.sharding().tensor())) {
      RETURN_IF_ERROR(FillRange(values, run.begin, Volume(run.box),
                                [&](float* out) { return reader.ReadBox(group, run.parameter->name, run.box, out); }));
    }
  }
  state.step = reader.state().step;
  state.updates = reader.state().optimizer_updates;
  state.skipped = reader.state().skipped_steps;
  return absl::OkStatus();
}

namespace {

// Rank 0's choice.
struct Candidate {
  std::string folder;                // empty: start fresh
  std::vector<std::string> skipped;  // by all choices so far, and why
};

absl::Status NoneIsUsable(const std::string& checkpoints, std::vector<std::string> reasons) {
  constexpr size_t kMaxListed = 8;
  const size_t count = reasons.size();
  if (count > kMaxListed) {
    reasons.resize(kMaxListed);
    reasons.push_back(absl::StrCat("and ", count - kMaxListed, " more"));
  }
  return absl::DataLossError(
      absl::StrCat("none of the ", count, " checkpoint(s) in ", Quoted(checkpoints),
                   " can be used, and a run is not begun anew over them: ", absl::StrJoin(reasons, "; "),
                   "; repair them, or remove them to start at step 0, or give --resume never and another --out"));
}

// The newest checkpoint that opens, of steps before `below`.
absl::Status ChooseNewest(const std::string& checkpoints, std::optional<int64_t> below, Candidate& candidate) {
  ASSIGN_OR_RETURN(const FoundCheckpoint found, FindNewestCheckpoint(checkpoints, below));
  candidate.skipped.insert(candidate.skipped.end(), found.skipped.begin(), found.skipped.end());
  candidate.folder = found.reader.has_value() ? found.reader->folder() : "";
  if (found.reader.has_value() || candidate.skipped.empty()) return absl::OkStatus();
  return NoneIsUsable(checkpoints, candidate.skipped);
}

absl::Status Choose(const std::string& checkpoints, const std::string& resume, std::optional<int64_t> below,
                    Candidate& candidate) {
  if (resume == "auto") return ChooseNewest(checkpoints, below, candidate);
  if (resume == "never") {
    ASSIGN_OR_RETURN(const std::vector<CommittedCheckpoint> existing, ListCheckpoints(checkpoints));
    if (existing.empty()) return absl::OkStatus();
    return WithExitCode(absl::FailedPreconditionError(absl::StrCat(
                            Quoted(checkpoints), " holds ", existing.size(),
                            " checkpoint(s) of an earlier run and --resume is never; choose another --out, or "
                            "--resume auto")),
                        ExitCode::kUsage);
  }
  candidate.folder = resume;
  int64_t step = 0;
  if (!absl::SimpleAtoi(resume, &step)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const CheckpointReader reader, OpenCheckpointStep(checkpoints, step));
  candidate.folder = reader.folder();
  return absl::OkStatus();
}

// Fills the state; says what the checkpoint was, and which settings may change and did.
absl::StatusOr<Resumed> LoadChecked(const std::string& folder, const ResolvedConfig& config, TrainState& state,
                                    std::atomic<uint64_t>* blocks_read) {
  ASSIGN_OR_RETURN(CheckpointReader reader, CheckpointReader::Open(folder));
  reader.CountBlocks(blocks_read);
  ASSIGN_OR_RETURN(ConfigDiff diff, DiffRunConfigs(reader.state().config_text, config.text));
  RETURN_IF_ERROR(CheckResumable(diff));
  RETURN_IF_ERROR(LoadState(reader, state));
  return Resumed{.folder = folder, .state = reader.state(), .changed = std::move(diff.reported)};
}

// Collective: leaves `resumed` as the newest checkpoint.
absl::Status LeaveNewer(Communicator& world, const std::string& checkpoints, Resumed& resumed) {
  absl::StatusOr<std::vector<std::string>> moved = std::vector<std::string>();
  if (world.rank() == 0) moved = SetAsideNewer(PosixFileSystem(), checkpoints, resumed.state.step);
  RETURN_IF_ERROR(AgreeStatus(world, moved.status()));
  resumed.set_aside = *std::move(moved);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<Resumed>> ResumeState(Communicator& world, const std::string& checkpoints,
                                                   const std::string& resume, std::optional<int64_t> below,
                                                   const ResolvedConfig& config, TrainState& state,
                                                   std::atomic<uint64_t>* blocks_read) {
  Candidate candidate;
  while (true) {
    const absl::Status chosen = world.rank() == 0 ? Choose(checkpoints, resume, below, candidate) : absl::OkStatus();
    RETURN_IF_ERROR(AgreeStatus(world, chosen));
    // World: everybody loads the checkpoint that rank 0 saw.
    const std::string folder = world.AllGatherBytes(candidate.folder, {.tag = "resume folder", .control = true})[0];
    if (folder.empty()) return std::optional<Resumed>();

    absl::StatusOr<Resumed> resumed = LoadChecked(folder, config, state, blocks_read);
    const absl::Status loaded = AgreeStatus(world, resumed.status());
    if (loaded.ok()) {
      resumed->skipped = std::move(candidate.skipped);
      if (resume != "auto") RETURN_IF_ERROR(LeaveNewer(world, checkpoints, *resumed));
      return std::optional<Resumed>(*std::move(resumed));
    }
    if (resume != "auto" || !absl::IsDataLoss(loaded)) return loaded;
    // A damaged shard: the next older checkpoint, for everybody.
    candidate.skipped.push_back(absl::StrCat(Quoted(folder), ": ", std::string(loaded.message())));
    below = ParseStepFolderName(folder.substr(folder.rfind('/') + 1));
    CHECK(below.has_value()) << "[ResumeState] " << folder;
  }
}

}  // namespace shardit
