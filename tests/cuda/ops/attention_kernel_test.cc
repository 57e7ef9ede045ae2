// Attention on the GPU against an fp64 version: every head_dim of its own and some without, odd and large numbers of
// tokens, the layouts of self- and cross-attention, rows that cannot be moved 16 bytes at a time, and scores from which
// a careless softmax overflows. bf16 is judged by a twin: naive fp32 arithmetic that rounds what it stores.
#include "core/ops/attention_kernel.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "core/tensor/rng.h"
#include "gtest/gtest.h"
#include "tests/cuda/device_buffer.h"

#ifdef SHARDIT_CUDA_EMULATION
#include "cuda_emulator.h"
#endif

namespace shardit::cuda {
namespace {

constexpr float kGuard = 12352.0f;  // between rows; exact in bf16

enum class Layout {
  kFused,     // [N, T, 3, H, K]
  kSeparate,  // [N, T, D] and [N, S, 2 D]
  kShifted,   // as kSeparate, but at an odd element and with 3 elements between rows
};
enum class Values {
  kNormal,
  kLarge,     // scores of +-60
  kGrowing,   // scores that grow with the key, from 0 to 60
  kDominant,  // one key has all the weight
  kEqual,     // all keys are the same
  kNegative,  // scores of -150: a key that is not there would have a score of 0, 150 above
};

struct Case {
  int64_t head_dim = 64;
  int64_t queries = 16;
  int64_t keys = 16;
  int64_t batch = 2;
  int64_t heads = 2;
  Layout layout = Layout::kFused;
  Values values = Values::kNormal;
  bool backward = true;
  int multiprocessors = 0;  // that the launches are planned for; 0: as they are
};

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

// Operands as [N, T, H, K], results too; lse [N, H, T].
struct Operands {
  Floats q, k, v, d_out;
};
template <class Real>
struct Results {
  std::vector<Real> out, lse, dq, dk, dv;
};

template <class T>
float Rounded(float x) {
  if constexpr (std::is_same_v<T, BFloat16>) return BFloat16::FromFloat(x).ToFloat();
  return x;
}
float ToFloat(float x) { return x; }
float ToFloat(BFloat16 x) { return x.ToFloat(); }
template <class T>
T FromFloat(float x) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return BFloat16::FromFloat(x);
  } else {
    return x;
  }
}

AttentionShape ShapeOf(const Case& c) {
  return {c.batch, c.heads, c.head_dim, c.queries, c.keys, 1.0f / std::sqrt(static_cast<float>(c.head_dim))};
}

Floats Normal(int64_t count, uint64_t stream) {
  Floats values(static_cast<size_t>(count));
  FillNormal({7, RngPurpose::kTest, stream}, 0, count, values.data());
  return values;
}

template <class T>
Operands Make(const Case& c) {
  const int64_t rows = c.batch * c.queries, key_rows = c.batch * c.keys, width = c.heads * c.head_dim;
  Operands x{Normal(rows * width, 1), Normal(key_rows * width, 2), Normal(key_rows * width, 3),
             Normal(rows * width, 4)};
  // Along a common direction of every query, a key's score is `along` of it.
  const auto set_along = [&](const std::function<float(int64_t)>& along, float noise) {
    const float unit = 1.0f / std::sqrt(std::sqrt(static_cast<float>(c.head_dim)));
    for (float& value : x.q) value = unit + 0.01f * value;
    for (int64_t row = 0; row < key_rows; ++row) {
      for (int64_t i = row * width; i < (row + 1) * width; ++i) {
        x.k[static_cast<size_t>(i)] = along(row % c.keys) * unit + noise * x.k[static_cast<size_t>(i)];
      }
    }
  };
  const float last = static_cast<float>(std::max<int64_t>(c.keys - 1, 1));
  if (c.values == Values::kLarge) {
    const float unit = std::sqrt(15.0f);  // scores have this standard deviation squared; some reach 60
    for (float& value : x.q) value *= unit;
    for (float& value : x.k) value *= unit;
  } else if (c.values == Values::kGrowing) {
    set_along([&](int64_t key) { return 60.0f * static_cast<float>(key) / last; }, 0.1f);
  } else if (c.values == Values::kDominant) {
    set_along([&](int64_t key) { return key == c.keys / 2 ? 60.0f : 0.0f; }, 0.1f);
  } else if (c.values == Values::kEqual) {
    set_along([](int64_t) { return 2.0f; }, 0.0f);
  } else if (c.values == Values::kNegative) {
    set_along([](int64_t) { return -150.0f; }, 0.1f);
  }
  for (Floats* values : {&x.q, &x.k, &x.v, &x.d_out}) {
    for (float& value : *values) value = Rounded<T>(value);
  }
  return x;
}

