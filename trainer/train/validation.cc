#include "trainer/train/validation.h"

#include <algorithm>

#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "core/tensor/rng.h"
#include "model/diffusion_batch.h"
#include "parallel/comm/agree_status.h"
#include "trainer/train/loss_sums.h"

namespace shardit {
namespace {

// Samples [first, first + count) of the set, noised, in host memory; one image of zeros where count is 0.
absl::StatusOr<DiffusionBatch> ReadBatch(RankContext& context, const DitConfig& config, const Diffusion& diffusion,
                                         const Dataset& dataset, SampleReader& reader, uint64_t seed, int64_t first,
                                         int64_t count) {
  const DiffusionBatch batch = DiffusionBatch::ForHost(context, config, std::max<int64_t>(count, 1));
  int32_t* labels = batch.input.y_N.data<int32_t>();
  RETURN_IF_ERROR(ReadRange(dataset, reader, seed, first, count,
                            {batch.x_0.data(), static_cast<size_t>(count * batch.elements())},
                            {labels, static_cast<size_t>(count)}));
  for (int64_t n = 0; n < count; ++n) {
    // Element 0 of the sample's sequence gives t; the noise begins at the next block of four.
    const RngKey key{.seed = seed, .purpose = RngPurpose::kValidation, .stream = static_cast<uint64_t>(first + n)};
    batch.input.t_N.data<int64_t>()[n] = BoundedFromWord(key.Word(0), static_cast<uint32_t>(diffusion.steps()));
    FillNormal(key, 4, batch.elements(), batch.Image(batch.noise, n));
    batch.NoiseImage(diffusion, n);
  }
  if (count == 0) {
    batch.input.x_NCHW.Zero();
    batch.input.t_N.data<int64_t>()[0] = 0;
    labels[0] = 0;
  }
  return batch;
}

}  // namespace

absl::StatusOr<LossResult> HeldOutLoss(RankContext& context, ShardedForward& model, const Diffusion& diffusion,
                                       const Dataset& dataset, const Sharding& sharding, Communicator& world,
                                       const ValidationOptions& options) {
  const int64_t total = options.samples == 0 ? dataset.size() : std::min(options.samples, dataset.size());
  const Range own = PartRange(total, sharding.shape.dp, sharding.coords.dp);
  // Every data rank makes as many passes as the longest part needs: a pass may be collective.
  const int64_t passes = CeilDiv(PartRange(total, sharding.shape.dp, 0).size(), options.batch);
  LossSums sums;
  absl::StatusOr<SampleReader> reader = SampleReader::Make(dataset);
  RETURN_IF_ERROR(AgreeStatus(world, reader.status()));
  absl::Status read;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = std::min(own.begin + pass * options.batch, own.end);
    const int64_t count = read.ok() ? std::min(options.batch, own.end - first) : 0;
    absl::StatusOr<DiffusionBatch> batch =
        ReadBatch(context, model.config(), diffusion, dataset, *reader, options.seed, first, count);
    if (!batch.ok()) {
      read = batch.status();
      batch = ReadBatch(context, model.config(), diffusion, dataset, *reader, options.seed, first, 0);
    }
    const DiffusionBatch placed = batch->Placed(context, diffusion);
    const Tensor output = model.Run(placed.input);
    // The ranks that share a model all have the output; one of them counts it.
    if (count == 0 || !read.ok() || sharding.coords.pp != 0 || sharding.coords.tp != 0) continue;
    Tape tape(context, Tape::Mode::kInference);
    ForwardLossResult loss = LossOf(tape, Var(output), diffusion, placed, 1.0);
    loss.FetchLoss();
    AddImages(loss.per_image, sums);
  }
  RETURN_IF_ERROR(AgreeStatus(world, read));
  return AllReduceMeans(world, sums, total);
}

}  // namespace shardit
