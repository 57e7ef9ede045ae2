#include "model/diffusion_batch.h"

#include <cstdlib>
#include <utility>

#include "core/base/math.h"

namespace shardit {
namespace {

constexpr int64_t kConstantBytes = sizeof(LossConstants);

template <class T>
T* Structs(const Tensor& bytes) {
  return static_cast<T*>(bytes.raw());
}

Tensor BytesOf(Allocator& allocator, const std::vector<LossConstants>& constants) {
  const Tensor bytes = Tensor::Empty(allocator, {static_cast<int64_t>(constants.size()), kConstantBytes}, DType::kU8);
  bytes.CopyFrom(Tensor::Borrow(const_cast<LossConstants*>(constants.data()), bytes.shape(), DType::kU8));
  return bytes;
}

LossResult MeansOf(std::span<const ImageLoss> images, double denominator) {
  LossResult result;
  for (const ImageLoss& image : images) {
    result.mse += image.mse;
    result.vb += image.vb;
  }
  result.mse /= denominator;
  result.vb /= denominator;
  result.loss = result.mse + result.vb;
  return result;
}

void LossOnDevice(const DiffusionBatch& batch, bool learn_sigma, ForwardLossResult& result, RankContext& context) {
  CHECK(batch.constants.defined()) << "[diffusion_loss] a batch without constants: neither drawn here nor placed";
  cuda::DiffusionLoss({.images = batch.images(),
                       .elements = batch.elements(),
                       .learn_sigma = learn_sigma,
                       .constants = Structs<LossConstants>(batch.constants),
                       .x_0 = batch.x_0.data(),
                       .noise = batch.noise.data(),
                       .output = result.output.value().data(),
                       .denominator = result.denominator,
                       .d_output = result.d_output.defined() ? result.d_output.data() : nullptr,
                       .per_image = Structs<ImageLoss>(result.device_per_image)},
                      context.cuda());
}

}  // namespace

DiffusionBatch DiffusionBatch::Allocate(Allocator& allocator, const DitConfig& config, int64_t count) {
  const Shape latents{count, config.channels, config.side, config.side};
  DiffusionBatch batch{Tensor::Empty(allocator, latents),
                       Tensor::Empty(allocator, latents),
                       {Tensor::Empty(allocator, latents), Tensor::Empty(allocator, {count}, DType::kI64),
                        Tensor::Empty(allocator, {count}, DType::kI32)}};
  if (!allocator.device().is_cpu()) {
    batch.constants = Tensor::Empty(allocator, {count, kConstantBytes}, DType::kU8);
  }
  return batch;
}

DiffusionBatch DiffusionBatch::ForHost(RankContext& context, const DitConfig& config, int64_t count) {
  if (!context.on_cuda()) return Allocate(context.allocator(), config, count);
  const Shape latents{count, config.channels, config.side, config.side};
  const int64_t latent_bytes = RoundUp(latents.elements() * SizeOf(DType::kF32), 64);
  const int64_t t_bytes = RoundUp(count * SizeOf(DType::kI64), 64), y_bytes = count * SizeOf(DType::kI32);
  DiffusionBatch batch;
  batch.host_memory.reset(std::malloc(static_cast<size_t>(3 * latent_bytes + t_bytes + y_bytes)), std::free);
  char* next = static_cast<char*>(batch.host_memory.get());
  CHECK(next != nullptr) << "out of memory: a batch of " << count << " images";
  const auto take = [&](const Shape& shape, DType dtype, int64_t bytes) {
    return Tensor::Borrow(std::exchange(next, next + bytes), shape, dtype);
  };
  batch.x_0 = take(latents, DType::kF32, latent_bytes);
  batch.noise = take(latents, DType::kF32, latent_bytes);
  batch.input.x_NCHW = take(latents, DType::kF32, latent_bytes);
  batch.input.t_N = take({count}, DType::kI64, t_bytes);
  batch.input.y_N = take({count}, DType::kI32, y_bytes);
  return batch;
}

DiffusionBatch DiffusionBatch::Placed(RankContext& context, const Diffusion& diffusion) const {
  if (!context.on_cuda()) return *this;
  const auto copy = [&](const Tensor& host) {
    const Tensor device = Tensor::Empty(context.allocator(), host.shape(), host.dtype());
    device.CopyFrom(host);
    return device;
  };
  std::vector<LossConstants> steps;
  for (int64_t n = 0; n < images(); ++n) steps.push_back(ConstantsAt(diffusion, input.t_N.data<int64_t>()[n]));
  return {.x_0 = copy(x_0),
          .noise = copy(noise),
          .input = {copy(input.x_NCHW), copy(input.t_N), copy(input.y_N)},
          .constants = BytesOf(context.allocator(), steps)};
}

void DiffusionBatch::NoiseImage(const Diffusion& diffusion, int64_t n) const {
  diffusion.AddNoise(input.t_N.data<int64_t>()[n], Image(x_0, n), Image(noise, n), elements(), Image(input.x_NCHW, n));
}

Tensor LossTable(Allocator& allocator, const Diffusion& diffusion) {
  std::vector<LossConstants> steps;
  for (int64_t t = 0; t < diffusion.steps(); ++t) steps.push_back(ConstantsAt(diffusion, t));
  return BytesOf(allocator, steps);
}

DiffusionBatch DrawBatch(RankContext& context, const DitConfig& config, const Tensor& table, uint64_t seed,
                         const SampleTensors& samples) {
  DiffusionBatch batch = DiffusionBatch::Allocate(context.allocator(), config, samples.x.dim(0));
  batch.x_0 = samples.x;
  cuda::DrawNoise({.seed = seed,
                   .images = batch.images(),
                   .elements = batch.elements(),
                   .table = Structs<LossConstants>(table),
                   .steps = table.dim(0),
                   .label_dropout = config.class_dropout,
                   .null_class = static_cast<int32_t>(config.null_class()),
                   .x_0 = samples.x.data(),
                   .labels = samples.labels.data<int32_t>(),
                   .positions = samples.positions.data<int64_t>(),
                   .noise = batch.noise.data(),
                   .x_t = batch.input.x_NCHW.data(),
                   .t = batch.input.t_N.data<int64_t>(),
                   .y = batch.input.y_N.data<int32_t>(),
                   .constants = Structs<LossConstants>(batch.constants)},
                  context.cuda());
  return batch;
}

void ForwardLossResult::FetchLoss() {
  if (!device_per_image.defined()) return;
  per_image.resize(static_cast<size_t>(device_per_image.dim(0)));
  device_per_image.ToHost(per_image.data());
  loss = MeansOf(per_image, denominator);
}

ForwardLossResult ForwardLoss(Tape& tape, const Dit& model, const Diffusion& diffusion, const DiffusionBatch& batch,
                              double denominator, const DitForwardOptions& options) {
  return LossOf(tape, model.Forward(tape, batch.input, options), diffusion, batch, denominator);
}

ForwardLossResult LossOf(Tape& tape, Var output, const Diffusion& diffusion, const DiffusionBatch& batch,
                         double denominator) {
  ForwardLossResult result{.output = std::move(output), .denominator = denominator};
  if (tape.recording()) result.d_output = Tensor::Empty(tape.allocator(), result.output.shape());
  if (!tape.allocator().device().is_cpu()) {
    result.device_per_image = Tensor::Empty(tape.allocator(), {batch.images(), 2}, DType::kF64);
  }
  const double passes = tape.recording() ? 2.0 : 1.0;
  const double bytes =
      2.0 * static_cast<double>(batch.x_0.bytes()) + passes * static_cast<double>(result.output.value().bytes());
  if (tape.context().cpu().Planned({"diffusion_loss", 0, bytes})) return result;
  if (tape.context().on_cuda()) {
    LossOnDevice(batch, diffusion.options().learn_sigma, result, tape.context());
    return result;
  }
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
