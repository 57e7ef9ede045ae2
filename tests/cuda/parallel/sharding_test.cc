// Data, tensor and pipeline parallelism on devices against the same on the CPU. Values are small whole numbers: every
// sum is exact, in bf16 too, so that results are equal, whatever the order.
#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/autograd/tape.h"
#include "core/tensor/accumulate.h"
#include "parallel/data/grad_reducer.h"
#include "parallel/data/parameter_gatherer.h"
#include "parallel/pipeline/executor.h"
#include "parallel/tensor/tensor_parallel.h"
#include "tests/core/host_copy.h"
#include "tests/cuda/parallel/device_axis.h"
#include "tests/cuda/wants_gpus.h"
#include "tests/parallel/pipeline_toys.h"
#include "tests/parallel/zero_toys.h"

namespace shardit {
namespace {

// Between -4 and 4, without a period that a slicing mistake could hit.
float Whole(int stream, int64_t i) {
  uint64_t h = (static_cast<uint64_t>(stream) << 32) + static_cast<uint64_t>(i) + 1;
  h *= 0x9e3779b97f4a7c15ull;
  return static_cast<float>(static_cast<int>((h >> 40) % 9) - 4);
}

Floats WholeFloats(int stream, int64_t count) {
  Floats values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = Whole(stream, i);
  return values;
}

Tensor Filled(RankContext& context, const Shape& shape, int stream, DType dtype = DType::kF32) {
  const Tensor tensor = Tensor::Empty(context.allocator(), shape, dtype);
  WriteFloats(tensor, WholeFloats(stream, tensor.elements()));
  return tensor;
}

// What a rank computed, by name, read back as floats.
using Values = std::map<std::string, Floats>;

// Where ranks compute, and in what.
struct Place {
  const char* name;
  bool device = false;
  AxisCase axis;  // but for the ranks
  DType dtype = DType::kF32;
};

const std::vector<Place>& DevicePlaces() {
  static const auto* places = new std::vector<Place>{
      {"nccl", true, {.backend = Backend::kNccl}},
      {"nccl, deterministic", true, {.backend = Backend::kNccl, .options = {.deterministic = true}}},
      {"staged", true, {.backend = Backend::kStaged}},
      {"nccl, bf16", true, {.backend = Backend::kNccl}, DType::kBF16},
      {"staged, bf16", true, {.backend = Backend::kStaged}, DType::kBF16},
  };
  return *places;
}
constexpr Place kCpu{.name = "cpu"};

// Every rank's values from `body`, which runs with a context and a communicator of the place.
std::vector<Values> Run(const Place& place, int ranks, bool messages,
                        const std::function<Values(RankContext& context, Communicator& axis)>& body) {
  std::vector<Values> all(static_cast<size_t>(ranks));
  if (!place.device) {
    RunThreadWorld(ranks, [&](World& world) {
      RankContext context(1);
      all[static_cast<size_t>(world.rank())] = body(context, world.comm());
    });
    return all;
  }
  AxisCase axis = place.axis;
  axis.ranks = ranks;
  axis.messages = messages;
  RunOnDevices(axis,
               [&](DeviceRank& rank) { all[static_cast<size_t>(rank.comm.rank())] = body(rank.context, rank.comm); });
  return all;
}

// The same on every place as on the CPU. Where GPUs are missing for some of them, the test is no more than skipped.
enum class Types { kFp32, kFp32AndBf16 };
void ExpectAsOnCpu(int ranks, bool messages, Types types,
                   const std::function<Values(RankContext& context, Communicator& axis, DType dtype)>& body) {
  const auto on = [&](const Place& place) {
    return Run(place, ranks, messages,
               [&](RankContext& context, Communicator& axis) { return body(context, axis, place.dtype); });
  };
  const std::vector<Values> expected = on(kCpu);
  std::string left_out;
  for (const Place& place : DevicePlaces()) {
    if (types == Types::kFp32 && place.dtype != DType::kF32) continue;
    AxisCase axis = place.axis;
    axis.ranks = ranks;
    if (const std::string missing = MissingGpus(axis.gpus()); !missing.empty()) {
      left_out = absl::StrCat(place.name, " ", missing);
      continue;
    }
    const std::vector<Values> got = on(place);
    for (size_t r = 0; r < got.size(); ++r) {
      ASSERT_EQ(got[r].size(), expected[r].size());
      for (const auto& [name, values] : expected[r]) {
        EXPECT_EQ(got[r].at(name), values) << name << " on " << place.name << ", rank " << r << " of " << ranks;
      }
    }
  }
  if (!left_out.empty()) GTEST_SKIP() << left_out;
}

class Sharding : public testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_GPUS(1); }
};

