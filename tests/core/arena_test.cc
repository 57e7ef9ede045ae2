#include "core/tensor/arena.h"

#include <map>
#include <random>

#include "gtest/gtest.h"

namespace shardit {
namespace {

TEST(ArenaTest, TakesTheBestFitAtTheLowestAddress) {
  Arena arena(1000);
  EXPECT_EQ(arena.Take(100), 0);
  EXPECT_EQ(arena.Take(300), 100);
  EXPECT_EQ(arena.Take(100), 400);
  EXPECT_EQ(arena.Take(200), 500);
  arena.Give(0, 100);
  arena.Give(400, 100);
  EXPECT_EQ(arena.Take(100), 0);   // as good a fit as the part at 400, and lower
  EXPECT_EQ(arena.Take(90), 400);  // better than the rest at 700
  EXPECT_EQ(arena.Take(301), std::nullopt);
  EXPECT_EQ(arena.largest_free(), 300);
}

TEST(ArenaTest, JoinsNeighbours) {
  Arena arena(300);
  for (int i = 0; i < 3; ++i) arena.Take(100);
  arena.Give(0, 100);
  arena.Give(200, 100);
  EXPECT_EQ(arena.largest_free(), 100);
  arena.Give(100, 100);
  EXPECT_EQ(arena.largest_free(), 300);
  EXPECT_TRUE(arena.unused());
}

TEST(ArenaDeathTest, RefusesWhatWasNotTaken) {
  Arena arena(300);
  arena.Take(200);
  arena.Give(0, 100);
  EXPECT_DEATH(arena.Give(0, 100), "twice|not taken");
  EXPECT_DEATH(arena.Give(150, 100), "not taken");
}

// Nothing overlaps, nothing is lost, and a request that some free part could hold is served.
TEST(ArenaTest, KeepsItsBooksOverRandomRequests) {
  constexpr int64_t kBytes = 1 << 16;
  Arena arena(kBytes);
  std::map<int64_t, int64_t> taken;
  std::mt19937 random(7);
  int64_t in_use = 0;
  for (int i = 0; i < 20000; ++i) {
    if (!taken.empty() && random() % 2 == 0) {
      auto block = std::next(taken.begin(), random() % taken.size());
      arena.Give(block->first, block->second);
      in_use -= block->second;
      taken.erase(block);
    } else {
      const int64_t size = 1 + static_cast<int64_t>(random() % 2000), largest = arena.largest_free();
      const std::optional<int64_t> offset = arena.Take(size);
      ASSERT_EQ(offset.has_value(), size <= largest);
      if (!offset.has_value()) continue;
      const auto next = taken.lower_bound(*offset);
      ASSERT_TRUE(next == taken.end() || *offset + size <= next->first);
      if (next != taken.begin()) {
        const auto before = std::prev(next);
        ASSERT_LE(before->first + before->second, *offset);
      }
      ASSERT_LE(*offset + size, kBytes);
      taken.emplace(*offset, size);
      in_use += size;
    }
    ASSERT_EQ(arena.free_bytes(), kBytes - in_use);
  }
}

}  // namespace
}  // namespace shardit
