// The kernels of convolution, batch normalisation and ReLU: the CPU's values to the bit, rounded once. What the op
// cases are too small for: tiles that begin within an image, and operands at odd elements.
#include <cmath>
#include <limits>

#include "core/base/math.h"
#include "core/ops/batch_norm.h"
#include "core/ops/conv2d.h"
#include "core/ops/relu.h"
#include "tests/cuda/device_values.h"

namespace shardit::cuda {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kBF16};

std::vector<float> ToFloats(const Values& values) { return {values.begin(), values.end()}; }

Values Rounded(const std::vector<float>& floats, DType type) {
  Values values;
  for (const float value : floats) values.push_back(RoundTo(type, value));
  return values;
}

// A CPU to compare with.
CpuContext& HostContext() {
  static RankContext* const rank = new RankContext(1);
  return rank->cpu();
}

using ImageOps = CudaTest;

Conv2dShape ShapeOf(int64_t channels, const Conv2dWindow& window) {
  Conv2dShape shape{.window = window, .images = 3, .height = 7, .width = 9, .channels = channels};
  shape.out_height = (shape.height + 2 * window.pad_h - window.kernel_h) / window.stride + 1;
  shape.out_width = (shape.width + 2 * window.pad_w - window.kernel_w) / window.stride + 1;
  return shape;
}

const Conv2dShape kShapes[] = {
    ShapeOf(3, {.kernel_h = 3, .kernel_w = 3, .pad_h = 1, .pad_w = 1}),
    ShapeOf(8, {.kernel_h = 3, .kernel_w = 2, .stride = 2}),
    ShapeOf(16, {.kernel_h = 1, .kernel_w = 7, .pad_w = 3}),
    ShapeOf(4, {.kernel_h = 2, .kernel_w = 2, .stride = 3, .pad_h = 1}),
};

TEST_F(ImageOps, Im2Col) {
  for (const Conv2dShape& shape : kShapes) {
    for (const DType type : kTypes) {
      for (const int64_t offset : {0, 1}) {
        const Values x = RandomValues(type, shape.images * shape.height * shape.width * shape.channels, 1);
        for (const Range pixels :
             {Range{0, shape.out_pixels()}, Range{shape.out_pixels() / 2, shape.out_pixels() - 1}}) {
          const size_t count = static_cast<size_t>(pixels.size() * shape.window_elements());
          const std::vector<float> host_x = ToFloats(x);
          std::vector<float> expected(count);
          Im2ColArgs args{.shape = shape,
                          .x = host_x.data(),
                          .columns = expected.data(),
                          .first_pixel = pixels.begin,
                          .pixels = pixels.size()};
          cpu::Im2Col(args, HostContext());
          DeviceValues on_device(type, x, offset), columns(type, Values(count, -1));
          args.x = on_device.ref();
          args.columns = columns.ref();
          Im2Col(args, TestContext());
          EXPECT_EQ(columns.Download(), Rounded(expected, DType::kF32)) << Name(type) << " from " << pixels.begin;
        }
      }
    }
  }
}

void CheckCol2Im(const Conv2dShape& shape, Range lines, int64_t first_out_line, DType type, bool accumulate,
                 int64_t offset) {
  const int64_t out_lines = shape.images * shape.out_height - first_out_line;
  const Values columns = RandomValues(DType::kF32, out_lines * shape.out_width * shape.window_elements(), 1);
  const Values old = RandomValues(type, shape.images * shape.height * shape.width * shape.channels, 2);
  const std::vector<float> host_columns = ToFloats(columns);
  std::vector<float> dx = ToFloats(old);
  Col2ImArgs args{.shape = shape,
                  .columns = host_columns.data(),
                  .first_out_line = first_out_line,
                  .dx = dx.data(),
                  .accumulate = accumulate,
                  .first_line = lines.begin,
                  .lines = lines.size()};
  cpu::Col2Im(args, HostContext());
  DeviceValues on_device(DType::kF32, columns), on_dx(type, old, offset);
  args.columns = on_device.ref();
  args.dx = on_dx.ref();
  Col2Im(args, TestContext());
  EXPECT_EQ(on_dx.Download(), Rounded(dx, type)) << Name(type) << " lines from " << lines.begin;
}