// What a node does with a leaf in backward.
void Contribute(RankContext& context, Leaf& leaf, int stream) {
  const Tensor grad = Filled(context, leaf.value.shape(), stream);
  if (!leaf.grad.defined()) leaf.grad_source->ProvideGrad(leaf);
  if (std::exchange(leaf.grad_written, true)) {
    Accumulate(context, leaf.grad, grad);
  } else {
    leaf.grad.CopyFrom(grad);
  }
}

Values ReduceTwice(RankContext& context, Communicator& axis, int stage, bool deterministic) {
  constexpr int kMicroBatches = 2;
  const ToyParameters parameters(UnevenSpecs());
  const FlatLayout layout(parameters.all(), {.bucket_bytes = 8 << 10, .bucket_per_unit = stage == 3});
  const ShardMap owned(layout, axis.size(), axis.rank());
  const Tensor grads = Tensor::Empty(context.allocator(), {stage >= 2 ? owned.size() : layout.size()});
  GradReducer reducer(context, axis, nullptr, layout, grads, {.zero_stage = stage, .deterministic = deterministic});
  for (int step = 0; step < 2; ++step) {
    reducer.BeginStep(kMicroBatches);
    for (int m = 0; m < kMicroBatches; ++m) {
      for (size_t p = parameters.size(); p-- > 0;) {
        Contribute(context, parameters[p], 1000 * step + 100 * axis.rank() + 10 * m + static_cast<int>(p));
        reducer.OnLeafFinal(parameters[p]);
      }
    }
    const ReduceReport report = reducer.Finish();
    EXPECT_EQ(report.bytes, axis.size() == 1 ? 0 : layout.size() * 4 * (stage >= 2 ? kMicroBatches : 1));
    EXPECT_EQ(report.overlapped_bytes, report.bytes);
  }
  const Floats all = ReadFloats(grads);
  Floats mine;
  for (const ShardMap::Piece& piece : owned.pieces()) {
    const int64_t begin = stage >= 2 ? piece.shard_begin : piece.flat_begin();
    mine.insert(mine.end(), all.begin() + begin, all.begin() + begin + piece.count());
  }
  return {{"gradients", mine}};
}

TEST_F(Sharding, GradReducer) {
  for (const int ranks : {1, 2, 3}) {
    for (int stage = 0; stage <= 3; ++stage) {
      for (const bool deterministic : {false, true}) {
        SCOPED_TRACE(testing::Message() << "stage " << stage << (deterministic ? ", deterministic" : ""));
        ExpectAsOnCpu(ranks, false, Types::kFp32, [&](RankContext& context, Communicator& axis, DType) {
          return ReduceTwice(context, axis, stage, deterministic);
        });
      }
    }
  }
}

// Rank's own parts of weights whose value is a function of parameter and element.
void FillOwn(const ShardMap& map, const Tensor& weights, Placement placement) {
  Floats values(static_cast<size_t>(weights.elements()), 0.0f);
  for (const ShardMap::Piece& piece : map.pieces()) {
    const int stream = std::stoi(piece.entry->parameter->name.substr(1));
    const int64_t to = placement == Placement::kFlat ? piece.flat_begin() : piece.shard_begin;
    for (int64_t i = 0; i < piece.count(); ++i) values[static_cast<size_t>(to + i)] = Whole(stream, piece.begin + i);
  }
  WriteFloats(weights, values);
}