// Loops. Every tensor that an unfused attention would store, but for the scores, is passed through `round`.
template <class Real>
Results<Real> Naive(const Case& c, const Operands& x, const std::function<Real(Real)>& round) {
  const size_t queries = static_cast<size_t>(c.queries), keys = static_cast<size_t>(c.keys);
  const size_t heads = static_cast<size_t>(c.heads), dim = static_cast<size_t>(c.head_dim), width = heads * dim;
  const Real scale = static_cast<Real>(ShapeOf(c).scale);
  Results<Real> y;
  y.out.resize(x.q.size());
  y.lse.resize(static_cast<size_t>(c.batch) * heads * queries);
  y.dq.resize(x.q.size());
  y.dk.resize(x.k.size());
  y.dv.resize(x.k.size());
  std::vector<Real> weights(keys), grads(keys), dk(keys * dim), dv(keys * dim), row(dim);
  const auto dot = [&](const auto* a, const auto* b) {
    Real sum = 0;
    for (size_t i = 0; i < dim; ++i) sum += static_cast<Real>(a[i]) * static_cast<Real>(b[i]);
    return sum;
  };
  for (size_t item = 0; item < static_cast<size_t>(c.batch) * heads; ++item) {
    const size_t n = item / heads, h = item % heads;
    const auto at = [&](size_t tokens, size_t t) { return (n * tokens + t) * width + h * dim; };
    std::fill(dk.begin(), dk.end(), Real{0});
    std::fill(dv.begin(), dv.end(), Real{0});
    for (size_t t = 0; t < queries; ++t) {
      Real top = -INFINITY, sum = 0;
      for (size_t s = 0; s < keys; ++s) {
        weights[s] = scale * dot(&x.q[at(queries, t)], &x.k[at(keys, s)]);
        top = std::max(top, weights[s]);
      }
      for (Real& weight : weights) sum += weight = std::exp(weight - top);
      y.lse[item * queries + t] = top + std::log(sum);
      std::fill(row.begin(), row.end(), Real{0});
      for (size_t s = 0; s < keys; ++s) {
        weights[s] = weights[s] / sum;
        for (size_t i = 0; i < dim; ++i) row[i] += round(weights[s]) * static_cast<Real>(x.v[at(keys, s) + i]);
      }
      for (size_t i = 0; i < dim; ++i) y.out[at(queries, t) + i] = round(row[i]);
      if (!c.backward) continue;
      const float* d_out = &x.d_out[at(queries, t)];
      const Real delta = dot(d_out, &y.out[at(queries, t)]);
      std::fill(row.begin(), row.end(), Real{0});
      for (size_t s = 0; s < keys; ++s) {
        grads[s] = round(weights[s] * (dot(d_out, &x.v[at(keys, s)]) - delta));
        for (size_t i = 0; i < dim; ++i) {
          dv[s * dim + i] += round(weights[s]) * static_cast<Real>(d_out[i]);
          dk[s * dim + i] += grads[s] * static_cast<Real>(x.q[at(queries, t) + i]);
          row[i] += grads[s] * static_cast<Real>(x.k[at(keys, s) + i]);
        }
      }
      for (size_t i = 0; i < dim; ++i) y.dq[at(queries, t) + i] = round(scale * row[i]);
    }
    for (size_t s = 0; s < keys; ++s) {
      for (size_t i = 0; i < dim; ++i) {
        y.dk[at(keys, s) + i] = round(scale * dk[s * dim + i]);
        y.dv[at(keys, s) + i] = round(dv[s * dim + i]);
      }
    }
  }
  return y;
}

