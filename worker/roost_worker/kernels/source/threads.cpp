#include "threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace roost {
namespace {

constexpr int kPieceBits = 20;
constexpr uint64_t kPieces = (uint64_t{1} << kPieceBits) - 1;
// Rounds of spinning, some 20 microseconds, before a thread sleeps.
constexpr int kSpins = 400;

uint64_t next_of(uint64_t job) { return job & kPieces; }
uint64_t pieces_of(uint64_t job) { return (job >> kPieceBits) & kPieces; }

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Threads::Threads(int count) {
  for (int i = 1; i < count; ++i) helpers_.emplace_back([this] { help(); });
}

Threads::~Threads() {
  closing_ = true;
  jobs_.fetch_add(1);
  jobs_.notify_all();
  for (auto& helper : helpers_) helper.join();
}

void Threads::share(int64_t pieces, Piece call, const void* work) {
  // All pieces of the last job are taken, so nobody takes one before the job is published.
  call_.store(call, std::memory_order_relaxed);
  work_.store(work, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  const uint64_t number = jobs_.load(std::memory_order_relaxed) + 1;
  job_.store(number << (2 * kPieceBits) | static_cast<uint64_t>(pieces) << kPieceBits, std::memory_order_release);
  jobs_.store(static_cast<uint32_t>(number), std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) jobs_.notify_all();
  while (take_one()) {
  }
  for (int spin = 0; done_.load(std::memory_order_acquire) < pieces; ++spin) {
    if (spin < kSpins) {
      pause();
      continue;
    }
    // The helper may need this core to go on.
    const int64_t done = done_.load(std::memory_order_acquire);
    if (done < pieces) done_.wait(done, std::memory_order_acquire);
  }
}

bool Threads::take_one() {
  uint64_t job = job_.load(std::memory_order_acquire);
  while (next_of(job) < pieces_of(job)) {
    const Piece call = call_.load(std::memory_order_relaxed);
    const void* work = work_.load(std::memory_order_relaxed);
    if (job_.compare_exchange_weak(job, job + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      call(work, static_cast<int64_t>(next_of(job)));
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<int64_t>(pieces_of(job))) done_.notify_one();
      return true;
    }
  }
  return false;
}

void Threads::help() {
  uint32_t seen = 0;
  while (true) {
    for (int spin = 0; jobs_.load(std::memory_order_acquire) == seen && spin < kSpins; ++spin) pause();
    if (jobs_.load(std::memory_order_acquire) == seen) {
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      jobs_.wait(seen, std::memory_order_seq_cst);
      sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }
    seen = jobs_.load(std::memory_order_acquire);
    if (closing_) return;
    while (take_one()) {
    }
  }
}

}  // namespace roost
