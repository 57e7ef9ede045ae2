#include "parallel/mesh.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "parallel/comm/world.h"

namespace shardit {
namespace {

TEST(MeshShape, DataRanksFollowFromTheWorld) {
  EXPECT_EQ(*ResolveMeshShape({1, 0, 1}, 4), (MeshShape{1, 4, 1}));
  EXPECT_EQ(*ResolveMeshShape({2, 0, 3}, 12), (MeshShape{2, 2, 3}));
  EXPECT_EQ(*ResolveMeshShape({2, 2, 2}, 8), (MeshShape{2, 2, 2}));
  EXPECT_EQ(*ResolveMeshShape({}, 1), (MeshShape{1, 1, 1}));
}

TEST(MeshShape, ErrorsNameAllSizes) {
  for (const MeshShape shape : {MeshShape{2, 3, 2}, MeshShape{2, 0, 4}, MeshShape{0, 1, 1}, MeshShape{1, -1, 1},
                                MeshShape{1, 0, 0}, MeshShape{1 << 20, 1 << 20, 1 << 20}}) {
    const absl::Status status = ResolveMeshShape(shape, 6).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    for (const char* part : {"world 6", "dp ", "tp ", "pp ", "set dp to 0"}) {
      if (shape.dp == 0 && shape.pp > 0 && shape.tp > 0 && std::string_view(part) == "set dp to 0") continue;
      EXPECT_NE(status.message().find(part), std::string_view::npos) << part << " in: " << status;
    }
  }
  EXPECT_EQ(ResolveMeshShape({2, 0, 2}, 6).status().message(),
            "mesh: world 6, dp 0, tp 2, pp 2: dp 0 means world / (tp pp), but tp x pp = 4 does not divide 6 ranks; "
            "start a multiple of 4 ranks, or change tp or pp");
}

TEST(MeshCoords, TensorIsInnermostAndPipelineOutermost) {
  const MeshShape shape{2, 3, 4};
  EXPECT_EQ(CoordsOf(shape, 0), (MeshCoords{0, 0, 0}));
  EXPECT_EQ(CoordsOf(shape, 1), (MeshCoords{0, 0, 1}));
  EXPECT_EQ(CoordsOf(shape, 4), (MeshCoords{0, 1, 0}));
  EXPECT_EQ(CoordsOf(shape, 12), (MeshCoords{1, 0, 0}));
  EXPECT_EQ(CoordsOf(shape, 23), (MeshCoords{1, 2, 3}));
  std::set<std::tuple<int, int, int>> seen;
  for (int rank = 0; rank < shape.ranks(); ++rank) {
    const MeshCoords coords = CoordsOf(shape, rank);
    EXPECT_EQ(RankOf(shape, coords), rank);
    seen.insert({coords.pp, coords.dp, coords.tp});
  }
  EXPECT_EQ(static_cast<int>(seen.size()), shape.ranks());
}

// The world ranks that each axis communicator joins, against the coordinates.
TEST(Mesh, AxesJoinTheRightRanks) {
  for (const MeshShape shape : {MeshShape{1, 0, 1}, MeshShape{2, 0, 2}, MeshShape{2, 3, 1}, MeshShape{1, 2, 3}}) {
    const int ranks = shape.dp == 0 ? 2 * shape.pp * shape.tp : shape.ranks();
    RunThreadWorld(ranks, [&](World& world) {
      const absl::StatusOr<Mesh> mesh = Mesh::Create(shape, world.comm());
      ASSERT_TRUE(mesh.ok()) << mesh.status();
      EXPECT_EQ(mesh->shape().ranks(), ranks);
      EXPECT_EQ(mesh->coords(), CoordsOf(mesh->shape(), world.rank()));
      const auto members = [&](Communicator& comm) {
        std::vector<int> joined(comm.size());
        const int mine = world.rank();
        comm.AllGather(&mine, joined.data(), comm.size()).Wait();
        return joined;
      };
      const auto expected = [&](int size, int MeshCoords::*axis) {
        std::vector<int> on_axis;
        for (int i = 0; i < size; ++i) {
          MeshCoords coords = mesh->coords();
          coords.*axis = i;
          on_axis.push_back(RankOf(mesh->shape(), coords));
        }
        return on_axis;
      };
      EXPECT_EQ(members(mesh->pp()), expected(mesh->shape().pp, &MeshCoords::pp));
      EXPECT_EQ(members(mesh->dp()), expected(mesh->shape().dp, &MeshCoords::dp));
      EXPECT_EQ(members(mesh->tp()), expected(mesh->shape().tp, &MeshCoords::tp));
      EXPECT_EQ(mesh->pp().rank(), mesh->coords().pp);
      EXPECT_EQ(mesh->dp().rank(), mesh->coords().dp);
      EXPECT_EQ(mesh->tp().rank(), mesh->coords().tp);
      EXPECT_EQ(mesh->tp().name(), "tp");
    });
  }
}

TEST(Mesh, WrongWorldIsAnErrorOnEveryRank) {
  RunThreadWorld(3, [](World& world) {
    EXPECT_EQ(Mesh::Create({1, 2, 2}, world.comm()).status().code(), absl::StatusCode::kInvalidArgument);
  });
}

TEST(Mesh, IdentityNamesCoordinates) {
  RunThreadWorld(4, [](World& world) {
    const absl::StatusOr<Mesh> mesh = Mesh::Create({1, 2, 2}, world.comm());
    ASSERT_TRUE(mesh.ok());
    const std::string expected[] = {"rank 0 (pp=0 dp=0 tp=0)", "rank 1 (pp=0 dp=0 tp=1)", "rank 2 (pp=0 dp=1 tp=0)",
                                    "rank 3 (pp=0 dp=1 tp=1)"};
    EXPECT_EQ(mesh->Identity(), expected[world.rank()]);
  });
}

}  // namespace
}  // namespace shardit
