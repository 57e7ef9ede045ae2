#include "core/ops/adamw.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/tensor/rank_context.h"
#include "core/tensor/rng.h"
#include "tests/cuda/device_buffer.h"

namespace shardit {
namespace {

using cuda::AdamwRun;
using cuda::DeviceVector;
using cuda::SquaresRun;
using cuda::TestContext;

using Floats = std::vector<float>;

Floats Draw(int64_t count, uint64_t stream) {
  Floats values(static_cast<size_t>(count));
  FillNormal({.seed = 3, .stream = stream}, 0, count, values.data());
  return values;
}

template <class T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

struct State {
  explicit State(int64_t count)
      : param(Draw(count, 1)),
        grad(Draw(count, 2)),
        m(Draw(count, 3)),
        v(Draw(count, 4)),
        ema(Draw(count, 5)),
        compute(static_cast<size_t>(count)) {
    for (float& value : v) value *= value;
    for (size_t i = 0; i < compute.size(); ++i) compute[i] = BFloat16::FromFloat(param[i]);
  }
  bool operator==(const State& other) const {
    return SameBits(param, other.param) && SameBits(m, other.m) && SameBits(v, other.v) && SameBits(ema, other.ema) &&
           SameBits(compute, other.compute);
  }
  Floats param, grad, m, v, ema;
  std::vector<BFloat16> compute;
};

// Of a step in the middle of training.
AdamwScalars Scalars() {
  AdamwEmaArgs args;
  args.lr = 3e-3;
  args.weight_decay = 0.1;
  args.bias_correction1 = 1 - std::pow(args.beta1, 7);
  args.bias_correction2 = 1 - std::pow(args.beta2, 7);
  args.grad_scale = 0.37;
  args.ema_decay = 0.99;
  return Narrowed(args);
}

struct Options {
  bool ema = true;
  bool compute = true;
  bool skip = false;
  int64_t offset = 0;  // elements that all ranges are off their alignment
};

// The state after an update of `runs` on the device. `offset` shifts what the device holds, not what it means.
State OnDevice(const State& before, std::vector<AdamwRun> runs, const Options& options) {
  const auto shifted = [&](auto values) {
    values.insert(values.begin(), static_cast<size_t>(options.offset), typename decltype(values)::value_type{});
    return values;
  };
  DeviceVector<float> param(shifted(before.param)), grad(shifted(before.grad)), m(shifted(before.m)),
      v(shifted(before.v)), ema(shifted(before.ema));
  DeviceVector<BFloat16> compute(shifted(before.compute));
  const int64_t tiles = cuda::PlaceTiles(runs);
  const DeviceVector<AdamwRun> device_runs(runs);
  const DeviceVector<AdamwScalars> scalars(std::vector{Scalars()});
  const DeviceVector<int32_t> skip(std::vector<int32_t>{options.skip});
  cuda::AdamwEma({.runs = device_runs.data(),
                  .run_count = device_runs.size(),
                  .tiles = tiles,
                  .param = param.data() + options.offset,
                  .grad = grad.data() + options.offset,
                  .m = m.data() + options.offset,
                  .v = v.data() + options.offset,
                  .ema = options.ema ? ema.data() + options.offset : nullptr,
                  .compute = options.compute ? compute.data() + options.offset : nullptr,
                  .scalars = scalars.data(),
                  .skip = skip.data()},
                 TestContext());
  const auto back = [&](const auto& device) {
    auto values = device.Download();
    values.erase(values.begin(), values.begin() + options.offset);
    return values;
  };
  State after = before;
  after.param = back(param), after.m = back(m), after.v = back(v), after.ema = back(ema);
  after.compute = back(compute);
  return after;
}

// The same on the CPU.
State OnHost(const State& before, const std::vector<AdamwRun>& runs, const Options& options) {
  RankContext context(1);
  State after = before;
  for (const AdamwRun& run : runs) {
    AdamwEmaArgs args{.param = after.param.data() + run.param,
                      .grad = after.grad.data() + run.grad,
                      .m = after.m.data() + run.moments,
                      .v = after.v.data() + run.moments,
                      .ema = options.ema ? after.ema.data() + run.moments : nullptr,
                      .count = run.count};
    cpu::AdamwEma(args, Scalars(), context.cpu());
    for (int64_t i = 0; options.compute && i < run.count; ++i) {
      after.compute[static_cast<size_t>(run.compute + i)] =
          BFloat16::FromFloat(after.param[static_cast<size_t>(run.param + i)]);
    }
  }
  return after;
}

class CudaAdamw : public cuda::CudaTest {};

TEST_F(CudaAdamw, GivesTheBitsOfTheCpu) {
  for (const int64_t count : {1, 3, 4, 7, 1023, 1024, 1025, 5003}) {
    const State before(count);
    for (const Options& options : {Options{}, Options{.ema = false}, Options{.compute = false}, Options{.offset = 1},
                                   Options{.ema = false, .compute = false, .offset = 2}}) {
      const std::vector<AdamwRun> runs{{.count = count}};
      EXPECT_TRUE(OnDevice(before, runs, options) == OnHost(before, runs, options))
          << count << " elements, ema " << options.ema << ", bf16 " << options.compute << ", off " << options.offset;
    }
  }
}

TEST_F(CudaAdamw, EveryRunHasItsOwnPlaces) {
  const State before(40000);
  // Whole tiles, less than one, one element, nothing, and a run whose ranges are aligned differently.
  const std::vector<AdamwRun> runs{{.param = 512, .grad = 0, .moments = 0, .compute = 256, .count = 2048},
                                   {.param = 4096, .grad = 2048, .moments = 2048, .compute = 3000, .count = 300},
                                   {.param = 5000, .grad = 2500, .moments = 2500, .compute = 4000, .count = 0},
                                   {.param = 6000, .grad = 2800, .moments = 2900, .compute = 5001, .count = 1},
                                   {.param = 8193, .grad = 3000, .moments = 3001, .compute = 8194, .count = 30001}};
  EXPECT_TRUE(OnDevice(before, runs, {}) == OnHost(before, runs, {}));
}

TEST_F(CudaAdamw, ExtremeValuesKeepTheirBits) {
  State before(1024);
  const float special[] = {0.0f, -0.0f, 1e-38f, 1e-42f, 3e38f, std::numeric_limits<float>::infinity()};
  for (size_t i = 0; i < 36; ++i) {
    before.grad[i] = special[i % 6];
    before.v[i] = std::abs(special[i / 6]);
  }
  const std::vector<AdamwRun> runs{{.count = 1024}};
  const State got = OnDevice(before, runs, {}), want = OnHost(before, runs, {});
  for (size_t i = 0; i < 1024; ++i) {
    const bool both_nan = std::isnan(got.param[i]) && std::isnan(want.param[i]);
    EXPECT_TRUE(both_nan || got.param[i] == want.param[i]) << i << ": " << got.param[i] << ", not " << want.param[i];
  }
}

TEST_F(CudaAdamw, ASkippedStepTouchesNothing) {
  const State before(3001);
  EXPECT_TRUE(OnDevice(before, {{.count = 3001}}, {.skip = true}) == before);
  EXPECT_FALSE(OnDevice(before, {{.count = 3001}}, {}) == before);
}

// One representation per sum: after carries.
std::vector<int64_t> Carried(std::vector<int64_t> limbs) {
  exact::Carry(limbs.data());
  return limbs;
}

std::vector<int64_t> SquaresOnDevice(const Floats& values, std::vector<SquaresRun> runs, int64_t offset = 0,
                                     int launches = 1) {
  Floats shifted(static_cast<size_t>(offset));
  shifted.insert(shifted.end(), values.begin(), values.end());
  const int64_t blocks = cuda::PlaceBlocks(runs);
  const DeviceVector<float> device(shifted);
  const DeviceVector<SquaresRun> device_runs(runs);
  DeviceVector<int64_t> limbs(std::vector<int64_t>(exact::kLimbs));
  for (int i = 0; i < launches; ++i) {
    cuda::SumOfSquares({.runs = device_runs.data(),
                        .run_count = device_runs.size(),
                        .blocks = blocks,
                        .values = device.data() + offset,
                        .limbs = limbs.data()},
                       TestContext());
  }
  return Carried(limbs.Download());
}

std::vector<int64_t> SquaresOnHost(const Floats& values, const std::vector<SquaresRun>& runs, int launches = 1) {
  RankContext context(1);
  ExactSum sum;
  for (int i = 0; i < launches; ++i) {
    for (const SquaresRun& run : runs) cpu::SumOfSquares(values.data() + run.begin, run.count, context.cpu(), sum);
  }
  return {sum.limbs().begin(), sum.limbs().end()};
}

TEST_F(CudaAdamw, SumOfSquaresIsTheCpusSum) {
  for (const int64_t count : {0, 1, 7, 255, 256, 257, 4097, 20011}) {
    const Floats values = Draw(count, 9);
    for (const int64_t offset : {0, 1}) {
      EXPECT_EQ(SquaresOnDevice(values, {{.count = count}}, offset), SquaresOnHost(values, {{.count = count}}))
          << count << " elements, off " << offset;
    }
  }
}

TEST_F(CudaAdamw, SumOfSquaresOfManyRunsAddsToWhatIsThere) {
  Floats values = Draw(30011, 9);
  for (size_t i = 0; i < values.size(); ++i) values[i] *= std::ldexp(1.0f, static_cast<int>(i % 200) - 100);
  const std::vector<SquaresRun> runs{{.begin = 256, .count = 511},
                                     {.begin = 1024, .count = 1},
                                     {.begin = 2000, .count = 0},
                                     {.begin = 3, .count = 30008}};
  EXPECT_EQ(SquaresOnDevice(values, runs, 0, 3), SquaresOnHost(values, runs, 3));
}

TEST_F(CudaAdamw, SumOfSquaresCountsWhatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    for (const size_t at : {0, 255, 256, 3000}) {
      Floats values = Draw(3001, 9);
      values[at] = bad;
      EXPECT_EQ(SquaresOnDevice(values, {{.count = 3001}}), SquaresOnHost(values, {{.count = 3001}}))
          << bad << " at " << at;
    }
  }
  const Floats largest(3001, std::numeric_limits<float>::max());
  EXPECT_EQ(SquaresOnDevice(largest, {{.count = 3001}}), SquaresOnHost(largest, {{.count = 3001}}));
}

}  // namespace
}  // namespace shardit
