// The ops that are one small kernel: sums, SiLU, embedding, patches, timestep features.
#include <cmath>

#include "core/ops/embedding.h"
#include "core/ops/gated_residual.h"
#include "core/ops/patch_embed.h"
#include "core/ops/silu.h"
#include "core/ops/timestep_embedding.h"
#include "core/ops/unpatchify.h"
#include "tests/cuda/device_values.h"

namespace shardit::cuda {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kBF16};
constexpr int64_t kCounts[] = {0, 1, 7, 64, 1021};

std::vector<float> ToFloats(const Values& values) { return {values.begin(), values.end()}; }
Values ToValues(const std::vector<float>& floats) { return {floats.begin(), floats.end()}; }

// A CPU to compare with.
CpuContext& HostContext() {
  static RankContext* const rank = new RankContext(1);
  return rank->cpu();
}

using SmallOps = CudaTest;

// Number of the operand that starts at an odd element; none: -1.
int64_t OffsetOf(int operand, int odd) { return operand == odd ? 1 : 0; }

TEST_F(SmallOps, Add) {
  for (const DType type : kTypes) {
    for (const int64_t count : kCounts) {
      for (int odd = -1; odd < 3; ++odd) {
        const Values a = RandomValues(type, count, 1), b = RandomValues(type, count, 2);
        DeviceValues on_a(type, a, OffsetOf(0, odd)), on_b(type, b, OffsetOf(1, odd)), out(type, a, OffsetOf(2, odd));
        Add({.a = on_a.ref(), .b = on_b.ref(), .out = out.ref(), .count = count}, TestContext());
        Add({.a = on_a.ref(), .b = on_b.ref(), .out = on_b.ref(), .count = count}, TestContext());
        Values expected = a;
        for (size_t i = 0; i < a.size(); ++i) expected[i] = RoundTo(type, static_cast<float>(a[i] + b[i]));
        EXPECT_EQ(out.Download(), expected) << Name(type) << " " << count;
        EXPECT_EQ(on_b.Download(), expected) << "in place";
      }
    }
  }
}

double Silu(double x) { return x / (1 + std::exp(-x)); }
double SiluGrad(double x) {
  const double sigmoid = 1 / (1 + std::exp(-x));
  return sigmoid * (1 + x * (1 - sigmoid));
}

// Half a unit in the last place of the type, and some of fp32 for the arithmetic.
void ExpectRounded(const Values& values, const Values& truth, DType type, double arithmetic) {
  const double half_unit = type == DType::kBF16 ? 0x1p-8 : 0x1p-24;
  for (size_t i = 0; i < truth.size(); ++i) {
    EXPECT_NEAR(values[i], truth[i], half_unit * std::abs(truth[i]) + arithmetic) << "element " << i;
  }
}

TEST_F(SmallOps, SiluFwd) {
  for (const DType type : kTypes) {
    for (const int64_t count : kCounts) {
      for (const int64_t offset : {0, 1}) {
        Values x = RandomValues(type, count, 1, 4);
        if (count > 3) x[0] = -200, x[1] = 100, x[2] = 0;
        DeviceValues on_x(type, x, offset), y(type, x);
        SiluFwd({.x = on_x.ref(), .y = y.ref(), .count = count}, TestContext());
        SiluFwd({.x = on_x.ref(), .y = on_x.ref(), .count = count}, TestContext());
        Values truth;
        for (const double value : x) truth.push_back(Silu(value));
        ExpectRounded(y.Download(), truth, type, 1e-6);
        EXPECT_EQ(on_x.Download(), y.Download()) << "in place";
      }
    }
  }
}

