// Pooling, resizing and cross-entropy against the CPU: the first two with the same bits, whatever is in the images.
#include <cmath>
#include <limits>
#include <random>

#include "core/ops/cross_entropy.h"
#include "core/ops/pool2d.h"
#include "core/ops/resize.h"
#include "tests/core/host_copy.h"
#include "tests/cuda/device_buffer.h"

namespace shardit::cuda {
namespace {

class VisionOps : public CudaTest {
 protected:
  static RankContext& OnDevice() {
    static RankContext* const context = new RankContext(Device::Cuda(0), CudaOptions{}, 1);
    return *context;
  }
  static RankContext& OnHost() {
    static RankContext* const context = new RankContext(1);
    return *context;
  }
};

// Few different values: windows have several maxima.
Floats FewValues(int64_t count, uint32_t seed) {
  std::mt19937 engine(seed);
  Floats values;
  for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<float>(engine() % 4) / 3);
  return values;
}

void ExpectSameFloats(const Floats& got, const Floats& want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_TRUE(got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i])))
        << what << ", element " << i << ": " << got[i] << ", want " << want[i];
  }
}

struct Result {
  Floats y;
  Floats dx;
};

Result Pool(RankContext& context, const Floats& values, Shape shape, PoolKind kind, const PoolWindow& window) {
  Tape tape(context);
  Leaf leaf;
  leaf.value = Tensor::Empty(context.allocator(), shape);
  WriteFloats(leaf.value, values);
  const Var y = Pool2d(tape, Var(leaf), kind, window);
  Tensor dy = Tensor::Empty(context.allocator(), y.shape());
  WriteFloats(dy, FewValues(dy.elements(), 7));
  tape.Backward({{y, dy}});
  return {ReadFloats(y.value()), ReadFloats(leaf.grad)};
}

TEST_F(VisionOps, PoolsWithTiesToTheCpusBits) {
  const PoolWindow windows[] = {{.kernel_h = 3, .kernel_w = 3, .stride = 2},
                                {.kernel_h = 3, .kernel_w = 2, .stride = 1, .pad_h = 1, .pad_w = 1},
                                {.kernel_h = 2, .kernel_w = 2, .stride = 3}};
  for (const PoolWindow& window : windows) {
    for (const int64_t channels : {1, 4, 6, 68}) {
      const Shape shape{2, 7, 9, channels};
      Floats values = FewValues(shape.elements(), 3);
      values[5] = std::numeric_limits<float>::quiet_NaN();
      values[17] = -std::numeric_limits<float>::infinity();
      for (const PoolKind kind : {PoolKind::kMax, PoolKind::kAverage, PoolKind::kAverageInside}) {
        const Result got = Pool(OnDevice(), values, shape, kind, window);
        const Result want = Pool(OnHost(), values, shape, kind, window);
        const std::string what = std::to_string(channels) + " channels, kind " + std::to_string(static_cast<int>(kind));
        ExpectSameFloats(got.y, want.y, what + ", y");
        ExpectSameFloats(got.dx, want.dx, what + ", dx");
      }
    }
  }
}

// Rows of more packs than a block has threads, and images that start where packs do not.
TEST_F(VisionOps, PoolsWideAndUnalignedImages) {
  const PoolShape shape{.kind = PoolKind::kMax,
                        .rows = {.kernel = 2, .stride = 2, .pixels = 2, .windows = 1},
                        .columns = {.kernel = 3, .stride = 1, .pixels = 90, .windows = 88},
                        .images = 1,
                        .channels = 16};
  const int64_t in = 2 * 90 * 16, out = 88 * 16;
  const std::vector<float> x = FewValues(in + 1, 4);
  std::vector<float> want(static_cast<size_t>(out)), want_dx(static_cast<size_t>(in));
  std::vector<int32_t> winners(want.size());
  // Which of the operands begin at an odd element.
  for (const auto& [in_x, in_y] : {std::pair(0, 0), std::pair(1, 0), std::pair(0, 1)}) {
    cpu::Pool2dFwd({.shape = shape, .x = x.data() + in_x, .y = want.data(), .winners = winners.data()}, OnHost().cpu());
    cpu::Pool2dBwd({.shape = shape, .dy = want.data(), .winners = winners.data(), .dx = want_dx.data()},
                   OnHost().cpu());
    const DeviceVector<float> on_x(x);
    DeviceVector<float> y(out + 1), dx(in + 1);
    DeviceVector<int32_t> on_winners(out);
    Pool2dFwd({.shape = shape, .x = on_x.data() + in_x, .y = y.data() + in_y, .winners = on_winners.data()},
              TestContext());
    Pool2dBwd({.shape = shape, .dy = y.data() + in_y, .winners = on_winners.data(), .dx = dx.data() + in_x},
              TestContext());
    const std::vector<float> all_y = y.Download(), all_dx = dx.Download();
    ExpectSameFloats({all_y.begin() + in_y, all_y.begin() + in_y + out}, want, "y");
    ExpectSameFloats({all_dx.begin() + in_x, all_dx.begin() + in_x + in}, want_dx, "dx");
    EXPECT_EQ(on_winners.Download(), winners);
  }
}

