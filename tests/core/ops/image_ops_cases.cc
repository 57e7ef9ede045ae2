// ReLU, batch normalisation and concatenation of channels. Legend: N images, H W pixels, C channels.
#include <algorithm>
#include <cmath>

#include "core/ops/batch_norm.h"
#include "core/ops/concat_channels.h"
#include "core/ops/relu.h"
#include "tests/core/host_copy.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

// Values so far from the kink that differences do not cross it.
OpCase ReluCase(Shape shape) {
  return {.name = CaseName("relu", {shape.elements()}),
          .inputs = {{.shape = shape, .spread = 1e5}},
          .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> { return {Relu(tape, in[0])}; },
          .naive = [](const std::vector<Array>& in) -> std::vector<Array> {
            Array y = in[0];
            for (double& value : y.values) value = std::max(value, 0.0);
            return {y};
          }};
}

// Statistics of as many channels as are asked for: not inputs of a case, since variances are not negative.
struct Statistics {
  std::vector<float> mean, variance, gamma, beta;

  explicit Statistics(int64_t channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const float at = static_cast<float>(c);
      mean.push_back(3 * std::sin(at));
      variance.push_back(c % 5 == 4 ? 0.0f : 0.5f + std::abs(std::cos(at)));
      gamma.push_back(1 + 0.5f * std::sin(2 * at));
      beta.push_back(std::cos(3 * at));
    }
  }
};

constexpr double kEpsilon = 1e-3;

OpCase BatchNormCase(Shape shape, bool affine, bool relu) {
  const int64_t channels = shape[-1];
  const char* const variant = affine ? relu ? "affine_relu" : "affine" : relu ? "relu" : "";
  return {.name = CaseName("batch_norm", {shape.elements() / channels, channels}, variant),
          .inputs = {{.shape = shape, .wants_grad = false, .spread = 2}},
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            Statistics host(channels);
            const auto placed = [&](std::vector<float>& values) {
              return Placed(tape.allocator(), Tensor::Borrow(values.data(), {channels}));
            };
            BatchNormStatistics statistics{
                .mean = placed(host.mean), .variance = placed(host.variance), .epsilon = kEpsilon};
            if (affine) statistics.gamma = placed(host.gamma), statistics.beta = placed(host.beta);
            return {BatchNormInference(tape, in[0], statistics, relu)};
          },
          .naive = [=](const std::vector<Array>& in) -> std::vector<Array> {
            const Statistics host(channels);
            Array y = in[0];
            for (size_t i = 0; i < y.values.size(); ++i) {
              const size_t c = i % static_cast<size_t>(channels);
              double& value = y.values[i];
              value = (value - double{host.mean[c]}) / std::sqrt(double{host.variance[c]} + kEpsilon);
              if (affine) value = value * double{host.gamma[c]} + double{host.beta[c]};
              if (relu) value = std::max(value, 0.0);
            }
            return {y};
          }};
}

OpCase ConcatCase(std::vector<int64_t> channels) {
  int64_t all = 0;
  std::vector<OpInput> inputs;
  for (const int64_t count : channels) {
    inputs.push_back({.shape = {2, 3, 5, count}, .wants_grad = false});
    all += count;
  }
  return {.name = CaseName("concat_channels", {static_cast<int64_t>(channels.size()), all}),
          .inputs = inputs,
          .run = [](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> { return {ConcatChannels(tape, in)}; },
          .naive = [=](const std::vector<Array>& in) -> std::vector<Array> {
            Array y({2, 3, 5, all});
            size_t to = 0;
            for (size_t pixel = 0; pixel < 30; ++pixel) {
              for (size_t part = 0; part < in.size(); ++part) {
                const size_t count = static_cast<size_t>(channels[part]);
                for (size_t c = 0; c < count; ++c) y.values[to++] = in[part].values[pixel * count + c];
              }
            }
            return {y};
          },
          .tolerance = 0};
}

}  // namespace

std::vector<OpCase> ReluCases() {
  return {ReluCase({1}),
          ReluCase({3, 7}),
          ReluCase({2, 5, 9, 3}),
          ReluCase({3, 6000}),
          Timed(ReluCase({64, 32, 32, 64})),
          Large(ReluCase({16, 35, 35, 96}))};
}

std::vector<OpCase> BatchNormCases() {
  return {BatchNormCase({1, 1, 1, 1}, true, false),          BatchNormCase({2, 3, 5, 3}, true, true),
          BatchNormCase({2, 3, 5, 40}, false, false),        BatchNormCase({1, 4, 7, 19}, false, true),
          BatchNormCase({3, 30, 31, 24}, true, true),        Timed(BatchNormCase({8, 147, 147, 64}, true, true)),
          Large(BatchNormCase({16, 35, 35, 96}, true, true))};
}

std::vector<OpCase> ConcatChannelsCases() {
  return {ConcatCase({1}), ConcatCase({3, 17, 8}), ConcatCase({64, 32, 16, 8})};
}

}  // namespace shardit
