#include "trainer/train/run_guards.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "parallel/comm/agree_status.h"
#include "trainer/faults/agreement.h"
#include "trainer/faults/replica_checksum.h"
#include "trainer/faults/restart_guard.h"
#include "trainer/faults/skipped_steps.h"

namespace shardit {
namespace {

std::string CoordinatesOf(const Mesh& mesh) {
  const MeshCoords& coords = mesh.coords();
  return absl::StrCat("pp=", coords.pp, " dp=", coords.dp, " tp=", coords.tp);
}

// Parameters as this rank holds them, in the flat weights; with `uncut` only those that no tensor rank holds a part of.
std::vector<ReplicaPart> PartsOf(RankContext& context, const TrainState& state, bool uncut) {
  std::vector<ReplicaPart> parts;
  for (const FlatLayout::Entry& entry : state.layout().entries()) {
    if (uncut && entry.count != entry.parameter->shape.elements()) continue;
    const Tensor values = state.weights().Narrow(0, entry.offset, entry.count);
    parts.push_back({entry.parameter->name, ChecksumBits(context, values)});
  }
  return parts;
}

}  // namespace

RunGuards::RunGuards(World& world, Mesh& mesh, RankContext& context, const TrainOptions& options)
    : world_(world),
      mesh_(mesh),
      context_(context),
      options_(options),
      beacon_(FaultPlan::FromEnvironment(world.rank())),
      numerics_(options.spike_z) {}

absl::Status RunGuards::AgreeOnStart(World& world, const ResolvedConfig& config, const Dataset& dataset) {
  const absl::StatusOr<std::string> binary = BinaryIdentity();
  RETURN_IF_ERROR(AgreeStatus(world.comm(), binary.status()));
  const std::string data = absl::StrCat(Quoted(config.options.data.path), " (", dataset.size(),
                                        " samples, fingerprint ", absl::Hex(dataset.Fingerprint()), ")");
  return shardit::AgreeOnStart(world.comm(), {.config_text = config.text, .binary = *binary, .data = data});
}

absl::Status RunGuards::TakeFolder(const std::string& path) {
  folder_ = path;
  ASSIGN_OR_RETURN(lease_, RunLease::Take(world_, path));
  return absl::OkStatus();
}

absl::Status RunGuards::CheckStart(const RunFolder& folder, int64_t checkpoint_bytes, int64_t step,
                                   int64_t max_stalled_restarts) {
  RETURN_IF_ERROR(folder.RehearseCheckpoint(world_.comm(), checkpoint_bytes));
  absl::Status counted;
  if (world_.rank() == 0) {
    counted = CountStart(folder.path, step, RestartOptionsFromEnvironment(max_stalled_restarts));
  }
  return AgreeStatus(world_.comm(), counted);
}

absl::Status RunGuards::StartWatching(std::vector<Communicator*> comms) {
  ASSIGN_OR_RETURN(watchdog_, HangWatchdog::Start(world_, beacon_, context_.ops(),
                                                  {.run_folder = folder_,
                                                   .coordinates = CoordinatesOf(mesh_),
                                                   .hang_seconds = options_.hang_seconds,
                                                   .health = [comms]() -> absl::Status {
                                                     for (Communicator* comm : comms) RETURN_IF_ERROR(comm->Health());
                                                     return absl::OkStatus();
                                                   },
                                                   .abort_device =
                                                       [comms] {
                                                         for (Communicator* comm : comms) comm->AbortDevice();
                                                       }}));
  return absl::OkStatus();
}

absl::Status RunGuards::CompareReplicas(const TrainState& state) {
  absl::Status equal;
  if (state.weights_placement() == Placement::kFlat) {
    const std::string place = absl::StrCat("rank ", world_.rank(), " on host ", world_.host_name());
    const auto compare = [&](Communicator& replicas, bool uncut) {
      return replicas.size() == 1 ? absl::OkStatus()
                                  : shardit::CompareReplicas(replicas, PartsOf(context_, state, uncut), place);
    };
    equal = compare(mesh_.dp(), /*uncut=*/false);
    const absl::Status over_tensor_axis = compare(mesh_.tp(), /*uncut=*/true);
    if (equal.ok()) equal = over_tensor_axis;
  }
  // World: other groups must hear of it.
  return AgreeStatus(world_.comm(), equal);
}

absl::StatusOr<NumericsVerdict> RunGuards::Judge(const StepReport& report, const Batch& batch, int64_t step) {
  if (report.update.skipped) {
    const std::string path = world_.rank() == 0 ? JoinPath(folder_, "skipped.jsonl") : "";
    std::string line;
    // Data axis, which carries nothing between two steps.
    const absl::Status recorded = RecordSkippedStep(
        mesh_.dp(), {step, report.loss, report.update.grad_norm, report.spike}, batch.sample_ids, path, &line);
    RETURN_IF_ERROR(AgreeStatus(world_.comm(), recorded));
    if (world_.rank() == 0) LOG_WARN("skipped a step: {}", line);
  }
  return numerics_.Observe(step, report.loss, report.update.skipped);
}

}  // namespace shardit