// Where a [N, T, H, K] operand lies in a buffer.
struct Place {
  int64_t offset = 0, batch_stride = 0, row_stride = 0, tokens = 0;

  int64_t At(int64_t n, int64_t t) const { return offset + n * batch_stride + t * row_stride; }
};
struct Places {
  explicit Places(const Case& c) {
    const int64_t width = c.heads * c.head_dim, gap = c.layout == Layout::kShifted ? 3 : 0;
    if (c.layout == Layout::kFused) {
      for (int64_t p = 0; p < 3; ++p) part[p] = {p * width, c.queries * 3 * width, 3 * width, c.queries};
      size = c.batch * c.queries * 3 * width;
    } else {
      const int64_t row = width + gap, pair = 2 * width + gap, first = gap == 0 ? 0 : 1;
      const int64_t q_size = RoundUp(first + c.batch * c.queries * row, 8);
      part[0] = {first, c.queries * row, row, c.queries};
      part[1] = {first + q_size, c.keys * pair, pair, c.keys};
      part[2] = {first + q_size + width, c.keys * pair, pair, c.keys};
      size = q_size + first + c.batch * c.keys * pair;
    }
    const int64_t row = width + gap;
    out = {gap == 0 ? 0 : 1, c.queries * row, row, c.queries};
    out_size = out.offset + c.batch * c.queries * row;
  }
  static int64_t RoundUp(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

  Place part[3], out;
  int64_t size = 0, out_size = 0;
};

template <class T>
std::vector<T> Buffer(int64_t size) {
  return std::vector<T>(static_cast<size_t>(size), FromFloat<T>(kGuard));
}

template <class T>
void Put(const Case& c, const Floats& values, const Place& place, std::vector<T>& buffer) {
  const int64_t width = c.heads * c.head_dim;
  for (int64_t row = 0; row < c.batch * place.tokens; ++row) {
    for (int64_t i = 0; i < width; ++i) {
      buffer[static_cast<size_t>(place.At(row / place.tokens, row % place.tokens) + i)] =
          FromFloat<T>(values[static_cast<size_t>(row * width + i)]);
    }
  }
}

// Takes the operand out and leaves guards in its place.
template <class T>
Floats Take(const Case& c, const Place& place, std::vector<T>& buffer) {
  const int64_t width = c.heads * c.head_dim;
  Floats values;
  for (int64_t row = 0; row < c.batch * place.tokens; ++row) {
    for (int64_t i = 0; i < width; ++i) {
      T& element = buffer[static_cast<size_t>(place.At(row / place.tokens, row % place.tokens) + i)];
      values.push_back(ToFloat(element));
      element = FromFloat<T>(kGuard);
    }
  }
  return values;
}

template <class T>
void ExpectGuards(const std::vector<T>& buffer) {
  const auto touched = [](T x) { return ToFloat(x) != kGuard; };
  EXPECT_EQ(std::count_if(buffer.begin(), buffer.end(), touched), 0) << "elements written between rows";
}

template <class T>
Results<float> RunOnDevice(const Case& c, const Operands& x) {
  const Places places(c);
  std::vector<T> inputs = Buffer<T>(places.size), d_out = Buffer<T>(places.out_size);
  Put(c, x.q, places.part[0], inputs);
  Put(c, x.k, places.part[1], inputs);
  Put(c, x.v, places.part[2], inputs);
  Put(c, x.d_out, places.out, d_out);
  DeviceVector<T> device_inputs(inputs), device_d_out(d_out), device_out(Buffer<T>(places.out_size)),
      device_grads(Buffer<T>(places.size));
  DeviceVector<float> device_lse(c.batch * c.heads * c.queries);
  const auto view = [&](DeviceVector<T>& buffer, const Place& place) {
    return HeadsView{Elements(buffer.data()).At(place.offset), place.batch_stride, place.row_stride, c.head_dim};
  };
  CudaContext context = TestContext();
  if (c.multiprocessors > 0) context.multiprocessors = c.multiprocessors;
  const ConstHeadsView q = view(device_inputs, places.part[0]), k = view(device_inputs, places.part[1]),
                       v = view(device_inputs, places.part[2]);
  AttentionFwd({ShapeOf(c), q, k, v, view(device_out, places.out), device_lse.data()}, context);
  Results<float> y;
  if (c.backward) {
    AttentionBwdArgs args{.shape = ShapeOf(c), .q = q, .k = k, .v = v};
    args.out = view(device_out, places.out);
    args.d_out = view(device_d_out, places.out);
    args.lse = device_lse.data();
    args.dq = view(device_grads, places.part[0]);
    args.dk = view(device_grads, places.part[1]);
    args.dv = view(device_grads, places.part[2]);
    AttentionBwd(args, context);
    std::vector<T> grads = device_grads.Download();
    y.dq = Take(c, places.part[0], grads);
    y.dk = Take(c, places.part[1], grads);
    y.dv = Take(c, places.part[2], grads);
    ExpectGuards(grads);
  }
  std::vector<T> out = device_out.Download();
  y.out = Take(c, places.out, out);
  ExpectGuards(out);
  y.lse = device_lse.Download();
  return y;
}

struct Error {
  double most = 0;
  double root_mean_square = 0;
};
template <class Real>
Error ErrorOf(const std::vector<Real>& values, const Doubles& expected) {
  EXPECT_EQ(values.size(), expected.size());
  Error error;
  double squares = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(static_cast<double>(values[i]) - expected[i]);
    error.most = std::isnan(difference) ? INFINITY : std::max(error.most, difference);
    squares += difference * difference;
  }
  error.root_mean_square = std::sqrt(squares / static_cast<double>(expected.size()));
  return error;
}

