// The executor between processes: messages below and above what MPI sends eagerly, so that sends wait for receives.
#include <gtest/gtest.h>

#include "parallel/pipeline/executor.h"
#include "tests/parallel/comm_mpi_world.h"
#include "tests/parallel/pipeline_toys.h"

namespace shardit {
namespace {

TEST(PipelineMpi, ValuesGradientsAndBytesAreExact) {
  World& world = MpiTestWorld();
  for (const int64_t columns : {5, 30'000}) {
    for (const ScheduleKind kind : kScheduleKinds) {
      const PipelineSpec spec{kind, world.size(), 6, kind == ScheduleKind::kInterleaved ? 2 : 1};
      SCOPED_TRACE(Name(kind));
      const auto pp = world.comm().Split(0, world.rank(), "pp");
      RankContext context(1);
      ToyStage stage(spec, world.rank(), columns, context);
      PipelineExecutor(spec, *pp, context).Run(stage);
      ExpectPipelineBytes(spec, columns, *pp, 1);
      // Every rank's own part of the reference.
      Results expected = Reference(spec.stages(), spec.micro_batches, columns);
      if (world.rank() != 0) expected.condition_grads.clear();
      if (world.rank() != world.size() - 1) expected.losses.clear();
      std::erase_if(expected.weight_grads,
                    [&](const auto& entry) { return entry.first.first % world.size() != world.rank(); });
      EXPECT_EQ(stage.results, expected);
    }
  }
}

}  // namespace
}  // namespace shardit
