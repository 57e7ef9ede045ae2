#include "trainer/checkpoint/reshard.h"

#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "trainer/checkpoint/checkpoint_names.h"

namespace shardit {
namespace {

// Reads a run of a box's elements, wherever the source keeps them.
absl::Status ReadRun(const CheckpointReader& source, const PlannedSlice& slice, int64_t begin, int64_t count,
                     float* out) {
  for (Box part : BoxesOfFlatRange(slice.box.extent, begin, begin + count)) {
    for (size_t dim = 0; dim < part.offset.size(); ++dim) part.offset[dim] += slice.box.offset[dim];
    RETURN_IF_ERROR(source.ReadBox(slice.group, slice.name, part, out));
    out += Volume(part);
  }
  return absl::OkStatus();
}

SliceRef StreamedSlice(const CheckpointReader& source, const PlannedSlice& slice) {
  SliceRef ref{slice.group, slice.name, source.Find(slice.group, slice.name)->shape, slice.box};
  ref.read = [&source, &slice](int64_t begin, int64_t count, float* out) {
    return ReadRun(source, slice, begin, count, out);
  };
  return ref;
}

// That the plan names the source's tensors, all of them, and boxes inside them. That the boxes fit together is judged
// by the writer.
absl::Status CheckPlan(const CheckpointReader& source, const ShardPlan& plan) {
  std::set<std::pair<StateGroup, std::string>> planned;
  for (const std::vector<PlannedSlice>& shard : plan) {
    for (const PlannedSlice& slice : shard) {
      const StoredTensor* tensor = source.Find(slice.group, slice.name);
      if (tensor == nullptr || slice.box.offset.size() != tensor->shape.size() ||
          Intersect(WholeBox(tensor->shape), slice.box) != slice.box) {
        return absl::InvalidArgumentError(absl::StrCat("checkpoint ", Quoted(source.folder()), " has no '",
                                                       GroupName(slice.group), "/", absl::CHexEscape(slice.name), "' ",
                                                       BoxText(slice.box), ", which the plan holds"));
      }
      planned.emplace(slice.group, slice.name);
    }
  }
  for (const StoredTensor& tensor : source.manifest().tensors) {
    if (planned.contains({tensor.group, tensor.name})) continue;
    return absl::InvalidArgumentError(absl::StrCat("checkpoint ", Quoted(source.folder()), " holds '",
                                                   GroupName(tensor.group), "/", absl::CHexEscape(tensor.name),
                                                   "', which the plan does not"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SaveReport> ReshardCheckpoint(const CheckpointReader& source, const ShardPlan& plan,
                                             const RunLayout& layout, const std::string& out, FileSystem& fs) {
  RETURN_IF_ERROR(CheckPlan(source, plan));
  RunState state = source.state();
  state.layout = layout;
  const std::string target = JoinPath(out, StepFolderName(state.step));
  if (KindOfPath(target) != PathKind::kMissing) {
    return absl::AlreadyExistsError(absl::StrCat(Quoted(target), " exists; choose another --out"));
  }
  RETURN_IF_ERROR(MakeFolders(fs, out));
  // No Prepare: a run that is at work in `out` has temporary folders of its own there.
  CheckpointWriter writer({out, state.run_id, "reshard", {}, &fs}, SingleRankExchange());
  ASSIGN_OR_RETURN(SaveReport report, writer.SaveShards(state, static_cast<int64_t>(plan.size()), [&](int64_t shard) {
    std::vector<SliceRef> slices;
    for (const PlannedSlice& slice : plan[static_cast<size_t>(shard)]) {
      slices.push_back(StreamedSlice(source, slice));
    }
    return slices;
  }));
  ASSIGN_OR_RETURN(const CheckpointReader made, CheckpointReader::Open(report.folder));
  const std::vector<absl::Status> errors = made.Verify();
  if (!errors.empty()) return errors.front();
  return report;
}

}  // namespace shardit
