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

void HelperLimit::ended(int64_t now, int64_t saved, int64_t waited) {
  credit_ = std::min(credit_ + saved, kMostCredit);
  if (waited <= credit_) {
    credit_ -= waited;
    return;
  }
  credit_ = 0;
  limit_ = std::max(0, limit_ - 1);
  pause_ = std::min(kPauses * waited, kLongestPause);
  next_raise_ = now + pause_;
}

}  // namespace roost
