#include "trainer/train/validation.h"

#include <algorithm>
#include <vector>

#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "core/tensor/rng.h"
#include "parallel/comm/agree_status.h"

namespace shardit {
namespace {

// Loss of samples [first, first + count), as its share of the mean over `total`.
absl::StatusOr<LossResult> BatchLoss(RankContext& context, const Dit& model, const Diffusion& diffusion,
                                     const Dataset& dataset, SampleReader& reader, uint64_t seed, int64_t first,
                                     int64_t count, int64_t total) {
  const DitConfig& config = model.config();
  const int64_t elements = config.latent_elements();
  const Shape latents{count, config.channels, config.side, config.side};
  Allocator& allocator = context.allocator();
  const Tensor x_0 = Tensor::Empty(allocator, latents), noise = Tensor::Empty(allocator, latents);
  const DitInput input{Tensor::Empty(allocator, latents), Tensor::Empty(allocator, {count}, DType::kI64),
                       Tensor::Empty(allocator, {count}, DType::kI32)};
  RETURN_IF_ERROR(ReadRange(dataset, reader, seed, first, count, {x_0.data(), static_cast<size_t>(x_0.elements())},
                            {input.y_N.data<int32_t>(), static_cast<size_t>(count)}));
  for (int64_t n = 0; n < count; ++n) {
    // Element 0 of the sample's sequence gives t; the noise begins at the next block of four.
    const RngKey key{.seed = seed, .purpose = RngPurpose::kValidation, .stream = static_cast<uint64_t>(first + n)};
    const int64_t t = BoundedFromWord(key.Word(0), static_cast<uint32_t>(diffusion.steps()));
    input.t_N.data<int64_t>()[n] = t;
    const int64_t offset = n * elements;
    FillNormal(key, 4, elements, noise.data() + offset);
    diffusion.AddNoise(t, x_0.data() + offset, noise.data() + offset, elements, input.x_NCHW.data() + offset);
  }
  Tape tape(context, Tape::Mode::kInference);
  const Var output = model.Forward(tape, input);
  std::vector<ImageLoss> per_image(static_cast<size_t>(count));
  DiffusionLossArgs args{.images = count, .elements = elements, .t = input.t_N.data<int64_t>()};
  args.x_0 = x_0.data();
  args.noise = noise.data();
  args.output = output.value().data();
  args.denominator = static_cast<double>(total);
  args.per_image = per_image;
  return DiffusionLoss(diffusion, args, context.pool());
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
