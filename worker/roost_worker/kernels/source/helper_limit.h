// How many helpers a job asks for, on a machine that others use, too.
#pragma once

#include <cstdint>

namespace roost {

// One helper less after a stall that cost more than helpers have saved lately: where more threads want to run than
// there are cores, a job waits for the one that does not. After a pause one more is tried. The pause is a multiple of
// what was waited, which bounds the share of time that is lost to a neighbour who stays. Times are microseconds of any
// clock that does not go back.
class HelperLimit {
 public:
  explicit HelperLimit(int helpers) : helpers_(helpers), limit_(helpers) {}

  // The most helpers for a job that begins at `now`.
  int at(int64_t now);

  // A job that ended at `now` was shorter by `saved`, what helpers did of it, and has waited for one for `waited` or
  // not at all.
  void ended(int64_t now, int64_t saved, int64_t waited);

  bool reduced() const { return limit_ < helpers_; }

 private:
  static constexpr int64_t kPauses = 20;
  static constexpr int64_t kLongestPause = 5'000'000;  // a process that was stopped has waited for long, too
  static constexpr int64_t kMostCredit = 20'000;

  const int helpers_;
  int limit_;
  int64_t credit_ = 0;  // what helpers have saved and no stall has cost since
  int64_t pause_ = 0;
  int64_t next_raise_ = 0;
};

}  // namespace roost
