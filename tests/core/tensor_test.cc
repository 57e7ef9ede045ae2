#include "core/tensor/tensor.h"

#include <bit>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/tensor/accumulate.h"
#include "core/tensor/rank_context.h"
#include "gtest/gtest.h"

namespace shardit {
namespace {

// The bfloat16 nearest to a finite value, ties to even, found by comparing distances in double.
uint16_t NearestBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto exact = [](uint32_t upper) { return double{std::bit_cast<float>(upper << 16)}; };
  const uint32_t below = bits >> 16;  // towards zero
  const double low = std::abs(exact(below));
  // Where the next step is infinity, rounding behaves as if it were the next power of two.
  const bool last = (below & 0x7fffu) == 0x7f7fu;
  const double high = last ? std::ldexp(1.0, 128) : std::abs(exact(below + 1));
  const double size = std::abs(double{value});
  if (size - low < high - size) return static_cast<uint16_t>(below);
  if (size - low > high - size) return static_cast<uint16_t>(below + 1);
  return static_cast<uint16_t>(below + (below & 1));
}

TEST(BFloat16, EveryValueComesBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const BFloat16 value{static_cast<uint16_t>(bits)};
    const float wide = value.ToFloat();
    ASSERT_EQ(std::bit_cast<uint32_t>(wide), bits << 16);
    const bool nan = (bits & 0x7fffu) > 0x7f80u;
    ASSERT_EQ(std::isnan(wide), nan);
    // Signalling NaNs become quiet; everything else is unchanged.
    ASSERT_EQ(BFloat16::FromFloat(wide).bits, nan ? bits | 0x0040u : bits) << bits;
  }
}

// Around every bfloat16: on it, beside it, at and beside the tie with the next one.
TEST(BFloat16, RoundsToNearestTiesToEven) {
  for (uint32_t upper = 0; upper < 65536; ++upper) {
    if ((upper & 0x7fffu) >= 0x7f80u) continue;
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x4000u, 0x7fffu, 0x8000u, 0x8001u, 0xc000u, 0xffffu}) {
      const float value = std::bit_cast<float>(upper << 16 | lower);
      ASSERT_EQ(BFloat16::FromFloat(value).bits, NearestBFloat16(value)) << std::hex << upper << " " << lower;
    }
  }
}

TEST(BFloat16, NanStaysNanAndInfinityStaysInfinite) {
  for (const uint32_t sign : {0x0000u, 0x8000u}) {
    EXPECT_EQ(BFloat16::FromFloat(std::bit_cast<float>((sign | 0x7f80u) << 16)).bits, sign | 0x7f80u);
    for (uint32_t payload = 1; payload < 0x800000u; payload = payload * 2 + 1) {
      for (const uint32_t bits : {payload, payload ^ 0x7fffffu, payload & ~(payload >> 1)}) {
        if (bits == 0) continue;
        const BFloat16 rounded = BFloat16::FromFloat(std::bit_cast<float>((sign << 16) | 0x7f800000u | bits));
        ASSERT_TRUE(std::isnan(rounded.ToFloat())) << std::hex << bits;
        ASSERT_EQ(rounded.bits & 0x8000u, sign);
      }
    }
  }
}

TEST(Shape, Basics) {
  const Shape shape{2, 3, 4};
  EXPECT_EQ(shape.elements(), 24);
  EXPECT_EQ(shape[-1], 4);
  EXPECT_EQ(shape.DenseStrides(), Shape({12, 4, 1}));
  EXPECT_EQ(shape.ToString(), "[2, 3, 4]");
  EXPECT_EQ(Shape().elements(), 1);
  EXPECT_FALSE(shape == Shape({2, 3}));
}

TEST(Tensor, ViewsShareStorage) {
  RankContext context(1);
  const Tensor whole = Tensor::Empty(context.allocator(), {2, 3, 4});
  std::iota(whole.data(), whole.data() + 24, 0.0f);
  const Tensor column = whole.Narrow(2, 1, 2);
  EXPECT_EQ(column.shape(), Shape({2, 3, 2}));
  EXPECT_FALSE(column.is_dense());
  EXPECT_EQ(column.storage_id(), whole.storage_id());
  EXPECT_EQ(column.data()[column.stride(0) + 2 * column.stride(1) + 1], 22.0f);
  const Tensor row = whole.Narrow(0, 1, 1);
  EXPECT_TRUE(row.is_dense());
  EXPECT_EQ(row.Reshape({3, 4}).Narrow(0, 1, 1).data()[0], 16.0f);
  row.Zero();
  EXPECT_EQ(whole.data()[12], 0.0f);
  EXPECT_EQ(whole.data()[11], 11.0f);
}

TEST(Tensor, MetaHasShapeAndNoStorage) {
  const Tensor meta = Tensor::Meta({5, 7}, DType::kBF16);
  EXPECT_TRUE(meta.defined());
  EXPECT_TRUE(meta.is_meta());
  EXPECT_EQ(meta.bytes(), 70);
  EXPECT_EQ(meta.storage_bytes(), 0);
  EXPECT_FALSE(Tensor().defined());
}

