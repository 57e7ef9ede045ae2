#include "core/base/workspace.h"

#include <new>

namespace shardit {
namespace {

constexpr std::align_val_t kAlign{Workspace::kAlignment};

}  // namespace

Workspace::Workspace(int threads) : thread_areas_(static_cast<size_t>(threads)) { CHECK_GE(threads, 1); }

Workspace::~Workspace() {
  for (Area& area : thread_areas_) ::operator delete(area.data, kAlign);
  ::operator delete(shared_area_.data, kAlign);
}

void* Workspace::Grow(Area& area, size_t bytes) {
  if (bytes > area.bytes) {
    ::operator delete(area.data, kAlign);
    area.data = ::operator new(bytes, kAlign);
    area.bytes = bytes;
  }
  return area.data;
}

int64_t Workspace::bytes() const {
  size_t total = shared_area_.bytes;
  for (const Area& area : thread_areas_) total += area.bytes;
  return static_cast<int64_t>(total);
}

}  // namespace shardit
