#include "helper_limit.h"

#include <algorithm>

namespace roost {

int HelperLimit::at(int64_t now) {
  if (reduced() && now >= next_raise_) {
    ++limit_;
    raised_ = now;
    next_raise_ = now + pause_;
  }
  return limit_;
}

void HelperLimit::stalled(int64_t now) {
  limit_ = std::max(0, limit_ - 1);
  pause_ = now - raised_ < kLongestPause ? std::min(2 * pause_, kLongestPause) : kShortestPause;
  next_raise_ = now + pause_;
}

}  // namespace roost
