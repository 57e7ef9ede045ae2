// The tensor plan against its definition, element by element: a rank holds exactly those elements of the logical tensor
// whose index in the cut dim lies in its part, in their order.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/base/math.h"
#include "parallel/tensor/plan.h"

namespace shardit {
namespace {

struct PlanCase {
  const char* name;
  Shape shape;
  ShardSpec shard;
  size_t boxes;  // on one rank of several
};

const std::vector<PlanCase>& Cases() {
  static const std::vector<PlanCase> cases = {
      {"attn.qkv.weight", {3 * 12 * 2, 5}, {{3, 12, 2, 5}, 1}, 3},
      {"attn.qkv.bias", {3 * 12 * 2}, {{3, 12, 2}, 1}, 3},
      {"cross_attn.kv.weight", {2 * 12, 7}, {{2, 12, 1, 7}, 1}, 2},
      {"cross_attn.q.weight", {12 * 3, 4}, {{12, 3, 4}, 0}, 1},
      {"cross_attn.q.bias", {12 * 3}, {{12, 3}, 0}, 1},
      {"attn.proj.weight", {5, 12 * 2}, {{5, 12, 2}, 1}, 1},
      {"attn.proj.one_row", {1, 12}, {{1, 12, 1}, 1}, 1},
      {"attn.proj.bias", {5}, {{5}, -1}, 1},
      {"mlp.fc1.weight", {24, 3}, {{24, 3}, 0}, 1},
      {"mlp.fc1.bias", {24}, {{24}, 0}, 1},
      {"mlp.fc2.weight", {3, 24}, {{3, 24}, 1}, 1},
      {"adaLN_modulation.1.weight", {6 * 12, 12}, {{6, 12, 12}, 1}, 6},
      {"adaLN_modulation.1.bias", {6 * 12}, {{6, 12}, 1}, 6},
      {"x_embedder.proj.weight", {6, 4, 2, 2}, {{6, 4, 2, 2}, -1}, 1},
  };
  return cases;
}

Parameter Make(const PlanCase& c) {
  Parameter parameter;
  parameter.name = c.name;
  parameter.shape = c.shape;
  parameter.shard = c.shard;
  return parameter;
}

// Flat indices of the global tensor that a rank holds, in local order.
std::vector<int64_t> DefinedElements(const PlanCase& c, TensorPart part) {
  const Shape& logical = c.shard.logical_shape;
  const Shape strides = logical.DenseStrides();
  std::vector<int64_t> held;
  for (int64_t i = 0; i < logical.elements(); ++i) {
    if (c.shard.dim >= 0) {
      const int64_t extent = logical[c.shard.dim];
      const Range range = PartRange(extent, part.size, part.index);
      const int64_t index = i / strides[c.shard.dim] % extent;
      if (index < range.begin || index >= range.end) continue;
    }
    held.push_back(i);
  }
  return held;
}

// Flat indices of a box of a tensor of `shape`, row-major.
std::vector<int64_t> Elements(const Box& box, const Shape& shape) {
  std::vector<int64_t> elements;
  for (int64_t k = 0; k < Volume(box); ++k) {
    int64_t rest = k, index = 0, stride = 1;
    for (int d = shape.ndim(); d-- > 0;) {
      const size_t at = static_cast<size_t>(d);
      index += (box.offset[at] + rest % box.extent[at]) * stride;
      rest /= box.extent[at];
      stride *= shape[d];
    }
    elements.push_back(index);
  }
  return elements;
}

TEST(TensorPlan, BoxesAreTheDefinedElementsInOrder) {
  for (const PlanCase& c : Cases()) {
    const Parameter parameter = Make(c);
    for (const int size : {1, 2, 3, 4, 6, 12}) {
      std::vector<Box> all;
      for (int index = 0; index < size; ++index) {
        SCOPED_TRACE(std::string(c.name) + " part " + std::to_string(index) + " of " + std::to_string(size));
        const TensorPart part{index, size};
        const std::vector<int64_t> expected = DefinedElements(c, part);
        const std::vector<Box> boxes = LocalBoxes(parameter, part);
        EXPECT_EQ(boxes.size(), size == 1 ? 1 : c.boxes);
        std::vector<int64_t> held;
        for (const Box& box : boxes) {
          for (const int64_t i : Elements(box, c.shape)) held.push_back(i);
        }
        EXPECT_EQ(held, expected);
        const Shape local = LocalShape(parameter, part);
        EXPECT_EQ(local.ndim(), c.shape.ndim());
        EXPECT_EQ(local.elements(), static_cast<int64_t>(expected.size()));
        all.insert(all.end(), boxes.begin(), boxes.end());
      }
      if (c.shard.dim >= 0) {
        EXPECT_TRUE(CheckTiling({c.shape.begin(), c.shape.end()}, all).ok()) << c.name;
      }
    }
  }
}

TEST(TensorPlan, LocalShapesNarrowTheFileDimThatHoldsTheCut) {
  Parameter qkv = Make(Cases()[0]), proj = Make(Cases()[5]), whole = Make(Cases()[13]);
  EXPECT_EQ(LocalShape(qkv, {1, 4}), Shape({18, 5}));
  EXPECT_EQ(LocalShape(proj, {1, 4}), Shape({5, 6}));
  EXPECT_EQ(LocalShape(whole, {1, 4}), Shape({6, 4, 2, 2}));
}

TEST(TensorPlan, RunsAreAnyRangeOfTheLocalTensor) {
  for (const PlanCase& c : Cases()) {
    const Parameter parameter = Make(c);
    for (const int size : {1, 2, 3}) {
      const TensorPart part{size - 1, size};
      const std::vector<int64_t> local = DefinedElements(c, part);
      const int64_t count = static_cast<int64_t>(local.size());
      for (int64_t begin = 0; begin <= count; begin += 1 + begin % 5) {
        for (int64_t end = begin; end <= count; end += 1 + (end + begin) % 7) {
          int64_t next = begin;
          for (const LocalRun& run : LocalRuns(parameter, part, begin, end)) {
            ASSERT_EQ(run.begin, next) << c.name << " [" << begin << ", " << end << ")";
            for (const int64_t i : Elements(run.box, c.shape)) {
              ASSERT_LT(next, end);
              ASSERT_EQ(i, local[static_cast<size_t>(next++)]) << c.name << " [" << begin << ", " << end << ")";
            }
          }
          ASSERT_EQ(next, end) << c.name << " [" << begin << ", " << end << ")";
        }
      }
    }
  }
}

// A DiT-S block's cut parameters.
void AddBlock(ParameterList& parameters) {
  parameters.Add("blocks.0.attn.proj.bias", {384}, Init::Zero());
  parameters.Add("blocks.0.mlp.fc1.weight", {1536, 384}, Init::Zero(), {{1536, 384}, 0});
  parameters.Add("blocks.0.attn.qkv.weight", {1152, 384}, Init::Zero(), {{3, 6, 64, 384}, 1});
  parameters.Add("blocks.0.attn.proj.weight", {384, 384}, Init::Zero(), {{384, 6, 64}, 1});
}

TEST(TensorPlan, DivisorsAreShared) {
  ParameterList parameters;
  AddBlock(parameters);
  for (int size = 1; size <= 12; ++size) {
    EXPECT_EQ(CheckDivides(parameters, size).ok(), 6 % size == 0) << size;
  }
}

TEST(TensorPlan, TheErrorNamesWhatToChange) {
  ParameterList parameters;
  AddBlock(parameters);
  EXPECT_EQ(CheckDivides(parameters, 4),
            absl::InvalidArgumentError(
                "model.heads 6 cannot be shared by tp 4: every rank holds an equal part of dim 1 of "
                "blocks.0.attn.qkv.weight, logical shape [3, 6, 64, 384]; set parallel.tp to a divisor that all layers "
                "share (1, 2, 3, 6), or change the model's size"));
  ParameterList mlp;
  mlp.Add("blocks.0.mlp.fc1.weight", {8, 2}, Init::Zero(), {{8, 2}, 0});
  mlp.Add("blocks.0.adaLN_modulation.1.weight", {8, 2}, Init::Zero(), {{4, 2, 2}, 1});
  const auto starts_with = [](const absl::Status& status, const std::string& text) {
    return std::string(status.message()).rfind(text, 0) == 0;
  };
  EXPECT_TRUE(starts_with(CheckDivides(mlp, 4), "model.width 2 cannot be shared by tp 4: ")) << CheckDivides(mlp, 4);
  EXPECT_TRUE(CheckDivides(mlp, 2).ok());
}

}  // namespace
}  // namespace shardit