Values GatherUnits(RankContext& context, Communicator& axis, DType dtype, bool whole) {
  const ToyParameters parameters(UnevenSpecs());
  const FlatLayout layout(parameters.all(), {.bucket_bytes = 4 << 10, .bucket_per_unit = !whole});
  const ShardMap map(layout, axis.size(), axis.rank());
  const Tensor weights = Tensor::Empty(context.allocator(), {whole ? layout.size() : map.size()}, dtype);
  FillOwn(map, weights, whole ? Placement::kFlat : Placement::kShard);
  const Range part{0, 4};
  std::unique_ptr<ParameterGatherer> gatherer;
  if (whole) {
    for (const FlatLayout::Entry& entry : layout.entries()) entry.parameter->value = layout.View(weights, entry);
    gatherer = std::make_unique<WholeGatherer>(context, axis, layout, weights);
  } else {
    gatherer = std::make_unique<UnitGatherer>(context, axis, layout, weights, std::span(&part, 1));
  }
  Values values;
  for (int pass = 0; pass < 2; ++pass) {
    Tape tape(context, Tape::Mode::kInference);
    gatherer->StartGather();
    for (int unit = 0; unit < 4; ++unit) {
      gatherer->Enter(tape, unit);
      for (size_t p = 0; p < parameters.size(); ++p) {
        if (parameters[p].unit != unit) continue;
        EXPECT_EQ(parameters[p].value.dtype(), dtype);
        values[parameters[p].name] = ReadFloats(parameters[p].value);
        EXPECT_EQ(values[parameters[p].name], WholeFloats(static_cast<int>(p), parameters[p].value.elements()));
      }
      gatherer->Leave(tape, unit, Var());
    }
    gatherer->FinishAll();
  }
  const int64_t gathers = axis.size() == 1 && whole ? 0 : 2;
  EXPECT_EQ(axis.counters().of(CollectiveKind::kAllGather).payload_bytes, gathers * layout.size() * SizeOf(dtype));
  return values;
}

TEST_F(Sharding, Gatherers) {
  for (const int ranks : {1, 2, 3}) {
    for (const bool whole : {false, true}) {
      ExpectAsOnCpu(ranks, false, Types::kFp32AndBf16, [&](RankContext& context, Communicator& axis, DType dtype) {
        return GatherUnits(context, axis, dtype, whole);
      });
    }
  }
}

constexpr int64_t kTokens = 7, kWidth = 6, kParts = 3;

// Tokens that the rank owns of WholeFloats(stream) of `images` sequences.
Tensor OwnTokensOf(RankContext& context, const Communicator& axis, bool cut, int64_t images, int stream, DType dtype) {
  const Floats whole = WholeFloats(stream, images * kTokens * kWidth);
  const Range own = cut ? PartRange(kTokens, axis.size(), axis.rank()) : Range{0, kTokens};
  Floats values;
  for (int64_t n = 0; n < images; ++n) {
    const auto begin = whole.begin() + (n * kTokens + own.begin) * kWidth;
    values.insert(values.end(), begin, begin + own.size() * kWidth);
  }
  const Tensor tensor = Tensor::Empty(context.allocator(), {images, own.size(), kWidth}, dtype);
  WriteFloats(tensor, values);
  return tensor;
}

