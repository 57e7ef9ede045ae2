// Scratch memory for collectives in flight, reused from one to the next so that steady training allocates none. Owned
// and used by one communication thread; buffers go back when their handle dies, which must be before the pool does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace shardit {

class ScratchPool {
  struct Block {
    std::unique_ptr<uint8_t[]> data;
    int64_t bytes = 0;
  };

 public:
  class Handle {
   public:
    Handle() = default;
    Handle(Handle&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)), block_(std::move(other.block_)) {}
    Handle& operator=(Handle&& other) noexcept {
      std::swap(pool_, other.pool_);
      std::swap(block_, other.block_);
      return *this;
    }
    ~Handle() {
      if (pool_ != nullptr) pool_->free_.push_back(std::move(block_));
    }
    uint8_t* data() const { return block_.data.get(); }

   private:
    friend class ScratchPool;
    Handle(ScratchPool* pool, Block block) : pool_(pool), block_(std::move(block)) {}
    ScratchPool* pool_ = nullptr;
    Block block_;
  };

  // A buffer of at least `bytes`, contents undefined: the smallest free one that holds it, else a new one.
  Handle Acquire(int64_t bytes) {
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->bytes >= bytes && (best == free_.end() || it->bytes < best->bytes)) best = it;
    }
    if (best == free_.end()) return Handle(this, {std::make_unique_for_overwrite<uint8_t[]>(bytes), bytes});
    Block block = std::move(*best);
    free_.erase(best);
    return Handle(this, std::move(block));
  }

 private:
  std::vector<Block> free_;
};

}  // namespace shardit
