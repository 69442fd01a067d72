#include "kernels.h"

extern "C" const char* roost_units() {
#if defined(__AVX512BF16__)
  return "AVX512-BF16";
#elif defined(__AVX512F__)
  return "AVX512";
#elif defined(__AVX2__)
  return "AVX2";
#else
  return "the compiler's vectors";
#endif
}

extern "C" roost::Threads* roost_threads_new(int count) { return new roost::Threads(count); }

extern "C" int roost_threads_count(const roost::Threads* threads) { return threads->count(); }

extern "C" void roost_threads_free(roost::Threads* threads) { delete threads; }

extern "C" void roost_helper_limits(
    int helpers, const int64_t* times, const int64_t* saved, const int64_t* waited, int64_t count, int64_t* limits) {
  roost::HelperLimit limit(helpers);
  for (int64_t i = 0; i < count; ++i) {
    limits[i] = limit.at(times[i]);
    if (limits[i] > 0) limit.ended(times[i], saved[i], waited[i]);
  }
}
