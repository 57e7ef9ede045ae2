#include "trainer/train/train_step.h"

#include <cmath>
#include <vector>

#include "model/diffusion_loss.h"

namespace shardit {
namespace {

// Rows [first, first + count) of a batch as the trainer's tensors.
Tensor Rows(std::span<const float> values, int64_t row_elements, int64_t first, const Shape& shape) {
  return Tensor::Borrow(const_cast<float*>(values.data()) + first * row_elements, shape);
}

}  // namespace

TrainStep::TrainStep(RankContext& context, TrainState& state, const Diffusion& diffusion, const Optimizer& optimizer,
                     Communicator& data_axis, Communicator& control, const StepOptions& options)
    : context_(context),
      state_(state),
      diffusion_(diffusion),
      optimizer_(optimizer),
      control_(control),
      options_(options),
      reducer_(data_axis, state.layout(), state.grads(), options.bucket_bytes) {}

StepReport TrainStep::Run(const Batch& batch) {
  StepReport report;
  report.begin = StepReport::Time::clock::now();
  const int64_t local_batch = static_cast<int64_t>(batch.positions.size());
  reducer_.BeginStep(static_cast<int>(local_batch / options_.micro_batch));
  LossSums sums;
  for (int64_t first = 0; first < local_batch; first += options_.micro_batch) {
    RunMicroBatch(batch, first, options_.micro_batch, sums, report);
  }
  report.backward_end = StepReport::Time::clock::now();

  // World: the losses' sum, sent ahead of the wait for the last buckets.
  double shared[] = {sums.loss, sums.mse, sums.vb};
  const Work losses = control_.AllReduce(shared, shared, 3, ReduceOp::kSum, {.tag = "losses", .control = true});
  report.reduce = reducer_.Finish();
  losses.Wait();
  report.loss = shared[0];
  report.mse = shared[1];
  report.vb = shared[2];
  report.update = optimizer_.Step(context_, state_, std::isfinite(report.loss));
  report.end = StepReport::Time::clock::now();
  return report;
}

void TrainStep::RunMicroBatch(const Batch& batch, int64_t first, int64_t count, LossSums& sums, StepReport& report) {
  const DitConfig& config = state_.model().config();
  const int64_t elements = config.latent_elements();
  const Shape latents{count, config.channels, config.side, config.side};
  Allocator& allocator = context_.allocator();
  DitInput input{Tensor::Empty(allocator, latents), Tensor::Empty(allocator, {count}, DType::kI64),
                 Tensor::Empty(allocator, {count}, DType::kI32)};
  const Tensor noise = Tensor::Empty(allocator, latents);
  const Tensor x_0 = Rows(batch.x, elements, first, latents);
  context_.pool().ParallelFor(count, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t position = batch.positions[static_cast<size_t>(first + n)];
      const int64_t t = diffusion_.DrawTimestep(options_.seed, position);
      const bool drop = DrawLabelDrop(options_.seed, position, config.class_dropout);
      input.t_N.data<int64_t>()[n] = t;
      input.y_N.data<int32_t>()[n] =
          drop ? static_cast<int32_t>(config.null_class()) : batch.y[static_cast<size_t>(first + n)];
      DrawNoise(options_.seed, position, elements, noise.data() + n * elements);
      diffusion_.AddNoise(t, x_0.data() + n * elements, noise.data() + n * elements, elements,
                          input.x_NCHW.data() + n * elements);
    }
  });

  Tape tape(context_);
  const Var output = state_.model().Forward(tape, input, {.recompute = options_.recompute});
  std::vector<ImageLoss> per_image(static_cast<size_t>(count));
  Tensor d_output = Tensor::Empty(allocator, output.shape());
  DiffusionLossArgs loss{.images = count, .elements = elements, .t = input.t_N.data<int64_t>()};
  loss.x_0 = x_0.data();
  loss.noise = noise.data();
  loss.output = output.value().data();
  loss.denominator = static_cast<double>(options_.global_batch);
  loss.d_output = d_output.data();
  loss.per_image = per_image;
  const LossResult result = DiffusionLoss(diffusion_, loss, context_.pool());
  sums.loss += result.loss;
  sums.mse += result.mse;
  sums.vb += result.vb;
  report.forward_end = StepReport::Time::clock::now();
  tape.Backward({{output, std::move(d_output)}}, {.observer = &reducer_});
}

}  // namespace shardit