// Every seam, forward and backward.
Values Seams(RankContext& context, Communicator& axis, DType dtype, bool cut, int64_t images) {
  const TensorParallel seams(axis, cut ? kTokens : 0);
  const auto own = [&](int stream) { return OwnTokensOf(context, axis, cut, images, stream, dtype); };
  const auto whole = [&](int stream) { return Filled(context, {images, kTokens, kWidth}, stream, dtype); };
  const int mine = 10 + axis.rank();
  Values values;
  const auto leaf = [](Tensor value, bool parameter = false) {
    Leaf made{.value = std::move(value)};
    made.grad_dtype = parameter ? DType::kF32 : made.value.dtype();
    return made;
  };
  {
    Leaf x = leaf(own(1));
    Tape tape(context);
    const Var y = seams.Enter(tape, Var(x));
    values["enter"] = ReadFloats(y.value());
    tape.Backward({{y, whole(mine)}});
    values["enter grad"] = ReadFloats(x.grad);
  }
  {
    Leaf partial = leaf(whole(mine)), bias = leaf(Filled(context, {kWidth}, 2, dtype), true);
    Tape tape(context);
    const Var y = seams.Leave(tape, Var(partial), Var(bias));
    values["leave"] = ReadFloats(y.value());
    tape.Backward({{y, own(3)}});
    values["leave grad"] = ReadFloats(partial.grad);
    values["bias grad"] = ReadFloats(bias.grad);
    EXPECT_EQ(bias.grad.dtype(), DType::kF32);
  }
  if (cut) {
    Leaf x = leaf(whole(1)), part = leaf(own(4));
    Tape tape(context);
    const Var y = seams.ScatterTokens(tape, Var(x)), z = seams.GatherTokens(tape, Var(part));
    values["scatter"] = ReadFloats(y.value());
    values["gather"] = ReadFloats(z.value());
    tape.Backward({{y, own(3)}, {z, whole(5)}});
    values["scatter grad"] = ReadFloats(x.grad);
    values["gather grad"] = ReadFloats(part.grad);
  }
  return values;
}

// adaLN layers on a condition, whose gradient is gathered in fp32.
Values Modulations(RankContext& context, Communicator& axis, DType dtype, bool cut, int64_t images) {
  const TensorParallel seams(axis, cut ? kTokens : 0);
  const int64_t rows = kParts * kWidth / axis.size();
  Leaf c{.value = Filled(context, {images, kWidth}, 1, dtype)};
  std::vector<Parameter> parameters(4);
  std::vector<LinearLayer> layers(2);
  for (int l = 0; l < 2; ++l) {
    Parameter &weight = parameters[static_cast<size_t>(2 * l)], &bias = parameters[static_cast<size_t>(2 * l + 1)];
    weight.value = Filled(context, {rows, kWidth}, 20 + 10 * l + axis.rank(), dtype);
    bias.value = Filled(context, {rows}, 50 + 10 * l + axis.rank(), dtype);
    layers[static_cast<size_t>(l)].weight = &weight;
    layers[static_cast<size_t>(l)].bias = &bias;
  }
  const std::vector<Tensor> gathered = seams.GatherModulations(context, c.value, layers, kParts);
  Values values;
  Tape tape(context);
  const Var entered = seams.EnterCondition(tape, Var(c));
  std::vector<Tape::Seed> seeds;
  for (size_t l = 0; l < 2; ++l) {
    values["modulation " + std::to_string(l)] = ReadFloats(gathered[l]);
    const Var y = seams.Modulation(tape, entered, layers[l], kParts, gathered[l]);
    const int stream = 70 + static_cast<int>(l) + (cut ? 10 * axis.rank() : 0);
    seeds.push_back({y, Filled(context, y.shape(), stream, dtype)});
  }
  tape.Backward(std::move(seeds));
  EXPECT_EQ(c.grad.dtype(), DType::kF32);
  values["condition grad"] = ReadFloats(c.grad);
  {
    Leaf wide{.value = c.value};
    Tape other(context);
    const Var passed = seams.EnterCondition(other, Var(wide));
    const Tensor grad = Tensor::Empty(context.allocator(), c.value.shape());
    WriteFloats(grad, Floats(static_cast<size_t>(grad.elements()), 257.0f));  // has no bf16
    other.Backward({{passed, grad}});
    values["wide condition grad"] = ReadFloats(wide.grad);
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    values["layer grad " + std::to_string(i)] = ReadFloats(parameters[i].grad);
  }
  return values;
}

TEST_F(Sharding, TensorAxis) {
  for (const int ranks : {1, 2, 3}) {
    for (const int64_t images : {1, 3}) {
      for (const bool cut : {false, true}) {
        SCOPED_TRACE(testing::Message() << images << " images" << (cut ? ", tokens cut" : ""));
        ExpectAsOnCpu(ranks, false, Types::kFp32AndBf16, [&](RankContext& context, Communicator& axis, DType dtype) {
          Values values = Seams(context, axis, dtype, cut, images);
          values.merge(Modulations(context, axis, dtype, cut, images));
          return values;
        });
      }
    }
  }
}

