// How many helpers a job asks for, on a machine that others use, too.
#pragma once

#include <cstdint>

namespace roost {

// After each stall, one helper less: where more threads want to run than there are cores, a job waits for the one that
// does not. After a pause one more is tried; the pause grows while that leads to the next stall. Times are microseconds
// of any clock that does not go back.
class HelperLimit {
 public:
  explicit HelperLimit(int helpers) : helpers_(helpers), limit_(helpers) {}

  // The most helpers for a job that begins at `now`.
  int at(int64_t now);

  // A job that ended at `now` has waited for a helper.
  void stalled(int64_t now);

  bool reduced() const { return limit_ < helpers_; }

 private:
  // A neighbour that is there for good costs a stall, of some milliseconds, in each of the longest pauses; one that has
  // gone, one such pause.
  static constexpr int64_t kShortestPause = 10'000;
  static constexpr int64_t kLongestPause = 160'000;

  const int helpers_;
  int limit_;
  int64_t pause_ = kShortestPause;
  int64_t raised_ = -kLongestPause;
  int64_t next_raise_ = 0;
};

}  // namespace roost
