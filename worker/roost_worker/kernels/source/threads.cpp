#include "threads.h"

#include <chrono>
#include <new>
#include <system_error>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace roost {
namespace {

// How long a thread looks for what it waits for before it sleeps, in microseconds: about what lies between two jobs.
constexpr int64_t kSpin = 50;
constexpr int kLooks = 16;
// A job has stalled when it waits for a helper for longer than this, besides what some pieces take.
constexpr int64_t kStall = 300;
constexpr int64_t kStallPieces = 4;

int64_t microseconds() {
  using namespace std::chrono;
  return duration_cast<std::chrono::microseconds>(steady_clock::now().time_since_epoch()).count();
}

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until `value` is not `old`.
void await_change(const std::atomic<uint32_t>& value, uint32_t old) {
  const int64_t asleep = microseconds() + kSpin;
  do {
    for (int look = 0; look < kLooks; ++look) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
  } while (microseconds() < asleep);
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

Threads::Threads(int count) : helpers_(started(count - 1)), limit_(static_cast<int>(helpers_.size())) {}

std::vector<std::unique_ptr<Threads::Helper>> Threads::started(int helpers) {
  std::vector<std::unique_ptr<Helper>> started;
  try {
    for (int i = 0; i < helpers; ++i) {
      auto helper = std::make_unique<Helper>();
      helper->thread = std::thread([this, helper = helper.get()] { help(*helper); });
      started.push_back(std::move(helper));
    }
  } catch (const std::system_error&) {  // a limit of threads or memory
  }
  return started;
}

Threads::~Threads() {
  closing_ = true;
  for (auto& helper : helpers_) {
    helper->calls.fetch_add(1);
    helper->calls.notify_one();
  }
  for (auto& helper : helpers_) helper->thread.join();
}

int Threads::limit_of_helpers() {
  return limit_.reduced() ? limit_.at(microseconds()) : static_cast<int>(helpers_.size());
}

void Threads::share(int64_t pieces, int helpers, Piece call, const void* work) {
  // All pieces of the last job are taken, so nobody takes one before the job is published.
  call_.store(call, std::memory_order_relaxed);
  work_.store(work, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  out_of_memory_.store(false, std::memory_order_relaxed);
  const uint64_t number = (job_.load(std::memory_order_relaxed) >> (2 * kPieceBits)) + 1;
  job_.store(number << (2 * kPieceBits) | static_cast<uint64_t>(pieces) << kPieceBits, std::memory_order_release);
  helpers = static_cast<int>(std::min<int64_t>(helpers, pieces - 1));
  for (int i = 0; i < helpers; ++i) {
    helpers_[i]->calls.fetch_add(1, std::memory_order_seq_cst);
    helpers_[i]->calls.notify_one();
  }
  const int64_t begun = microseconds();
  int64_t taken = 0;
  while (take_one()) ++taken;
  const int64_t ended = microseconds();
  await(pieces);
  const int64_t now = microseconds(), waited = now - ended;
  const int64_t piece = (ended - begun) / std::max<int64_t>(taken, 1);
  limit_.ended(now, (pieces - taken) * piece, waited > kStall + kStallPieces * piece ? waited : 0);
  if (out_of_memory_.load(std::memory_order_relaxed)) throw std::bad_alloc();
}

void Threads::await(int64_t pieces) {
  uint32_t done;
  while ((done = done_.load(std::memory_order_acquire)) < pieces) await_change(done_, done);
}

bool Threads::take_one() {
  uint64_t job = job_.load(std::memory_order_acquire);
  while (next_of(job) < pieces_of(job)) {
    const Piece call = call_.load(std::memory_order_relaxed);
    const void* work = work_.load(std::memory_order_relaxed);
    if (job_.compare_exchange_weak(job, job + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      try {
        call(work, static_cast<int64_t>(next_of(job)));
      } catch (const std::bad_alloc&) {
        out_of_memory_.store(true, std::memory_order_relaxed);
      }
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == pieces_of(job)) done_.notify_one();
      return true;
    }
  }
  return false;
}

void Threads::help(Helper& helper) {
  uint32_t answered = 0;
  while (true) {
    await_change(helper.calls, answered);
    answered = helper.calls.load(std::memory_order_acquire);
    if (closing_) return;
    while (take_one()) {
    }
  }
}

}  // namespace roost