TEST_F(ImageOps, Col2Im) {
  for (const Conv2dShape& shape : kShapes) {
    for (const DType type : kTypes) {
      for (const bool accumulate : {false, true}) {
        for (const int64_t offset : {0, 1}) {
          const int64_t lines = shape.images * shape.height;
          CheckCol2Im(shape, {0, lines}, 0, type, accumulate, offset);
          CheckCol2Im(shape, {2 * shape.height - 1, lines - 1}, shape.out_height, type, accumulate, offset);
        }
      }
    }
  }
}

TEST_F(ImageOps, BatchNorm) {
  for (const int64_t channels : {1, 24, 37}) {
    const std::vector<float> mean = ToFloats(RandomValues(DType::kF32, channels, 1));
    std::vector<float> variance = ToFloats(RandomValues(DType::kF32, channels, 2));
    for (float& value : variance) value = std::abs(value);
    const DeviceVector<float> on_mean(mean), on_variance(variance);
    for (const DType type : kTypes) {
      for (const bool affine : {false, true}) {
        for (const int64_t offset : {0, 1}) {
          Values x = RandomValues(type, 11 * channels, 3);
          const std::vector<float> host_x = ToFloats(x);
          std::vector<float> expected(x.size());
          BatchNormArgs args{.x = host_x.data(),
                             .y = expected.data(),
                             .mean = mean.data(),
                             .variance = variance.data(),
                             .gamma = affine ? variance.data() : nullptr,
                             .beta = affine ? mean.data() : nullptr,
                             .epsilon = 1e-3,
                             .relu = offset == 1,
                             .rows = 11,
                             .channels = channels};
          cpu::BatchNorm(args, HostContext());
          DeviceValues on_device(type, x, offset), y(type, Values(x.size(), -1));
          args.x = on_device.ref();
          args.y = y.ref();
          args.mean = on_mean.data();
          args.variance = on_variance.data();
          if (affine) args.gamma = on_variance.data(), args.beta = on_mean.data();
          BatchNorm(args, TestContext());
          EXPECT_EQ(y.Download(), Rounded(expected, type)) << Name(type) << " channels " << channels;
        }
      }
    }
  }
}

TEST_F(ImageOps, NanPassesReluAndBatchNorm) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const DeviceVector<float> zero(std::vector<float>(8, 0.0f)), one(std::vector<float>(8, 1.0f));
  for (const DType type : kTypes) {
    DeviceValues x(type, Values(24, nan)), y(type, Values(24, 0)), z(type, Values(24, 0));
    ReluFwd({.x = x.ref(), .y = y.ref(), .count = 24}, TestContext());
    BatchNorm({.x = x.ref(),
               .y = z.ref(),
               .mean = zero.data(),
               .variance = one.data(),
               .relu = true,
               .rows = 3,
               .channels = 8},
              TestContext());
    for (const double value : y.Download()) EXPECT_TRUE(std::isnan(value));
    for (const double value : z.Download()) EXPECT_TRUE(std::isnan(value));
  }
}

// All three types differ where a model's gradients are gathered in fp32.
TEST_F(ImageOps, ReluBwd) {
  for (const DType y_type : kTypes) {
    for (const DType dy_type : kTypes) {
      for (const DType dx_type : kTypes) {
        for (const bool accumulate : {false, true}) {
          for (const int64_t offset : {0, 1}) {
            Values y = RandomValues(y_type, 45, 1);
            for (double& value : y) value = std::max(value, 0.0);
            const Values dy = RandomValues(dy_type, 45, 2), old = RandomValues(dx_type, 45, 3);
            DeviceValues on_y(y_type, y, offset), on_dy(dy_type, dy), dx(dx_type, old);
            ReluBwd({.y = on_y.ref(), .dy = on_dy.ref(), .dx = dx.ref(), .accumulate = accumulate, .count = 45},
                    TestContext());
            Values expected;
            for (size_t i = 0; i < y.size(); ++i) {
              const float grad = y[i] > 0 ? static_cast<float>(dy[i]) : 0.0f;
              expected.push_back(RoundTo(dx_type, (accumulate ? static_cast<float>(old[i]) : 0.0f) + grad));
            }
            EXPECT_EQ(dx.Download(), expected) << Name(y_type) << Name(dy_type) << Name(dx_type);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace shardit::cuda