double Most(const Floats& values) {
  double most = 0;
  for (const float value : values) most = std::max(most, std::abs(static_cast<double>(value)));
  return most;
}

// Errors at most `factor` times the twin's, and what fp32 sums may differ by.
void ExpectAsGood(const char* what, const Floats& values, const Floats& twin, const Doubles& expected, double factor,
                  double floor) {
  SCOPED_TRACE(what);
  const Error error = ErrorOf(values, expected), allowed = ErrorOf(twin, expected);
  EXPECT_LE(error.most, factor * allowed.most + floor);
  EXPECT_LE(error.root_mean_square, factor * allowed.root_mean_square + floor);
}

template <class T>
void Check(const Case& c) {
  SCOPED_TRACE(testing::Message() << "head_dim " << c.head_dim << " queries " << c.queries << " keys " << c.keys
                                  << " layout " << static_cast<int>(c.layout) << " values "
                                  << static_cast<int>(c.values));
  const Operands x = Make<T>(c);
  const Results<double> expected = Naive<double>(c, x, [](double value) { return value; });
  const Results<float> twin = Naive<float>(c, x, [](float value) { return Rounded<T>(value); });
  const Results<float> y = RunOnDevice<T>(c, x);
  // Scores carry fp32 errors of their own size, which are relative errors of the weights.
  const double size = std::max({1.0, Most(x.q), Most(x.k)});
  const double scores = c.values == Values::kNormal || c.values == Values::kEqual ? 8 : 64;
  const double floor = 1e-6 * scores;
  ExpectAsGood("out", y.out, twin.out, expected.out, 2, floor);
  ExpectAsGood("lse", y.lse, twin.lse, expected.lse, 2, floor);
  if (!c.backward) return;
  ExpectAsGood("dq", y.dq, twin.dq, expected.dq, 3, floor * size);
  ExpectAsGood("dk", y.dk, twin.dk, expected.dk, 3, floor * size);
  ExpectAsGood("dv", y.dv, twin.dv, expected.dv, 3, floor * size);
}

class AttentionKernelTest : public CudaTest {};

TEST_F(AttentionKernelTest, Bf16OfEveryLength) {
  for (const int64_t head_dim : {64, 72}) {
    for (const int64_t tokens : {1, 7, 16, 17, 64, 129}) {
      Check<BFloat16>({.head_dim = head_dim, .queries = tokens, .keys = tokens});
    }
    Check<BFloat16>({.head_dim = head_dim, .queries = 256, .keys = 256, .batch = 1});
    Check<BFloat16>({.head_dim = head_dim, .queries = 300, .keys = 300, .batch = 1, .heads = 1});
  }
}

