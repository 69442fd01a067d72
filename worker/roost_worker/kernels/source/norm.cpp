#include "norm.h"

#include "kernels.h"

using namespace roost;

extern "C" void roost_rms_norm(
    Threads* threads, int is_bfloat16, const void* x, const void* weight, int64_t rows, int64_t size, float eps, void* out) {
  threads->run(rows, [&](int64_t row) {
    if (is_bfloat16)
      norm_row(static_cast<const Bfloat16*>(x) + row * size, static_cast<const Bfloat16*>(weight), size, eps,
               static_cast<Bfloat16*>(out) + row * size);
    else
      norm_row(static_cast<const float*>(x) + row * size, static_cast<const float*>(weight), size, eps,
               static_cast<float*>(out) + row * size);
  });
}
