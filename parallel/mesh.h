// The mesh of ranks: named axes pp (pipeline, outermost), dp (data), tp (tensor, innermost, so that it stays inside a
// host where ranks are numbered host by host), with one communicator per axis.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/fake_comm.h"

namespace shardit {

// Sizes of the axes. dp = 0 stands for world / (tp pp).
struct MeshShape {
  int pp = 1;
  int dp = 0;
  int tp = 1;

  int ranks() const { return pp * dp * tp; }
  friend bool operator==(const MeshShape&, const MeshShape&) = default;
};

struct MeshCoords {
  int pp = 0;
  int dp = 0;
  int tp = 0;
  friend bool operator==(const MeshCoords&, const MeshCoords&) = default;
};

// The shape with dp filled in. InvalidArgument, the same on every rank, if an axis is negative (or pp or tp zero) or if
// the product is not `world`: says all sizes and what to change.
absl::StatusOr<MeshShape> ResolveMeshShape(MeshShape shape, int world);

// rank = (pp * shape.dp + dp) * shape.tp + tp. The shape is resolved and the argument in range.
MeshCoords CoordsOf(const MeshShape& shape, int rank);
int RankOf(const MeshShape& shape, const MeshCoords& coords);

class Mesh {
 public:
  // Collective over `world`, which outlives the mesh; returns the same error on every rank. Ranks along an axis
  // communicator are numbered by their coordinate on it.
  static absl::StatusOr<Mesh> Create(MeshShape shape, Communicator& world);

  // The mesh as one rank of a world that is not there sees it: rank world.rank() of `shape`, which has been resolved
  // and has world.size() ranks. `world` outlives the mesh.
  static Mesh Fake(const MeshShape& shape, FakeCommunicator& world);

  const MeshShape& shape() const { return shape_; }
  const MeshCoords& coords() const { return coords_; }
  Communicator& world() const { return *world_; }
  Communicator& pp() const { return *pp_; }
  Communicator& dp() const { return *dp_; }
  Communicator& tp() const { return *tp_; }

  // "rank 3 (pp=0 dp=1 tp=1)": for SetThreadIdentity and reports.
  std::string Identity() const;

 private:
  Mesh() = default;

  MeshShape shape_;
  MeshCoords coords_;
  Communicator* world_ = nullptr;
  std::unique_ptr<Communicator> pp_, dp_, tp_;
};

}  // namespace shardit
