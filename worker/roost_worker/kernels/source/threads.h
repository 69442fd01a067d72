// The threads that share a kernel's work.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "helper_limit.h"

namespace roost {

// Threads that take pieces of one job at a time. The caller works too; a helper that has not begun when the pieces are
// gone is not waited for, so that a thread that a neighbour keeps off its core costs what it has begun and no more.
// After a job that has waited for such a thread, fewer are asked for a while.
class Threads {
 public:
  using Piece = void (*)(const void* work, int64_t piece);

  // This many with the caller's own, or as many as the system gives.
  explicit Threads(int count);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int count() const { return static_cast<int>(helpers_.size()) + 1; }

  // Calls work(piece) for each piece of 0 .. pieces - 1, in any order and on any thread; returns when all have
  // returned. Not to be called from two threads, or from within a piece. Throws std::bad_alloc when a piece has, on
  // whatever thread, once no piece runs any more.
  template <class Work>
  void run(int64_t pieces, const Work& work) {
    for (int64_t first = 0; first < pieces; first += kMostPieces)
      run_job(std::min(kMostPieces, pieces - first), [&](int64_t piece) { work(first + piece); });
  }

 private:
  struct alignas(64) Helper {
    std::atomic<uint32_t> calls{0};
    std::thread thread;
  };

  static constexpr int kPieceBits = 20;
  static constexpr int64_t kMostPieces = (int64_t{1} << kPieceBits) - 1;  // of a job

  template <class Work>
  void run_job(int64_t pieces, const Work& work) {
    const int helpers = pieces > 1 ? limit_of_helpers() : 0;
    if (helpers == 0) {
      for (int64_t piece = 0; piece < pieces; ++piece) work(piece);
      return;
    }
    share(pieces, helpers, [](const void* of, int64_t piece) { (*static_cast<const Work*>(of))(piece); }, &work);
  }

  static uint64_t next_of(uint64_t job) { return job & kMostPieces; }
  static uint64_t pieces_of(uint64_t job) { return (job >> kPieceBits) & kMostPieces; }

  std::vector<std::unique_ptr<Helper>> started(int helpers);
  int limit_of_helpers();
  void share(int64_t pieces, int helpers, Piece call, const void* work);
  void await(int64_t pieces);
  void help(Helper& helper);
  bool take_one();

  // Number of the job, its pieces, and the next one to take, in one word: a helper that wakes late takes nothing of a
  // job that it has not read.
  alignas(64) std::atomic<uint64_t> job_{0};
  std::atomic<Piece> call_{nullptr};
  std::atomic<const void*> work_{nullptr};
  alignas(64) std::atomic<uint32_t> done_{0};
  std::atomic<bool> out_of_memory_{false};  // in a piece of the job
  std::atomic<bool> closing_{false};
  // Helpers read what is above.
  std::vector<std::unique_ptr<Helper>> helpers_;
  HelperLimit limit_;
};

}  // namespace roost
