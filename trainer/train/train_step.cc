#include "trainer/train/train_step.h"

#include <cmath>
#include <utility>

#include "model/diffusion_batch.h"

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
  DiffusionBatch noised = DiffusionBatch::Allocate(context_.allocator(), config, count);
  noised.x_0 = Rows(batch.x, config.latent_elements(), first, noised.noise.shape());
  context_.pool().ParallelFor(count, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t position = batch.positions[static_cast<size_t>(first + n)];
      const bool drop = DrawLabelDrop(options_.seed, position, config.class_dropout);
      noised.input.t_N.data<int64_t>()[n] = diffusion_.DrawTimestep(options_.seed, position);
      noised.input.y_N.data<int32_t>()[n] =
          drop ? static_cast<int32_t>(config.null_class()) : batch.y[static_cast<size_t>(first + n)];
      DrawNoise(options_.seed, position, noised.elements(), noised.Image(noised.noise, n));
      noised.NoiseImage(diffusion_, n);
    }
  });

  Tape tape(context_);
  tape.set_check_finite(options_.check_finite);
  ForwardLossResult result = ForwardLoss(tape, state_.model(), diffusion_, noised,
                                         static_cast<double>(options_.global_batch), {.recompute = options_.recompute});
  sums.loss += result.loss.loss;
  sums.mse += result.loss.mse;
  sums.vb += result.loss.vb;
  report.forward_end = StepReport::Time::clock::now();
  tape.Backward({{result.output, std::move(result.d_output)}}, {.observer = &reducer_});
  if (report.non_finite_node.empty()) report.non_finite_node = tape.NonFiniteNode();
}

}  // namespace shardit
