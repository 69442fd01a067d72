#include "kernels.h"

extern "C" roost::Threads* roost_threads_new(int count) { return new roost::Threads(count); }

extern "C" void roost_threads_free(roost::Threads* threads) { delete threads; }
