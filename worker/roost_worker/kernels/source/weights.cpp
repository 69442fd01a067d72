#include "weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "rounding.h"

namespace roost {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kHugePage = size_t{2} << 20;
// Weights share regions, so that small ones lie in huge pages, too. A page that nothing was written to takes no memory.
constexpr size_t kRegion = size_t{64} << 20;

}  // namespace

WeightMemory::~WeightMemory() {
  for (const Region& region : regions_) munmap(region.begin, region.bytes);
}

void* WeightMemory::take(size_t bytes) {
  bytes = round_up(std::max(bytes, kLine), kLine);
  if (regions_.empty() || used_ + bytes > regions_.back().bytes) {
    // One huge page more: the region need not begin at the border of one.
    const size_t size = round_up(std::max(bytes, kRegion), kHugePage) + kHugePage;
    void* begin = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (begin == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    madvise(begin, size, MADV_HUGEPAGE);
#endif
    regions_.push_back({static_cast<char*>(begin), size});
    used_ = 0;
  }
  used_ += bytes;
  return regions_.back().begin + used_ - bytes;
}

}  // namespace roost
