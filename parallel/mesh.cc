#include "parallel/mesh.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"

namespace shardit {
namespace {

std::string Describe(const MeshShape& shape, int world) {
  return absl::StrCat("mesh: world ", world, ", dp ", shape.dp, ", tp ", shape.tp, ", pp ", shape.pp, ": ");
}

}  // namespace

absl::StatusOr<MeshShape> ResolveMeshShape(MeshShape shape, int world) {
  const std::string description = Describe(shape, world);
  if (shape.pp < 1 || shape.tp < 1 || shape.dp < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(description, "expected tp and pp at least 1 and dp at least 0; set dp to 0 for world / (tp pp)"));
  }
  const int64_t model_ranks = static_cast<int64_t>(shape.pp) * shape.tp;
  if (shape.dp == 0) {
    if (world % model_ranks != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(description, "dp 0 means world / (tp pp), but tp x pp = ", model_ranks, " does not divide ",
                       world, " ranks; start a multiple of ", model_ranks, " ranks, or change tp or pp"));
    }
    shape.dp = static_cast<int>(world / model_ranks);
    return shape;
  }
  const std::optional<int64_t> ranks = CheckedMul(model_ranks, shape.dp);
  if (!ranks.has_value() || *ranks != world) {
    return absl::InvalidArgumentError(absl::StrCat(description, "expected dp x tp x pp = world, got ",
                                                   ranks.value_or(INT64_MAX), " against ", world,
                                                   "; start that many ranks, or set dp to 0 for world / (tp pp)"));
  }
  return shape;
}

MeshCoords CoordsOf(const MeshShape& shape, int rank) {
  CHECK(0 <= rank && rank < shape.ranks()) << "[mesh] rank " << rank << " of " << shape.ranks();
  return {rank / (shape.dp * shape.tp), rank / shape.tp % shape.dp, rank % shape.tp};
}

int RankOf(const MeshShape& shape, const MeshCoords& coords) {
  return (coords.pp * shape.dp + coords.dp) * shape.tp + coords.tp;
}

absl::StatusOr<Mesh> Mesh::Create(MeshShape shape, Communicator& world) {
  Mesh mesh;
  ASSIGN_OR_RETURN(mesh.shape_, ResolveMeshShape(shape, world.size()));
  mesh.world_ = &world;
  mesh.coords_ = CoordsOf(mesh.shape_, world.rank());
  const auto [pp, dp, tp] = mesh.coords_;
  // The ranks of an axis share the coordinates on the other two: the color is the rank with this axis's set to 0.
  mesh.pp_ = world.Split(RankOf(mesh.shape_, {0, dp, tp}), pp, "pp");
  mesh.dp_ = world.Split(RankOf(mesh.shape_, {pp, 0, tp}), dp, "dp");
  mesh.tp_ = world.Split(RankOf(mesh.shape_, {pp, dp, 0}), tp, "tp");
  return mesh;
}

Mesh Mesh::Fake(const MeshShape& shape, FakeCommunicator& world) {
  CHECK_EQ(shape.ranks(), world.size());
  Mesh mesh;
  mesh.shape_ = shape;
  mesh.world_ = &world;
  mesh.coords_ = CoordsOf(shape, world.rank());
  mesh.pp_ = world.Axis(mesh.coords_.pp, shape.pp, "pp");
  mesh.dp_ = world.Axis(mesh.coords_.dp, shape.dp, "dp");
  mesh.tp_ = world.Axis(mesh.coords_.tp, shape.tp, "tp");
  return mesh;
}

std::string Mesh::Identity() const {
  return absl::StrCat("rank ", world_->rank(), " (pp=", coords_.pp, " dp=", coords_.dp, " tp=", coords_.tp, ")");
}

}  // namespace shardit
