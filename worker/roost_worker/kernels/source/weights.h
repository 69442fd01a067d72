// Memory for packed weights.
#pragma once

#include <cstddef>
#include <vector>

namespace roost {

// Memory that is freed all at once. It asks for huge pages: every byte of every weight is read for each token, and with
// small pages the processor's own prefetching stops at each of them.
class WeightMemory {
 public:
  WeightMemory() = default;
  ~WeightMemory();
  WeightMemory(const WeightMemory&) = delete;
  WeightMemory& operator=(const WeightMemory&) = delete;

  // `bytes` of zeros, aligned to a cache line. Throws std::bad_alloc.
  void* take(size_t bytes);

 private:
  struct Region {
    char* begin;
    size_t bytes;
  };

  std::vector<Region> regions_;
  size_t used_ = 0;  // of the last region
};

}  // namespace roost