TEST_F(VisionOps, ResizesToTheCpusBits) {
  struct Sizes {
    Shape x;
    int64_t height, width;
  };
  const Sizes cases[] = {
      {{1, 32, 32, 3}, 75, 299}, {{2, 40, 30, 1}, 29, 31}, {{1, 9, 100, 3}, 9, 100}, {{0, 4, 4, 3}, 5, 5}};
  for (const auto& [shape, height, width] : cases) {
    for (const ResizeMode mode : {ResizeMode::kBilinear, ResizeMode::kBilinearTf1}) {
      Floats results[2];
      RankContext* const contexts[] = {&OnDevice(), &OnHost()};
      for (int i = 0; i < 2; ++i) {
        const Tensor x = Tensor::Empty(contexts[i]->allocator(), shape);
        WriteFloats(x, FewValues(shape.elements(), 5));
        results[i] = ReadFloats(ResizeBilinear(*contexts[i], x, height, width, mode, 2.5f, -0.3f));
      }
      ExpectSameFloats(results[0], results[1], std::to_string(height) + " rows");
    }
  }
}

TEST_F(VisionOps, CrossEntropyOfLogitsOfEverySize) {
  constexpr int64_t kClasses = 37;
  const std::vector<float> sizes{0, 1, 30, 1e4f, 1e30f};
  const int64_t count = static_cast<int64_t>(sizes.size());
  std::vector<float> logits;
  std::vector<int32_t> labels;
  for (const float size : sizes) {
    for (const float value : FewValues(kClasses, 6)) logits.push_back((value - 0.5f) * size);
    labels.push_back(static_cast<int32_t>(labels.size() * 9));
  }
  std::vector<float> want(sizes.size()), want_grads(logits.size());
  cpu::CrossEntropyFwd({logits.data(), labels.data(), want.data(), count, kClasses}, OnHost().cpu());
  cpu::CrossEntropyBwd({.logits = logits.data(),
                        .labels = labels.data(),
                        .dlosses = sizes.data(),
                        .dlogits = want_grads.data(),
                        .count = count,
                        .classes = kClasses},
                       OnHost().cpu());
  const DeviceVector<float> on_logits(logits), dlosses(sizes);
  const DeviceVector<int32_t> on_labels(labels);
  DeviceVector<float> losses(count), dlogits(count * kClasses);
  CrossEntropyFwd({on_logits.data(), on_labels.data(), losses.data(), count, kClasses}, TestContext());
  CrossEntropyBwd({.logits = on_logits.data(),
                   .labels = on_labels.data(),
                   .dlosses = dlosses.data(),
                   .dlogits = dlogits.data(),
                   .count = count,
                   .classes = kClasses},
                  TestContext());
  const std::vector<float> got = losses.Download(), grads = dlogits.Download();
  for (size_t n = 0; n < want.size(); ++n) EXPECT_NEAR(got[n], want[n], 1e-6 * std::abs(want[n])) << n;
  for (size_t i = 0; i < grads.size(); ++i) EXPECT_NEAR(grads[i], want_grads[i], 1e-6 * std::abs(want_grads[i])) << i;
}

}  // namespace
}  // namespace shardit::cuda
