#include "trainer/train/validation.h"

#include <algorithm>

#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "core/tensor/rng.h"
#include "model/diffusion_batch.h"
#include "parallel/comm/agree_status.h"

namespace shardit {
namespace {

// Loss of samples [first, first + count), as its share of the mean over `total`.
absl::StatusOr<LossResult> BatchLoss(RankContext& context, const Dit& model, const Diffusion& diffusion,
                                     const Dataset& dataset, SampleReader& reader, uint64_t seed, int64_t first,
                                     int64_t count, int64_t total) {
  const DiffusionBatch batch = DiffusionBatch::Allocate(context.allocator(), model.config(), count);
  int32_t* labels = batch.input.y_N.data<int32_t>();
  RETURN_IF_ERROR(ReadRange(dataset, reader, seed, first, count,
                            {batch.x_0.data(), static_cast<size_t>(batch.x_0.elements())},
                            {labels, static_cast<size_t>(count)}));
  for (int64_t n = 0; n < count; ++n) {
    // Element 0 of the sample's sequence gives t; the noise begins at the next block of four.
    const RngKey key{.seed = seed, .purpose = RngPurpose::kValidation, .stream = static_cast<uint64_t>(first + n)};
    batch.input.t_N.data<int64_t>()[n] = BoundedFromWord(key.Word(0), static_cast<uint32_t>(diffusion.steps()));
    FillNormal(key, 4, batch.elements(), batch.Image(batch.noise, n));
    batch.NoiseImage(diffusion, n);
  }
  Tape tape(context, Tape::Mode::kInference);
  return ForwardLoss(tape, model, diffusion, batch, static_cast<double>(total)).loss;
}

}  // namespace

absl::StatusOr<LossResult> HeldOutLoss(RankContext& context, const Dit& model, const Diffusion& diffusion,
                                       const Dataset& dataset, Communicator& ranks, const ValidationOptions& options) {
  const int64_t total = options.samples == 0 ? dataset.size() : std::min(options.samples, dataset.size());
  const Range own = PartRange(total, ranks.size(), ranks.rank());
  double sums[3] = {0.0, 0.0, 0.0};
  const auto measure = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(SampleReader reader, SampleReader::Make(dataset));
    for (int64_t first = own.begin; first < own.end; first += options.batch) {
      const int64_t count = std::min(options.batch, own.end - first);
      ASSIGN_OR_RETURN(const LossResult loss,
                       BatchLoss(context, model, diffusion, dataset, reader, options.seed, first, count, total));
      sums[0] += loss.loss;
      sums[1] += loss.mse;
      sums[2] += loss.vb;
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(AgreeStatus(ranks, measure()));
  ranks.AllReduce(sums, sums, 3, ReduceOp::kSum, {.tag = "held-out loss", .control = true}).Wait();
  return LossResult{sums[0], sums[1], sums[2]};
}

}  // namespace shardit