TEST_F(AttentionKernelTest, Bf16OfEveryHeadDim) {
  for (const int64_t head_dim : {8, 20, 32, 48, 80, 96, 128, 136}) {
    for (const int64_t tokens : {17, 70}) {
      Check<BFloat16>({.head_dim = head_dim, .queries = tokens, .keys = tokens, .batch = 1});
    }
  }
}

// More tokens than shared memory holds: tiles pass through a ring.
TEST_F(AttentionKernelTest, Bf16ByTiles) {
  Check<BFloat16>({.head_dim = 64, .queries = 1024, .keys = 1024, .batch = 1, .heads = 1, .backward = false});
  Check<BFloat16>({.head_dim = 72, .queries = 1024, .keys = 1024, .batch = 1, .heads = 1, .backward = false});
  Check<BFloat16>({.head_dim = 72, .queries = 430, .keys = 430, .batch = 1, .heads = 2});
  Check<BFloat16>({.head_dim = 64, .queries = 20, .keys = 800, .batch = 1, .heads = 1, .layout = Layout::kSeparate});
  Check<BFloat16>({.head_dim = 128, .queries = 230, .keys = 230, .batch = 1, .heads = 1});
}

#ifdef SHARDIT_CUDA_EMULATION
// A block of GPUs of compute capability 8.6, 8.9 and 12.0 has 99 KiB of shared memory.
TEST_F(AttentionKernelTest, Bf16InLittleSharedMemory) {
  const uint64_t before = cuda_emulator::SetSharedMemory(99 << 10);
  for (const int64_t head_dim : {64, 72, 96, 128}) {
    for (const int64_t tokens : {70, 150, 230}) {
      Check<BFloat16>({.head_dim = head_dim, .queries = tokens, .keys = tokens, .batch = 1, .heads = 1});
    }
  }
  cuda_emulator::SetSharedMemory(before);
}
#endif

// One block a head, which then takes several rounds of queries; and as many blocks as there can be.
TEST_F(AttentionKernelTest, Bf16InFewAndManyBlocks) {
  for (const int64_t head_dim : {64, 72}) {
    for (const int multiprocessors : {1, 3, 1000}) {
      Check<BFloat16>({.head_dim = head_dim,
                       .queries = 270,
                       .keys = 258,
                       .batch = 1,
                       .layout = Layout::kSeparate,
                       .multiprocessors = multiprocessors});
    }
  }
}

TEST_F(AttentionKernelTest, Bf16CrossAttention) {
  for (const int64_t head_dim : {64, 72}) {
    for (const int64_t keys : {1, 2, 77}) {
      Check<BFloat16>({.head_dim = head_dim, .queries = 100, .keys = keys, .layout = Layout::kSeparate});
    }
    Check<BFloat16>({.head_dim = head_dim, .queries = 2, .keys = 100, .layout = Layout::kSeparate});
  }
}

TEST_F(AttentionKernelTest, Bf16Unaligned) {
  for (const int64_t head_dim : {64, 72, 20}) {
    Check<BFloat16>({.head_dim = head_dim, .queries = 33, .keys = 40, .layout = Layout::kShifted});
  }
}

TEST_F(AttentionKernelTest, Bf16Scores) {
  for (const Values values : {Values::kLarge, Values::kGrowing, Values::kDominant, Values::kEqual, Values::kNegative}) {
    Check<BFloat16>({.head_dim = 64, .queries = 100, .keys = 100, .batch = 1, .values = values});
    Check<BFloat16>({.head_dim = 72, .queries = 129, .keys = 129, .batch = 1, .values = values});
    Check<BFloat16>({.head_dim = 8, .queries = 100, .keys = 100, .batch = 1, .values = values});
  }
}