TEST(Tensor, BorrowedMemoryIsNotFreed) {
  std::vector<float> values{1, 2, 3};
  { const Tensor tensor = Tensor::Borrow(values.data(), {3}); }
  EXPECT_EQ(values[2], 3.0f);
}

TEST(TensorDeathTest, WrongUseIsACheck) {
  RankContext context(1);
  const Tensor tensor = Tensor::Empty(context.allocator(), {4, 6});
  EXPECT_DEATH(tensor.data<double>(), "tensor is f32, asked for f64");
  EXPECT_DEATH(tensor.Narrow(1, 4, 3), "narrow");
  EXPECT_DEATH(tensor.Narrow(1, 0, 3).Reshape({12}), "reshape");
  EXPECT_DEATH(tensor.Reshape({5, 5}), "reshape");
  EXPECT_DEATH(Tensor::Meta({2}).data(), "no storage");
}

TEST(Allocator, SizeClassesAreFewAndFine) {
  const Allocator allocator(Device::Cpu());
  int64_t last = 0;
  for (int64_t bytes = 1; bytes < (1 << 20); bytes += 61) {
    const int64_t size = allocator.RoundedSize(bytes);
    ASSERT_GE(size, bytes);
    ASSERT_EQ(size % 64, 0);
    ASSERT_LE(size, std::max<int64_t>(bytes + 64, bytes + bytes / 8 + 64));
    ASSERT_GE(size, last);
    ASSERT_EQ(allocator.RoundedSize(size), size);
    last = size;
  }
  EXPECT_EQ(allocator.RoundedSize(0), 64);
}

TEST(Allocator, ReusesBlocksAndCounts) {
  Allocator allocator(Device::Cpu());
  void* first = allocator.Allocate(1000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
  const int64_t size = allocator.RoundedSize(1000);
  EXPECT_EQ(allocator.stats().bytes_in_use, size);
  allocator.Free(first, 1000);
  EXPECT_EQ(allocator.stats().bytes_in_use, 0);
  EXPECT_EQ(allocator.stats().bytes_reserved, size);
  void* second = allocator.Allocate(size);  // the same class
  EXPECT_EQ(second, first);
  EXPECT_EQ(allocator.stats().system_allocations, 1);
  void* third = allocator.Allocate(100000);
  EXPECT_EQ(allocator.stats().system_allocations, 2);
  EXPECT_EQ(allocator.stats().peak_bytes_in_use, size + allocator.RoundedSize(100000));
  allocator.Free(third, 100000);
  allocator.ResetPeak();
  EXPECT_EQ(allocator.stats().peak_bytes_in_use, size);
  allocator.Free(second, size);
  allocator.Trim();
  EXPECT_EQ(allocator.stats().bytes_reserved, 0);
}

TEST(Allocator, StorageReturnsWithItsLastView) {
  Allocator allocator(Device::Cpu());
  Tensor view;
  {
    const Tensor tensor = Tensor::Empty(allocator, {16, 16});
    view = tensor.Narrow(0, 3, 1);
  }
  EXPECT_GT(allocator.stats().bytes_in_use, 0);
  view = Tensor();
  EXPECT_EQ(allocator.stats().bytes_in_use, 0);
}

TEST(Accumulate, DenseAndStrided) {
  RankContext context(2);
  for (const bool strided : {false, true}) {
    const int64_t rows = 300, columns = 131;
    const Tensor whole = Tensor::Zeros(context.allocator(), {rows, columns + (strided ? 5 : 0)});
    const Tensor destination = strided ? whole.Narrow(1, 2, columns) : whole;
    const Tensor source = Tensor::Empty(context.allocator(), {rows, columns});
    std::iota(source.data(), source.data() + source.elements(), 0.0f);
    Accumulate(context, destination, source);
    Accumulate(context, destination, source);
    double sum = 0;
    for (int64_t i = 0; i < whole.elements(); ++i) sum += whole.data()[i];
    EXPECT_EQ(sum, static_cast<double>(source.elements()) * static_cast<double>(source.elements() - 1));
    EXPECT_EQ(destination.data()[7 * destination.stride(0) + 5], 2.0f * source.data()[7 * columns + 5]);
  }
}

TEST(OpRing, KeepsTheNewestInOrder) {
  OpRing ring;
  for (uint64_t i = 0; i < OpRing::kSize; ++i) ring.Record("old");
  ring.Record("a");
  ring.Record("b");
  const std::vector<const char*> names = ring.Last();
  ASSERT_EQ(names.size(), OpRing::kSize);
  EXPECT_STREQ(names[names.size() - 2], "a");
  EXPECT_STREQ(names.back(), "b");
  EXPECT_STREQ(names.front(), "old");
  EXPECT_EQ(ring.recorded(), OpRing::kSize + 2);
}

}  // namespace
}  // namespace shardit