void CheckSiluBwd(DType x_type, DType dy_type, DType dx_type, bool accumulate, int64_t count, int odd = -1) {
  const Values x = RandomValues(x_type, count, 1, 4), dy = RandomValues(dy_type, count, 2);
  const Values old = RandomValues(dx_type, count, 3);
  DeviceValues on_x(x_type, x, OffsetOf(0, odd)), on_dy(dy_type, dy, OffsetOf(1, odd));
  DeviceValues dx(dx_type, old, OffsetOf(2, odd));
  SiluBwd({.x = on_x.ref(), .dy = on_dy.ref(), .dx = dx.ref(), .accumulate = accumulate, .count = count},
          TestContext());
  Values truth;
  for (size_t i = 0; i < x.size(); ++i) truth.push_back((accumulate ? old[i] : 0) + dy[i] * SiluGrad(x[i]));
  ExpectRounded(dx.Download(), truth, dx_type, 2e-6);
  if (dy_type == dx_type && !accumulate) {
    SiluBwd({.x = on_x.ref(), .dy = on_dy.ref(), .dx = on_dy.ref(), .count = count}, TestContext());
    EXPECT_EQ(on_dy.Download(), dx.Download()) << "in place";
  }
}

TEST_F(SmallOps, SiluBwd) {
  for (const DType x : kTypes) {
    for (const DType dy : kTypes) {
      for (const DType dx : kTypes) {
        for (const bool accumulate : {false, true}) {
          for (const int64_t count : {1, 1021}) CheckSiluBwd(x, dy, dx, accumulate, count);
          for (const int odd : {-1, 0, 1, 2}) CheckSiluBwd(x, dy, dx, accumulate, 40, odd);
        }
      }
    }
  }
}

constexpr int64_t kVocabulary = 6;
const std::vector<int32_t> kIds = [] {
  std::vector<int32_t> ids;
  for (int n = 0; n < 70; ++n) ids.push_back(n * n % 5);  // nobody asks for row 5
  return ids;
}();

TEST_F(SmallOps, EmbeddingFwd) {
  const DeviceVector<int32_t> ids(kIds);
  const int64_t count = ids.size();
  for (const DType type : kTypes) {
    for (const int64_t width : {1, 24, 37, 264}) {
      for (const int64_t offset : {0, 1}) {
        const Values table = RandomValues(type, kVocabulary * width, 1);
        DeviceValues on_device(type, table, offset), y(type, Values(static_cast<size_t>(count * width), -1));
        EmbeddingFwd({.table = on_device.ref(),
                      .ids = ids.data(),
                      .y = y.ref(),
                      .rows = kVocabulary,
                      .count = count,
                      .width = width},
                     TestContext());
        Values expected;
        for (const int32_t id : kIds) {
          expected.insert(expected.end(), table.begin() + id * width, table.begin() + (id + 1) * width);
        }
        EXPECT_EQ(y.Download(), expected) << Name(type) << " width " << width;
      }
    }
  }
}

// The same additions in the same order as on the CPU: the same bits.
TEST_F(SmallOps, EmbeddingBwd) {
  const DeviceVector<int32_t> ids(kIds);
  for (const DType type : kTypes) {
    for (const int64_t width : {1, 24, 200}) {
      for (const int64_t count : {int64_t{0}, int64_t{1}, ids.size()}) {
        for (const bool accumulate : {false, true}) {
          const Values dy = RandomValues(type, count * width, 1);
          const Values old = RandomValues(DType::kF32, kVocabulary * width, 2);
          DeviceValues on_device(type, dy), dtable(DType::kF32, old);
          EmbeddingBwdArgs args{.dy = on_device.ref(),
                                .ids = ids.data(),
                                .dtable = dtable.ref(),
                                .accumulate = accumulate,
                                .rows = kVocabulary,
                                .count = count,
                                .width = width};
          EmbeddingBwd(args, TestContext());
          const std::vector<float> host_dy = ToFloats(dy);
          std::vector<float> expected = ToFloats(old);
          args.dy = host_dy.data();
          args.ids = kIds.data();
          args.dtable = expected.data();
          cpu::EmbeddingBwd(args, HostContext());
          EXPECT_EQ(dtable.Download(), ToValues(expected)) << Name(type) << " width " << width << " count " << count;
        }
      }
    }
  }
}

struct PatchCase {
  int64_t images, channels, grid_h, grid_w, patch;
  int64_t elements() const { return images * channels * grid_h * grid_w * patch * patch; }
};
constexpr PatchCase kPatchCases[] = {
    {1, 1, 1, 1, 1}, {2, 3, 2, 5, 2}, {3, 4, 4, 4, 2}, {2, 4, 3, 2, 8}, {0, 4, 2, 2, 2}};

