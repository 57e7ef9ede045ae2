#include "core/base/workspace.h"

#include <sys/mman.h>

#include <new>

#include "core/base/math.h"

namespace shardit {
namespace {

// Panels are written and read across many pages at once: in huge pages they need few translations. Areas are aligned to
// one and, once they are a good part of one, sized in whole ones.
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kLeastHuge = size_t{256} << 10;
constexpr std::align_val_t kAlign{kHugePage};

}  // namespace

Workspace::Workspace(int threads) : thread_areas_(static_cast<size_t>(threads)) { CHECK_GE(threads, 1); }

Workspace::~Workspace() {
  for (Area& area : thread_areas_) ::operator delete(area.data, kAlign);
  ::operator delete(shared_area_.data, kAlign);
}

void* Workspace::Grow(Area& area, size_t bytes) {
  if (bytes > area.bytes) {
    ::operator delete(area.data, kAlign);
    if (bytes >= kLeastHuge) bytes = static_cast<size_t>(RoundUp(static_cast<int64_t>(bytes), kHugePage));
    area.data = ::operator new(bytes, kAlign);
    area.bytes = bytes;
    // Advice: where the kernel has no huge pages, small ones serve.
    if (bytes >= kLeastHuge) (void)madvise(area.data, bytes, MADV_HUGEPAGE);
  }
  return area.data;
}

int64_t Workspace::bytes() const {
  size_t total = shared_area_.bytes;
  for (const Area& area : thread_areas_) total += area.bytes;
  return static_cast<int64_t>(total);
}

}  // namespace shardit