// The toy stage, whose arithmetic is the host's, between boundaries on the device.
class StageOnDevice : public PipelineStage {
 public:
  StageOnDevice(const PipelineSpec& spec, int rank, RankContext& context, DType dtype)
      : host_(1), stage_(spec, rank, kColumns, host_), context_(context), dtype_(dtype) {}
  static constexpr int64_t kColumns = 5;

  int parts() const override { return stage_.parts(); }
  std::vector<BoundaryTensor> Inputs(int part) const override {
    std::vector<BoundaryTensor> inputs = stage_.Inputs(part);
    for (BoundaryTensor& input : inputs) input.dtype = dtype_;
    return inputs;
  }
  DType GradType(size_t tensor, DType dtype) const override { return tensor == 0 ? dtype : DType::kF32; }
  std::vector<Tensor> Forward(int part, int micro_batch, std::vector<Tensor> inputs) override {
    for (const Tensor& input : inputs) EXPECT_EQ(input.dtype(), dtype_);
    return Up(stage_.Forward(part, micro_batch, Down(inputs)), dtype_);
  }
  std::vector<Tensor> Backward(int part, int micro_batch, std::vector<Tensor> grads, bool defer_weights) override {
    if (!grads.empty()) {
      EXPECT_EQ(grads[1].dtype(), DType::kF32);
    }
    return Up(stage_.Backward(part, micro_batch, Down(grads), defer_weights), DType::kF32);
  }
  void BackwardWeights(int part, int micro_batch) override { stage_.BackwardWeights(part, micro_batch); }

  Values Result() const {
    Values values;
    for (const auto& [m, loss] : stage_.results.losses) values["loss " + std::to_string(m)] = {loss};
    for (const auto& [at, grad] : stage_.results.weight_grads) {
      values["weight " + std::to_string(at.first) + " " + std::to_string(at.second)] = {grad};
    }
    for (const auto& [m, grads] : stage_.results.condition_grads) values["condition " + std::to_string(m)] = grads;
    return values;
  }

 private:
  std::vector<Tensor> Down(const std::vector<Tensor>& tensors) {
    std::vector<Tensor> down;
    for (const Tensor& tensor : tensors) {
      down.push_back(Tensor::Empty(host_.allocator(), tensor.shape()));
      WriteFloats(down.back(), ReadFloats(tensor));
    }
    return down;
  }
  // The first in the tokens' type, others in `others`.
  std::vector<Tensor> Up(const std::vector<Tensor>& tensors, DType others) {
    std::vector<Tensor> up;
    for (const Tensor& tensor : tensors) {
      up.push_back(Tensor::Empty(context_.allocator(), tensor.shape(), up.empty() ? dtype_ : others));
      WriteFloats(up.back(), ReadFloats(tensor));
    }
    return up;
  }

  RankContext host_;
  ToyStage stage_;
  RankContext& context_;
  const DType dtype_;
};

TEST_F(Sharding, Pipeline) {
  for (const ScheduleKind kind : kScheduleKinds) {
    for (const int ranks : {1, 2, 3}) {
      const int parts = kind == ScheduleKind::kInterleaved ? 2 : 1;
      const PipelineSpec spec{kind, ranks, /*micro_batches=*/5, parts};
      SCOPED_TRACE(std::string(Name(kind)));
      ExpectAsOnCpu(ranks, true, Types::kFp32AndBf16, [&](RankContext& context, Communicator& axis, DType dtype) {
        PipelineExecutor executor(spec, axis, context);
        Values values;
        for (int step = 0; step < 2; ++step) {
          StageOnDevice stage(spec, axis.rank(), context, dtype);
          executor.Run(stage);
          values = stage.Result();
        }
        return values;
      });
    }
  }
}

}  // namespace
}  // namespace shardit
