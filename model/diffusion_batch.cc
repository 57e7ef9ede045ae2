#include "model/diffusion_batch.h"

#include <utility>

namespace shardit {

DiffusionBatch DiffusionBatch::Allocate(Allocator& allocator, const DitConfig& config, int64_t count) {
  const Shape latents{count, config.channels, config.side, config.side};
  return {Tensor::Empty(allocator, latents),
          Tensor::Empty(allocator, latents),
          {Tensor::Empty(allocator, latents), Tensor::Empty(allocator, {count}, DType::kI64),
           Tensor::Empty(allocator, {count}, DType::kI32)}};
}

void DiffusionBatch::NoiseImage(const Diffusion& diffusion, int64_t n) const {
  diffusion.AddNoise(input.t_N.data<int64_t>()[n], Image(x_0, n), Image(noise, n), elements(), Image(input.x_NCHW, n));
}

ForwardLossResult ForwardLoss(Tape& tape, const Dit& model, const Diffusion& diffusion, const DiffusionBatch& batch,
                              double denominator, const DitForwardOptions& options) {
  return LossOf(tape, model.Forward(tape, batch.input, options), diffusion, batch, denominator);
}

ForwardLossResult LossOf(Tape& tape, Var output, const Diffusion& diffusion, const DiffusionBatch& batch,
                         double denominator) {
  ForwardLossResult result{.output = std::move(output)};
  if (tape.recording()) result.d_output = Tensor::Empty(tape.allocator(), result.output.shape());
  const double passes = tape.recording() ? 2.0 : 1.0;
  const double bytes =
      2.0 * static_cast<double>(batch.x_0.bytes()) + passes * static_cast<double>(result.output.value().bytes());
  if (tape.context().cpu().Planned({"diffusion_loss", 0, bytes})) return result;
  result.per_image.resize(static_cast<size_t>(batch.images()));
  DiffusionLossArgs args{.images = batch.images(), .elements = batch.elements()};
  args.t = batch.input.t_N.data<int64_t>();
  args.x_0 = batch.x_0.data();
  args.noise = batch.noise.data();
  args.output = result.output.value().data();
  args.denominator = denominator;
  args.d_output = tape.recording() ? result.d_output.data() : nullptr;
  args.per_image = result.per_image;
  result.loss = DiffusionLoss(diffusion, args, tape.context().pool());
  return result;
}

}  // namespace shardit