TEST_F(AttentionKernelTest, Fp32) {
  for (const int64_t head_dim : {1, 8, 20, 64, 72}) {
    for (const int64_t tokens : {1, 16, 17, 65}) {
      Check<float>({.head_dim = head_dim, .queries = tokens, .keys = tokens, .batch = 1});
    }
  }
  Check<float>({.head_dim = 200, .queries = 65, .keys = 70, .batch = 1, .heads = 1, .layout = Layout::kShifted});
  Check<float>({.head_dim = 64, .queries = 100, .keys = 2, .batch = 1, .layout = Layout::kSeparate});
  Check<float>({.head_dim = 72, .queries = 2, .keys = 100, .layout = Layout::kShifted});
  for (const Values values : {Values::kLarge, Values::kGrowing, Values::kDominant, Values::kEqual, Values::kNegative}) {
    Check<float>({.head_dim = 64, .queries = 70, .keys = 70, .batch = 1, .values = values});
  }
}

template <class T>
void ExpectSameWithoutLse() {
  const Case c{.head_dim = 64, .queries = 20, .keys = 20};
  const int64_t row = c.heads * c.head_dim, size = c.batch * c.queries * row;
  std::vector<T> numbers;
  for (const float number : Normal(3 * size, 1)) numbers.push_back(FromFloat<T>(number));
  DeviceVector<T> values(numbers), out(Buffer<T>(size)), same(Buffer<T>(size));
  DeviceVector<float> lse(c.batch * c.heads * c.queries);
  const auto view = [&](DeviceVector<T>& buffer, int64_t part) {
    return HeadsView{Elements(buffer.data() + part * size), c.queries * row, row, c.head_dim};
  };
  AttentionFwdArgs args{ShapeOf(c), view(values, 0), view(values, 1), view(values, 2), view(out, 0), lse.data()};
  AttentionFwd(args, TestContext());
  args.out = view(same, 0);
  args.lse = nullptr;
  AttentionFwd(args, TestContext());
  const Place all{.batch_stride = c.queries * row, .row_stride = row, .tokens = c.queries};
  std::vector<T> expected = out.Download(), got = same.Download();
  EXPECT_EQ(Take(c, all, got), Take(c, all, expected));
}

// With no backward to follow nobody wants the log-sum-exp.
TEST_F(AttentionKernelTest, WithoutLse) {
  ExpectSameWithoutLse<BFloat16>();
  ExpectSameWithoutLse<float>();
}

TEST_F(AttentionKernelTest, NoImages) {
  AttentionFwd({.shape = {.batch = 0, .heads = 1, .head_dim = 64, .queries = 4, .keys = 4}}, TestContext());
  const float lse = 0;
  AttentionBwd({.shape = {.batch = 0, .heads = 1, .head_dim = 64, .queries = 4, .keys = 4}, .lse = &lse},
               TestContext());
}

template <class T>
void ExpectSameBits(const Case& c) {
  const Operands x = Make<T>(c);
  const Results<float> first = RunOnDevice<T>(c, x);
  for (const uint64_t seed : {1, 2, 3}) {
#ifdef SHARDIT_CUDA_EMULATION
    cuda_emulator::SetSeed(seed);
#endif
    const Results<float> again = RunOnDevice<T>(c, x);
    EXPECT_EQ(again.out, first.out) << "seed " << seed;
    EXPECT_EQ(again.lse, first.lse) << "seed " << seed;
    EXPECT_EQ(again.dq, first.dq) << "seed " << seed;
    EXPECT_EQ(again.dk, first.dk) << "seed " << seed;
    EXPECT_EQ(again.dv, first.dv) << "seed " << seed;
  }
#ifdef SHARDIT_CUDA_EMULATION
  cuda_emulator::SetSeed(1);
#endif
}

TEST_F(AttentionKernelTest, RepeatsBitForBit) {
  ExpectSameBits<BFloat16>({.head_dim = 72, .queries = 150, .keys = 150, .batch = 1});
  ExpectSameBits<BFloat16>({.head_dim = 128, .queries = 230, .keys = 230, .batch = 1, .heads = 1});
  ExpectSameBits<BFloat16>({.head_dim = 20, .queries = 70, .keys = 70, .batch = 1});
  ExpectSameBits<float>({.head_dim = 64, .queries = 70, .keys = 70, .batch = 1});
}

}  // namespace
}  // namespace shardit::cuda
