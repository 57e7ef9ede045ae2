#include "parallel/data/grad_reducer.h"

#include <mutex>
#include <vector>

#include "core/tensor/accumulate.h"
#include "core/tensor/rng.h"
#include "gtest/gtest.h"
#include "parallel/comm/world.h"
#include "tests/parallel/zero_toys.h"

namespace shardit {
namespace {

using Floats = std::vector<float>;

// The gradient of parameter `p` on virtual shard `shard`.
using GradOf = void (*)(size_t p, int64_t shard, int64_t count, float* out);

// Small integers: sums are exact in any order.
void IntegerGrad(size_t p, int64_t shard, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = static_cast<float>((i * 7 + static_cast<int64_t>(p) * 13 + shard * shard * 5) % 101 - 50);
  }
}

void RandomGrad(size_t p, int64_t shard, int64_t count, float* out) {
  FillNormal({.seed = 11, .stream = static_cast<uint64_t>(shard) * 1000 + p}, 0, count, out);
}

// What a node does with a leaf in backward.
void Contribute(RankContext& context, Parameter& leaf, size_t p, int64_t shard, GradOf grad_of) {
  Tensor grad = Tensor::Empty(context.allocator(), leaf.value.shape());
  grad_of(p, shard, grad.elements(), grad.data());
  if (!leaf.grad.defined()) leaf.grad_source->ProvideGrad(leaf);
  if (std::exchange(leaf.grad_written, true)) {
    Accumulate(context, leaf.grad, grad);
  } else {
    leaf.grad.CopyFrom(grad);
  }
}

struct Config {
  int zero_stage = 0;
  bool deterministic = false;
  int64_t bucket_bytes = 8 << 10;
  std::vector<ToySpec> specs = UnevenSpecs();

  FlatLayoutOptions layout(bool sequence_parallel = false) const {
    return {.bucket_bytes = bucket_bytes, .bucket_per_unit = zero_stage == 3, .sequence_parallel = sequence_parallel};
  }
};

// One rank's reducer with its parameters and gradients.
struct Rank {
  Rank(Communicator& data, Communicator* tensor, const Config& config)
      : parameters(config.specs),
        layout(parameters.all(), config.layout(tensor != nullptr)),
        owned(layout, data.size(), data.rank()),
        grads(Tensor::Empty(context.allocator(), {config.zero_stage >= 2 ? owned.size() : layout.size()})),
        reducer(context, data, tensor, layout, grads,
                {.zero_stage = config.zero_stage, .deterministic = config.deterministic}),
        placement(config.zero_stage >= 2 ? Placement::kShard : Placement::kFlat),
        data(data),
        config(config) {}

  int64_t Shard(int64_t micro_batches, int64_t micro_batch) const {
    return GradReducer::VirtualShard(config.zero_stage, data.size(), data.rank(), micro_batches, micro_batch);
  }
  // One whole micro-batch: last parameters first, as backward does.
  void Backward(int64_t shard, GradOf grad_of) {
    for (size_t p = parameters.size(); p-- > 0;) {
      Contribute(context, parameters[p], p, shard, grad_of);
      reducer.OnLeafFinal(parameters[p]);
    }
  }
  ReduceReport Step(int micro_batches, GradOf grad_of) {
    reducer.BeginStep(micro_batches);
    for (int64_t m = 0; m < micro_batches; ++m) Backward(Shard(micro_batches, m), grad_of);
    return reducer.Finish();
  }
  // Writes this rank's pieces to their places by parameter.
  void Collect(std::vector<Floats>& result) const {
    for (const ShardMap::Piece& piece : owned.pieces()) {
      Floats& to = result[std::stoul(piece.entry->parameter->name.substr(1))];
      const float* from = grads.data() + (placement == Placement::kFlat ? piece.flat_begin() : piece.shard_begin);
      std::copy(from, from + piece.count(), to.begin() + piece.begin);
    }
  }

