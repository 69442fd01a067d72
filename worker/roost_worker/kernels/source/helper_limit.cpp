#include "helper_limit.h"

#include <algorithm>

namespace roost {

int HelperLimit::at(int64_t now) {
  if (reduced() && now >= next_raise_) {
    ++limit_;
    next_raise_ = now + pause_;
  }
  return limit_;
}

void HelperLimit::stalled(int64_t now, int64_t waited) {
  limit_ = std::max(0, limit_ - 1);
  pause_ = std::min(kPauses * waited, kLongestPause);
  next_raise_ = now + pause_;
}

}  // namespace roost