Values Rounded(const std::vector<float>& floats, DType type) {
  Values values;
  for (const float value : floats) values.push_back(RoundTo(type, value));
  return values;
}

TEST_F(SmallOps, Patchify) {
  for (const PatchCase& c : kPatchCases) {
    const Values x = RandomValues(DType::kF32, c.elements(), 1);
    std::vector<float> host_x = ToFloats(x), expected(x.size());
    PatchifyArgs args{.x = host_x.data(),
                      .out = expected.data(),
                      .images = c.images,
                      .channels = c.channels,
                      .grid_h = c.grid_h,
                      .grid_w = c.grid_w,
                      .patch = c.patch};
    cpu::Patchify(args, HostContext());
    for (const DType type : kTypes) {
      DeviceValues on_device(DType::kF32, x), out(type, Values(x.size(), -1));
      args.x = on_device.ref();
      args.out = out.ref();
      Patchify(args, TestContext());
      EXPECT_EQ(out.Download(), Rounded(expected, type)) << Name(type);
    }
  }
}

TEST_F(SmallOps, Unpatchify) {
  for (const PatchCase& c : kPatchCases) {
    const UnpatchifyShape shape{
        .images = c.images, .channels = c.channels, .patch = c.patch, .grid_h = c.grid_h, .grid_w = c.grid_w};
    for (const DType type : kTypes) {
      const Values x = RandomValues(type, c.elements(), 1);
      const std::vector<float> host_x = ToFloats(x);
      std::vector<float> expected(x.size());
      cpu::UnpatchifyFwd({.shape = shape, .x = host_x.data(), .y = expected.data()}, HostContext());
      DeviceValues on_device(type, x), y(DType::kF32, Values(x.size(), -1));
      UnpatchifyFwd({.shape = shape, .x = on_device.ref(), .y = y.ref()}, TestContext());
      EXPECT_EQ(y.Download(), ToValues(expected)) << Name(type);

      for (const bool accumulate : {false, true}) {
        const Values dy = RandomValues(DType::kF32, c.elements(), 2), old = RandomValues(type, c.elements(), 3);
        const std::vector<float> host_dy = ToFloats(dy);
        std::vector<float> dx = ToFloats(old);
        cpu::UnpatchifyBwd({.shape = shape, .dy = host_dy.data(), .dx = dx.data(), .accumulate = accumulate},
                           HostContext());
        DeviceValues on_dy(DType::kF32, dy), on_dx(type, old);
        UnpatchifyBwd({.shape = shape, .dy = on_dy.ref(), .dx = on_dx.ref(), .accumulate = accumulate}, TestContext());
        EXPECT_EQ(on_dx.Download(), Rounded(dx, type)) << Name(type) << (accumulate ? " added" : "");
      }
    }
  }
}

TEST_F(SmallOps, TimestepFeatures) {
  const std::vector<int64_t> whole = {0, 1, 17, 500, 999};
  const std::vector<float> broken = {0, 0.25f, 17.5f, 999.75f, 3};
  const DeviceVector<int64_t> on_whole(whole);
  const DeviceVector<float> on_broken(broken);
  const int64_t count = on_whole.size();
  for (const int64_t dim : {2, 14, 256}) {
    for (const bool integers : {true, false}) {
      std::vector<float> expected(static_cast<size_t>(count * dim));
      TimestepFeaturesArgs args{.t = integers ? static_cast<const void*>(whole.data()) : broken.data(),
                                .t_dtype = integers ? DType::kI64 : DType::kF32,
                                .out = expected.data(),
                                .count = count,
                                .dim = dim};
      cpu::TimestepFeatures(args, HostContext());
      for (const DType type : kTypes) {
        DeviceValues out(type, Values(expected.size(), -2));
        args.t = integers ? static_cast<const void*>(on_whole.data()) : on_broken.data();
        args.out = out.ref();
        TimestepFeatures(args, TestContext());
        // The last bits of fp64 functions differ among libraries; what is left of that after rounding is a unit of the
        // type here and there.
        ExpectRounded(out.Download(), Rounded(expected, type), type, 1e-7);
      }
    }
  }
}

}  // namespace
}  // namespace shardit::cuda
