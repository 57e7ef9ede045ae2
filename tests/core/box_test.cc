#include "core/tensor/box.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <vector>

namespace shardit {
namespace {

// Element by element, from the definition.
template <typename Body>
void ForEachElement(const Box& box, Body body) {
  std::vector<int64_t> position = box.offset;
  for (int64_t i = 0; i < Volume(box); ++i) {
    body(position, i);
    for (size_t d = position.size(); d-- > 0;) {
      if (++position[d] < box.offset[d] + box.extent[d]) break;
      position[d] = box.offset[d];
    }
  }
}

bool Inside(const std::vector<int64_t>& position, const Box& box) {
  for (size_t d = 0; d < position.size(); ++d) {
    if (position[d] < box.offset[d] || position[d] >= box.offset[d] + box.extent[d]) return false;
  }
  return true;
}

Box RandomBox(const std::vector<int64_t>& shape, std::mt19937& random) {
  Box box;
  for (const int64_t dim : shape) {
    const int64_t a = static_cast<int64_t>(random()) % dim, b = static_cast<int64_t>(random()) % dim;
    box.offset.push_back(std::min(a, b));
    box.extent.push_back(std::max(a, b) - std::min(a, b) + 1);
  }
  return box;
}

TEST(Box, CopyMovesExactlyTheSharedElements) {
  std::mt19937 random(1);
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{}, {7}, {4, 5}, {3, 1, 6}, {2, 3, 4, 5}}) {
    for (int round = 0; round < 50; ++round) {
      const Box source = RandomBox(shape, random), target = RandomBox(shape, random);
      std::vector<float> from(static_cast<size_t>(Volume(source))), to(static_cast<size_t>(Volume(target)), -1);
      const auto value = [&](const std::vector<int64_t>& position) {
        float v = 1;
        for (const int64_t p : position) v = v * 10 + static_cast<float>(p);
        return v;
      };
      ForEachElement(source, [&](const auto& p, int64_t i) { from[static_cast<size_t>(i)] = value(p); });
      CopyBox(source, from.data(), target, to.data());
      ForEachElement(target, [&](const auto& p, int64_t i) {
        ASSERT_EQ(to[static_cast<size_t>(i)], Inside(p, source) ? value(p) : -1);
      });
    }
  }
}

TEST(Box, RunsAreAsLongAsTheyCanBe) {
  const auto runs = [](const Box& region, const Box& source, const Box& target) {
    std::vector<int64_t> counts;
    EXPECT_TRUE(ForEachRun(region, source, target, [&](int64_t, int64_t, int64_t count) {
                  counts.push_back(count);
                  return absl::OkStatus();
                }).ok());
    return counts;
  };
  const Box whole = WholeBox({4, 3, 5});
  EXPECT_EQ(runs(whole, whole, whole), std::vector<int64_t>{60});
  const Box rows{{1, 0, 0}, {2, 3, 5}};
  EXPECT_EQ(runs(rows, whole, rows), std::vector<int64_t>{30});
  const Box columns{{0, 0, 1}, {4, 3, 2}};
  EXPECT_EQ(runs(columns, whole, columns), std::vector<int64_t>(12, 2));
}

TEST(Box, FlatRangesBecomeFewBoxesInOrder) {
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{}, {6}, {3, 4}, {2, 3, 4}, {2, 1, 3, 2}, {1, 5, 1}}) {
    const Box whole = WholeBox(shape);
    for (int64_t begin = 0; begin <= Volume(whole); ++begin) {
      for (int64_t end = begin; end <= Volume(whole); ++end) {
        const std::vector<Box> boxes = BoxesOfFlatRange(shape, begin, end);
        ASSERT_LE(boxes.size(), std::max<size_t>(1, 2 * shape.size()));
        int64_t next = begin;
        for (const Box& box : boxes) {
          ASSERT_TRUE(ForEachRun(box, whole, box, [&](int64_t from, int64_t, int64_t count) {
                        EXPECT_EQ(from, next);
                        next += count;
                        return absl::OkStatus();
                      }).ok());
        }
        ASSERT_EQ(next, end);
      }
    }
  }
}

// Counts how often each element is covered.
bool CoveredOnce(const std::vector<int64_t>& shape, const std::vector<Box>& boxes) {
  bool once = true;
  ForEachElement(WholeBox(shape), [&](const auto& position, int64_t) {
    int count = 0;
    for (const Box& box : boxes) count += Inside(position, box);
    once = once && count == 1;
  });
  return once;
}

TEST(Box, TilingCheckAgreesWithCounting) {
  std::mt19937 random(2);
  int good = 0, bad = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<int64_t> shape(random() % 4);
    for (int64_t& dim : shape) dim = 1 + static_cast<int64_t>(random() % 3);
    const int64_t volume = Volume(WholeBox(shape));
    // A tiling from flat ranges, sometimes spoilt by a lost, doubled or moved box.
    std::vector<Box> boxes;
    for (int64_t at = 0; at < volume;) {
      const int64_t next = std::min(volume, at + 1 + static_cast<int64_t>(random() % 5));
      for (const Box& box : BoxesOfFlatRange(shape, at, next)) boxes.push_back(box);
      at = next;
    }
    switch (random() % 5) {
      case 0:
        boxes.pop_back();
        break;
      case 1:
        boxes.push_back(boxes[random() % boxes.size()]);
        break;
      case 2:
        boxes[random() % boxes.size()] = RandomBox(shape, random);
        break;
    }
    std::shuffle(boxes.begin(), boxes.end(), random);
    const bool expected = CoveredOnce(shape, boxes);
    ++(expected ? good : bad);
    ASSERT_EQ(CheckTiling(shape, boxes).ok(), expected) << round;
  }
  EXPECT_GT(good, 500);
  EXPECT_GT(bad, 500);
}

TEST(Box, TilingErrorsSayWhere) {
  const auto message = [](const std::vector<Box>& boxes) { return std::string(CheckTiling({4, 6}, boxes).message()); };
  EXPECT_EQ(message({{{0, 0}, {4, 3}}}), "slices leave a hole at element [0,3]");
  EXPECT_EQ(message({{{0, 0}, {4, 4}}, {{0, 3}, {4, 3}}}), "slices overlap at element [0,3]");
  EXPECT_EQ(message({}), "slices leave a hole at element [0,0]");
}

}  // namespace
}  // namespace shardit