  RankContext context{1};
  ToyParameters parameters;
  FlatLayout layout;
  ShardMap owned;
  Tensor grads;
  GradReducer reducer;
  Placement placement;
  Communicator& data;
  const Config config;
};

std::vector<Floats> Empty(const std::vector<ToySpec>& specs) {
  std::vector<Floats> result;
  for (const ToySpec& spec : specs) result.emplace_back(static_cast<size_t>(spec.elements), -1.0f);
  return result;
}

// Gradients by parameter after the second of two steps: one step must leave nothing to the next.
std::vector<Floats> Reduce(int ranks, int micro_batches, const Config& config, GradOf grad_of) {
  std::vector<Floats> result = Empty(config.specs);
  std::mutex mutex;
  RunThreadWorld(ranks, [&](World& world) {
    Rank rank(world.comm(), nullptr, config);
    rank.Step(micro_batches, grad_of);
    rank.Step(micro_batches, grad_of);
    std::lock_guard lock(mutex);
    rank.Collect(result);
  });
  return result;
}

// The tree over all virtual shards.
std::vector<Floats> Expected(const std::vector<ToySpec>& specs, int64_t shards, GradOf grad_of) {
  std::vector<Floats> result = Empty(specs);
  for (size_t p = 0; p < specs.size(); ++p) {
    std::vector<Floats> grads(static_cast<size_t>(shards), Floats(result[p].size()));
    std::vector<const void*> inputs;
    for (size_t s = 0; s < grads.size(); ++s) {
      grad_of(p, static_cast<int64_t>(s), specs[p].elements, grads[s].data());
      inputs.push_back(grads[s].data());
    }
    TreeReduce(DType::kF32, ReduceOp::kSum, inputs, result[p].data(), specs[p].elements);
  }
  return result;
}

TEST(FoldCounter, IsTheTreeOfReduce) {
  RankContext context(1);
  for (int64_t count = 1; count <= 9; ++count) {
    FoldCounter fold;
    std::vector<Floats> inputs;
    std::vector<const void*> pointers;
    for (int64_t s = 0; s < count; ++s) {
      Tensor next = Tensor::Empty(context.allocator(), {100});
      RandomGrad(0, s, 100, next.data());
      inputs.emplace_back(next.data(), next.data() + 100);
      fold.Add(context, std::move(next));
    }
    for (const Floats& input : inputs) pointers.push_back(input.data());
    Floats want(100);
    TreeReduce(DType::kF32, ReduceOp::kSum, pointers, want.data(), 100);
    const Tensor got = fold.Take(context);
    EXPECT_EQ(Floats(got.data(), got.data() + 100), want) << count;
  }
}

TEST(GradReducer, SumsOverRanksAndMicroBatches) {
  for (const int ranks : {1, 2, 3, 4}) {
    for (const int micro_batches : {1, 3}) {
      const std::vector<Floats> want = Expected(UnevenSpecs(), ranks * micro_batches, IntegerGrad);
      for (int stage = 0; stage <= 3; ++stage) {
        for (const bool deterministic : {false, true}) {
          EXPECT_EQ(Reduce(ranks, micro_batches, {stage, deterministic}, IntegerGrad), want)
              << "ranks " << ranks << " micro-batches " << micro_batches << " stage " << stage << deterministic;
        }
      }
    }
  }
}

TEST(GradReducer, DeterministicBitsDoNotDependOnRanksOrStage) {
  constexpr int kShards = 8;
  const std::vector<Floats> want = Expected(UnevenSpecs(), kShards, RandomGrad);
  for (const int ranks : {1, 2, 4, 8}) {
    for (int stage = 0; stage <= 3; ++stage) {
      EXPECT_EQ(Reduce(ranks, kShards / ranks, {stage, true}, RandomGrad), want)
          << "ranks " << ranks << " stage " << stage;
    }
  }
  // The inputs can tell orders apart.
  EXPECT_NE(Reduce(1, kShards, {0, false}, RandomGrad), want);
}

// Bytes sent on the data axis by all ranks in one step, as integers.
std::vector<int64_t> RingBytesByRank(int ranks, int micro_batches, const Config& config, CollectiveKind kind) {
  std::vector<int64_t> bytes(static_cast<size_t>(ranks));
  RunThreadWorld(ranks, [&](World& world) {
    Rank rank(world.comm(), nullptr, config);
    rank.Step(micro_batches, IntegerGrad);
    const TrafficCounters counters = world.comm().counters();
    EXPECT_EQ(counters.TotalData().ring_bytes, counters.of(kind).ring_bytes);
    bytes[static_cast<size_t>(world.rank())] = counters.of(kind).ring_bytes;
  });
  return bytes;
}

TEST(GradReducer, BytesAreTheClosedForms) {
  Config config;
  config.specs = {{.elements = 6144, .unit = 0}, {.elements = 12288, .unit = 0}, {.elements = 18432, .unit = 1}};
  constexpr int64_t kElements = 6144 + 12288 + 18432, kGradBytes = 4, kMicroBatches = 3;
  for (const int64_t n : {2, 3, 4, 8}) {
    for (config.zero_stage = 0; config.zero_stage <= 3; ++config.zero_stage) {
      const int64_t factor = config.zero_stage == 0 ? 2 : config.zero_stage == 1 ? 1 : kMicroBatches;
      const CollectiveKind kind = config.zero_stage == 0 ? CollectiveKind::kAllReduce : CollectiveKind::kReduceScatter;
      for (const bool deterministic : {false, true}) {
        config.deterministic = deterministic;
        for (const int64_t bytes : RingBytesByRank(static_cast<int>(n), kMicroBatches, config, kind)) {
          EXPECT_EQ(bytes, factor * (n - 1) * kElements / n * kGradBytes) << n << " stage " << config.zero_stage;
        }
      }
    }
  }
}

TEST(GradReducer, BytesWithPaddingAddUpOverRanks) {
  for (const int64_t n : {2, 3, 4, 8}) {
    for (int stage = 0; stage <= 3; ++stage) {
      const Config config{stage};
      const ToyParameters parameters(config.specs);
      const FlatLayout layout(parameters.all(), config.layout());
      const CollectiveKind kind = stage == 0 ? CollectiveKind::kAllReduce : CollectiveKind::kReduceScatter;
      int64_t total = 0;
      for (const int64_t bytes : RingBytesByRank(static_cast<int>(n), 3, config, kind)) total += bytes;
      EXPECT_EQ(total, (stage == 0 ? 2 : stage == 1 ? 1 : 3) * (n - 1) * layout.size() * 4) << n << " stage " << stage;
    }
  }
}

TEST(GradReducer, BucketsAreIssuedUnderBackward) {
  RunThreadWorld(2, [&](World& world) {
    for (int stage = 0; stage <= 3; ++stage) {
      Rank rank(world.comm(), nullptr, {stage});
      const ReduceReport report = rank.Step(2, IntegerGrad);
      EXPECT_EQ(report.bytes, rank.layout.size() * 4 * (stage >= 2 ? 2 : 1));
      EXPECT_EQ(report.overlapped_bytes, report.bytes);  // the last bucket, too, is issued by its last leaf
      EXPECT_EQ(report.buckets.size(), rank.layout.buckets().size() * (stage >= 2 ? 2 : 1));
      for (size_t i = 0; i + 1 < report.buckets.size(); ++i) {
        EXPECT_LE(report.buckets[i].issued, report.buckets[i + 1].issued);
      }
    }
  });
}

TEST(GradReducer, FlatBucketsLeaveInTheLayoutsOrderWhateverFillsFirst) {
  RunThreadWorld(2, [&](World& world) {
    Rank rank(world.comm(), nullptr, {.zero_stage = 1});
    ASSERT_GE(rank.layout.buckets().size(), 3u);
    rank.reducer.BeginStep(1);
    for (size_t p = 0; p < rank.parameters.size(); ++p) {  // the wrong way round
      Contribute(rank.context, rank.parameters[p], p, 0, IntegerGrad);
      rank.reducer.OnLeafFinal(rank.parameters[p]);
    }
    rank.reducer.Finish();
    std::vector<int64_t> sent, want;
    for (const CollectiveRecord& record : world.log().Last()) {
      if (!record.control) sent.push_back(record.bytes);
    }
    for (const FlatLayout::Bucket& bucket : rank.layout.buckets()) want.push_back(bucket.bytes());
    EXPECT_EQ(sent, want);
  });
}

TEST(GradReducer, EveryReductionIsASpanOfTheTimeline) {
  RunThreadWorld(2, [&](World& world) {
    for (int stage = 0; stage <= 3; ++stage) {
      Rank rank(world.comm(), nullptr, {stage});
      rank.context.timeline().Enable();
      rank.context.timeline().BeginStep(0);
      const ReduceReport report = rank.Step(2, IntegerGrad);
      int64_t bytes = 0;
      for (const Span& span : rank.context.timeline().spans()) {
        EXPECT_LE(span.begin, span.end);
        if (span.kind == SpanKind::kCommunication) bytes += span.bytes;
      }
      EXPECT_EQ(bytes, report.bytes) << stage;
    }
  });
}

// A schedule with deferred weights: the first pass of a micro-batch writes the odd parameters, its second, one
// micro-batch later, the even ones.
std::vector<Floats> ReduceDeferred(const Config& config, int ranks, int64_t micro_batches, GradOf grad_of) {
  std::vector<Floats> result = Empty(config.specs);
  std::mutex mutex;
  RunThreadWorld(ranks, [&](World& world) {
    Rank rank(world.comm(), nullptr, config);
    const auto pass = [&](int64_t m, size_t parity) {
      for (size_t p = rank.parameters.size(); p-- > 0;) {
        if (p % 2 != parity) continue;
        Contribute(rank.context, rank.parameters[p], p, rank.Shard(micro_batches, m), grad_of);
        rank.reducer.OnLeafFinal(rank.parameters[p]);
      }
    };
    rank.reducer.BeginStep(static_cast<int>(micro_batches));
    pass(0, 1);
    pass(1, 1);
    for (int64_t m = 0; m < micro_batches; ++m) {
      pass(m, 0);
      if (m + 2 < micro_batches) pass(m + 2, 1);
    }
    rank.reducer.Finish();
    std::lock_guard lock(mutex);
    rank.Collect(result);
  });
  return result;
}

TEST(GradReducer, DeferredWeightsOfOlderMicroBatches) {
  for (int stage = 0; stage <= 3; ++stage) {
    EXPECT_EQ(ReduceDeferred({stage}, 2, 4, IntegerGrad), Expected(UnevenSpecs(), 8, IntegerGrad)) << stage;
    EXPECT_EQ(ReduceDeferred({stage, true}, 2, 4, RandomGrad), Expected(UnevenSpecs(), 8, RandomGrad)) << stage;
  }
}

// Model parts run their micro-batches in turns, as an interleaved schedule does: units 2 and 3 are one part.
TEST(GradReducer, PartsInterleave) {
  for (int stage = 0; stage <= 3; ++stage) {
    for (const bool deterministic : {false, true}) {
      std::vector<Floats> result = Empty(UnevenSpecs());
      std::mutex mutex;
      RunThreadWorld(2, [&](World& world) {
        Rank rank(world.comm(), nullptr, {stage, deterministic});
        rank.reducer.BeginStep(4);
        for (const auto& [m, part] :
             std::vector<std::pair<int64_t, int>>{{0, 1}, {1, 1}, {0, 0}, {1, 0}, {2, 1}, {3, 1}, {2, 0}, {3, 0}}) {
          for (size_t p = rank.parameters.size(); p-- > 0;) {
            if (rank.parameters[p].unit / 2 != part) continue;
            Contribute(rank.context, rank.parameters[p], p, rank.Shard(4, m), RandomGrad);
            rank.reducer.OnLeafFinal(rank.parameters[p]);
          }
        }
        rank.reducer.Finish();
        std::lock_guard lock(mutex);
        rank.Collect(result);
      });
      const std::vector<Floats> want = Expected(UnevenSpecs(), 8, RandomGrad);
      for (size_t p = 0; p < want.size(); ++p) {
        for (size_t i = 0; i < want[p].size(); ++i) {
          if (deterministic) {
            ASSERT_EQ(result[p][i], want[p][i]) << stage;
          } else {
            ASSERT_NEAR(result[p][i], want[p][i], 1e-5) << stage;
          }
        }
      }
    }
  }
}

// Gradients of per-token parameters differ between the two tensor ranks and are to be summed; others are equal.
TEST(GradReducer, SumsTokensOverTheTensorAxis) {
  constexpr int64_t kMicroBatches = 2;
  for (int stage = 0; stage <= 3; ++stage) {
    for (const bool deterministic : {false, true}) {
      const Config config{stage, deterministic};
      std::vector<std::vector<Floats>> results(2, Empty(config.specs));
      std::mutex mutex;
      int64_t token_bytes = 0;
      RunThreadWorld(4, [&](World& world) {
        const int tensor_rank = world.rank() % 2;
        const auto data = world.comm().Split(tensor_rank, world.rank(), "dp");
        const auto tensor = world.comm().Split(world.rank() / 2, world.rank(), "tp");
        Rank rank(*data, tensor.get(), config);
        rank.reducer.BeginStep(kMicroBatches);
        for (int64_t m = 0; m < kMicroBatches; ++m) {
          for (size_t p = rank.parameters.size(); p-- > 0;) {
            Parameter& leaf = rank.parameters[p];
            const int64_t shard = rank.Shard(kMicroBatches, m);
            Contribute(rank.context, leaf, p, leaf.shard.per_token ? 2 * shard + tensor_rank : shard, IntegerGrad);
            rank.reducer.OnLeafFinal(leaf);
          }
        }
        rank.reducer.Finish();
        std::lock_guard lock(mutex);
        rank.Collect(results[static_cast<size_t>(tensor_rank)]);
        token_bytes = tensor->counters().of(CollectiveKind::kAllReduce).payload_bytes;
      });
      const std::vector<Floats> once = Expected(config.specs, 4, IntegerGrad);
      const std::vector<Floats> twice = Expected(config.specs, 8, IntegerGrad);
      int64_t per_token = 0;
      for (size_t p = 0; p < once.size(); ++p) {
        const bool partial = config.specs[p].per_token;
        if (partial) per_token += RoundUp(config.specs[p].elements, FlatLayout::kAlignment);
        for (const std::vector<Floats>& result : results) {
          EXPECT_EQ(result[p], (partial ? twice : once)[p]) << "stage " << stage << deterministic << " p" << p;
        }
      }
      EXPECT_EQ(token_bytes, per_token * 4 * (stage >= 2 || deterministic ? kMicroBatches : 1)) << stage;
    }
  }
}

TEST(GradReducer, Stage2HoldsAFewBuckets) {
  Config config{.zero_stage = 2, .bucket_bytes = 1};
  config.specs.assign(16, {.elements = 1 << 16});
  RunThreadWorld(2, [&](World& world) {
    Rank rank(world.comm(), nullptr, config);
    const int64_t before = rank.context.allocator().stats().bytes_in_use;
    rank.context.allocator().ResetPeak();
    rank.Step(2, IntegerGrad);
    const AllocatorStats stats = rank.context.allocator().stats();
    const int64_t bucket = int64_t{4} << 16, buffers = 1 + GradReducer::kMaxInFlight;
    const int64_t contribution = bucket;  // of Contribute
    EXPECT_LE(stats.peak_bytes_in_use - before, buffers * (bucket + bucket / 2) + contribution);
    EXPECT_EQ(stats.bytes_in_use, before);
  });
}

TEST(GradReducer, ParametersWithoutGradientStayZero) {
  for (int stage = 0; stage <= 3; ++stage) {
    RunThreadWorld(2, [&](World& world) {
      RankContext context(1);
      const ToyParameters parameters({{.elements = 300}, {.elements = 400}, {.elements = 500, .unit = 1}});
      parameters[1].requires_grad = parameters[2].requires_grad = false;
      const FlatLayout layout(parameters.all(), {.bucket_per_unit = true});
      const ShardMap map(layout, 2, world.rank());
      const Tensor grads = Tensor::Empty(context.allocator(), {stage >= 2 ? map.size() : layout.size()});
      GradReducer reducer(context, world.comm(), nullptr, layout, grads, {.zero_stage = stage});
      reducer.BeginStep(1);
      Contribute(context, parameters[0], 0, 0, IntegerGrad);
      reducer.OnLeafFinal(parameters[0]);
      const ReduceReport report = reducer.Finish();
      EXPECT_EQ(report.buckets.size(), 1u);
      for (const ShardMap::Piece& piece : map.pieces()) {
        if (piece.entry->parameter == &parameters[0]) continue;
        for (int64_t i = 0; i < piece.count(); ++i) {
          ASSERT_EQ(grads.data()[(stage >= 2 ? piece.shard_begin : piece.flat_begin()) + i], 0.0f);
        }
      }
    });
  }
}

TEST(GradReducerDeath, NamesAParameterThatWasNotFinal) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto forget = [] {
    World world = SelfWorld();
    Rank rank(world.comm(), nullptr, {});
    rank.reducer.BeginStep(1);
    for (size_t p = 1; p < rank.parameters.size(); ++p) {
      Contribute(rank.context, rank.parameters[p], p, 0, IntegerGrad);
      rank.reducer.OnLeafFinal(rank.parameters[p]);
    }
    rank.reducer.Finish();
  };
  EXPECT_DEATH(forget(), "times that p0 was final");
}

}  // namespace
}  // namespace shardit
