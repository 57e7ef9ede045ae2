#include "trainer/train/validation.h"

#include <algorithm>

#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "core/tensor/rng.h"
#include "model/diffusion_batch.h"
#include "parallel/comm/agree_status.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/train/loss_sums.h"

namespace shardit {
namespace {

// Fills `batch`, in host memory, with samples [first, ...) of the set, noised.
absl::Status ReadBatch(const Diffusion& diffusion, const Dataset& dataset, SampleReader& reader, uint64_t seed,
                       int64_t first, const DiffusionBatch& batch) {
  const int64_t count = batch.images();
  RETURN_IF_ERROR(ReadRange(dataset, reader, seed, first, count,
                            {batch.x_0.data(), static_cast<size_t>(count * batch.elements())},
                            {batch.input.y_N.data<int32_t>(), static_cast<size_t>(count)}));
  for (int64_t n = 0; n < count; ++n) {
    // Element 0 of the sample's sequence gives t; the noise begins at the next block of four.
    const RngKey key{.seed = seed, .purpose = RngPurpose::kValidation, .stream = static_cast<uint64_t>(first + n)};
    batch.input.t_N.data<int64_t>()[n] = BoundedFromWord(key.Word(0), static_cast<uint32_t>(diffusion.steps()));
    FillNormal(key, 4, batch.elements(), batch.Image(batch.noise, n));
    batch.NoiseImage(diffusion, n);
  }
  return absl::OkStatus();
}

void SetZero(const DiffusionBatch& batch) {
  batch.input.x_NCHW.Zero();
  std::fill_n(batch.input.t_N.data<int64_t>(), batch.images(), 0);
  std::fill_n(batch.input.y_N.data<int32_t>(), batch.images(), 0);
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
    const int64_t count = std::min(options.batch, own.end - first);
    // A rank without samples, or that cannot read them, takes part with images of zeros: as many as the ranks that
    // share its model send, for messages of another size would not match theirs.
    const DiffusionBatch batch = DiffusionBatch::ForHost(context, model.config(), std::max<int64_t>(count, 1));
    if (count > 0 && read.ok()) read = ReadBatch(diffusion, dataset, *reader, options.seed, first, batch);
    const bool counts = count > 0 && read.ok();
    if (!counts) SetZero(batch);
    const DiffusionBatch placed = batch.Placed(context, diffusion);
    const Tensor output = model.Run(placed.input);
    // The ranks that share a model all have the output; one of them counts it.
    if (!counts || sharding.coords.pp != 0 || sharding.coords.tp != 0) continue;
    Tape tape(context, Tape::Mode::kInference);
    ForwardLossResult loss = LossOf(tape, Var(output), diffusion, placed, 1.0);
    loss.FetchLoss();
    AddImages(loss.per_image, sums);
  }
  RETURN_IF_ERROR(WithExitCode(AgreeStatus(world, read), ExitCode::kIo));
  return AllReduceMeans(world, sums, total);
}

}  // namespace shardit
