#include "parallel/data/flat_layout.h"

#include <set>
#include <vector>

#include "core/tensor/rank_context.h"
#include "core/tensor/rng.h"
#include "gtest/gtest.h"
#include "parallel/data/shard_map.h"
#include "tests/parallel/zero_toys.h"

namespace shardit {
namespace {

constexpr int64_t kBucketBytes = 12 << 10;

std::vector<FlatLayoutOptions> AllOptions() {
  std::vector<FlatLayoutOptions> all;
  for (const bool per_unit : {false, true}) {
    for (const bool sequence_parallel : {false, true}) all.push_back({kBucketBytes, per_unit, sequence_parallel});
  }
  return all;
}

TEST(FlatLayout, HoldsEveryParameterOnceAtAlignedPlaces) {
  const ToyParameters parameters(UnevenSpecs());
  for (const FlatLayoutOptions& options : AllOptions()) {
    const FlatLayout layout(parameters.all(), options);
    std::set<const Parameter*> seen;
    int64_t next = 0;
    for (const FlatLayout::Entry& entry : layout.entries()) {
      EXPECT_EQ(entry.offset, next);
      EXPECT_EQ(entry.offset % FlatLayout::kAlignment, 0);
      EXPECT_EQ(entry.count, entry.parameter->value.elements());
      EXPECT_TRUE(entry.shape == entry.parameter->value.shape());
      EXPECT_TRUE(seen.insert(entry.parameter).second);
      next = RoundUp(entry.end(), FlatLayout::kAlignment);
    }
    EXPECT_EQ(layout.size(), next);
    EXPECT_EQ(seen.size(), parameters.size());
  }
}

TEST(FlatLayout, BucketsAreRunsWithoutGaps) {
  const ToyParameters parameters(UnevenSpecs());
  for (const FlatLayoutOptions& options : AllOptions()) {
    const FlatLayout layout(parameters.all(), options);
    int64_t offset = 0;
    size_t entry = 0;
    for (const FlatLayout::Bucket& bucket : layout.buckets()) {
      EXPECT_EQ(bucket.offset, offset);
      EXPECT_EQ(bucket.first_entry, entry);
      EXPECT_EQ(layout.entries()[entry].offset, offset);
      offset = bucket.end();
      entry = bucket.end_entry;
      const bool last = &bucket == &layout.buckets().back();
      if (!options.bucket_per_unit && !last) {
        EXPECT_GE(bucket.bytes(), kBucketBytes);
      }
      std::set<int> units;
      for (size_t i = bucket.first_entry; i < entry; ++i) units.insert(layout.entries()[i].parameter->unit);
      if (options.bucket_per_unit) {
        EXPECT_EQ(units.size(), 1u);
      }
    }
    EXPECT_EQ(offset, layout.size());
    EXPECT_EQ(entry, layout.entries().size());
    if (options.bucket_per_unit) {
      EXPECT_EQ(layout.buckets().size(), 4u);
    }
  }
}

TEST(FlatLayout, OrderIsReverseRegistrationWithPerTokenLastInTheBucket) {
  const ToyParameters parameters(UnevenSpecs());
  const auto names = [&](bool sequence_parallel) {
    std::string text;
    const FlatLayout layout(parameters.all(), {.bucket_per_unit = true, .sequence_parallel = sequence_parallel});
    for (const FlatLayout::Entry& entry : layout.entries()) text += entry.parameter->name;
    return text;
  };
  EXPECT_EQ(names(false), "p8p7p6p5p4p3p2p1p0");
  EXPECT_EQ(names(true), "p8p7p5p6p4p2p3p0p1");
}

TEST(FlatLayout, PerTokenRangeIsTheBucketsTail) {
  const ToyParameters parameters(UnevenSpecs());
  for (const FlatLayoutOptions& options : AllOptions()) {
    const FlatLayout layout(parameters.all(), options);
    for (const FlatLayout::Bucket& bucket : layout.buckets()) {
      EXPECT_EQ(bucket.per_token.end, bucket.end());
      for (size_t i = bucket.first_entry; i < bucket.end_entry; ++i) {
        const FlatLayout::Entry& entry = layout.entries()[i];
        const bool partial = options.sequence_parallel && entry.parameter->shard.per_token;
        EXPECT_EQ(entry.offset >= bucket.per_token.begin, partial) << entry.parameter->name;
      }
    }
  }
}

TEST(FlatLayout, TakesNarrowedShapes) {
  const ToyParameters parameters({{.elements = 1000}, {.elements = 600}});
  parameters[0].value = Tensor::Meta({10, 50});
  const FlatLayout layout(parameters.all());
  RankContext context(1);
  const Tensor flat = Tensor::Zeros(context.allocator(), {layout.size()});
  const FlatLayout::Entry& entry = layout.entries()[1];
  EXPECT_EQ(entry.count, 500);
  EXPECT_TRUE(layout.View(flat, entry).shape() == Shape({10, 50}));
  EXPECT_EQ(layout.View(flat, entry).data(), flat.data() + 768);
}

TEST(ShardMap, RanksTileEveryParameterOnce) {
  const ToyParameters parameters(UnevenSpecs());
  for (const FlatLayoutOptions& options : AllOptions()) {
    const FlatLayout layout(parameters.all(), options);
    for (const int ranks : {1, 2, 3, 4, 8, 50}) {
      std::vector<int> owners(static_cast<size_t>(layout.size()), 0);
      int64_t total = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const ShardMap map(layout, ranks, rank);
        total += map.size();
        int64_t next = 0;
        for (const ShardMap::Piece& piece : map.pieces()) {
          EXPECT_GE(piece.shard_begin, next);
          EXPECT_EQ(piece.begin % FlatLayout::kAlignment, 0);
          EXPECT_TRUE(piece.end % FlatLayout::kAlignment == 0 || piece.end == piece.entry->count);
          const ShardMap::Run& run = map.runs()[piece.bucket];
          EXPECT_EQ(piece.shard_begin - run.shard_begin, piece.flat_begin() - run.flat_begin);
          for (int64_t i = 0; i < piece.count(); ++i) ++owners[static_cast<size_t>(piece.flat_begin() + i)];
          next = piece.shard_begin + piece.count();
        }
        EXPECT_LE(next, map.size());
      }
      EXPECT_EQ(total, layout.size());
      for (const FlatLayout::Entry& entry : layout.entries()) {
        for (int64_t i = entry.offset; i < entry.end(); ++i) ASSERT_EQ(owners[static_cast<size_t>(i)], 1);
      }
    }
  }
}

TEST(ShardMap, SharesDifferByOneBlockABucket) {
  const ToyParameters parameters(UnevenSpecs());
  const FlatLayout layout(parameters.all(), {.bucket_bytes = kBucketBytes});
  for (const int ranks : {2, 3, 8}) {
    const ShardMap first(layout, ranks, 0), last(layout, ranks, ranks - 1);
    for (size_t b = 0; b < layout.buckets().size(); ++b) {
      const int64_t difference = first.runs()[b].count - last.runs()[b].count;
      EXPECT_TRUE(difference == 0 || difference == FlatLayout::kAlignment) << difference;
    }
  }
}

TEST(ShardMap, OfOneRankIsTheIdentity) {
  const ToyParameters parameters(UnevenSpecs());
  const FlatLayout layout(parameters.all(), {.bucket_bytes = kBucketBytes});
  const ShardMap map(layout, 1, 0);
  EXPECT_EQ(map.size(), layout.size());
  ASSERT_EQ(map.pieces().size(), layout.entries().size());
  for (const ShardMap::Piece& piece : map.pieces()) {
    EXPECT_EQ(piece.shard_begin, piece.flat_begin());
    EXPECT_EQ(piece.count(), piece.entry->count);
  }
}

// Gradients of a model by parameter, the same whatever the layout; random, so that every order of fp64 additions
// rounds in its own way.
double Norm(const FlatLayout& layout, int ranks, Placement placement, int threads) {
  RankContext context(threads);
  ExactSum sum;
  for (int rank = 0; rank < ranks; ++rank) {
    const ShardMap map(layout, ranks, rank);
    const bool flat = placement == Placement::kFlat;
    const Tensor grads = Tensor::Zeros(context.allocator(), {flat ? layout.size() : map.size()});
    for (const ShardMap::Piece& piece : map.pieces()) {
      const uint64_t stream = std::stoull(piece.entry->parameter->name.substr(1));
      FillNormal({.seed = 7, .stream = stream}, static_cast<uint64_t>(piece.begin), piece.count(),
                 grads.data() + (flat ? piece.flat_begin() : piece.shard_begin));
    }
    AddSquares(map, grads, placement, true, context.cpu(), sum);
  }
  return sum.Round();
}

TEST(AddSquares, NormHasTheSameBitsInEveryLayout) {
  const ToyParameters parameters(UnevenSpecs());
  const double want = Norm(FlatLayout(parameters.all()), 1, Placement::kFlat, 1);
  EXPECT_GT(want, 9000.0);
  for (const FlatLayoutOptions& options : AllOptions()) {
    const FlatLayout layout(parameters.all(), options);
    for (const int ranks : {1, 2, 3, 8}) {
      EXPECT_EQ(Norm(layout, ranks, Placement::kFlat, 1), want) << ranks;
      EXPECT_EQ(Norm(layout, ranks, Placement::kShard, 2), want) << ranks;
    }
  }
}

TEST(AddSquares, CutParametersCountOnEveryTensorRankAndOthersOnOne) {
  const ToyParameters parameters({{.elements = 10}, {.elements = 20}});
  parameters[1].shard.dim = 0;
  const FlatLayout layout(parameters.all());
  const ShardMap map(layout, 1, 0);
  RankContext context(1);
  const Tensor grads = Tensor::Zeros(context.allocator(), {layout.size()});
  for (const FlatLayout::Entry& entry : layout.entries()) {
    for (int64_t i = 0; i < entry.count; ++i) grads.data()[entry.offset + i] = 1.0f;
  }
  ExactSum with, without;
  AddSquares(map, grads, Placement::kFlat, true, context.cpu(), with);
  AddSquares(map, grads, Placement::kFlat, false, context.cpu(), without);
  EXPECT_EQ(with.Round(), 30.0);
  EXPECT_EQ(without.Round(), 20.0);
}

}  // namespace
}  // namespace shardit
