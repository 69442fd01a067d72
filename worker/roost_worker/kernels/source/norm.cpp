#include <cmath>

#include "kernels.h"
#include "vector.h"

namespace roost {
namespace {

template <class Value>
void norm_row(const Value* x, const Value* weight, int64_t size, float eps, Value* out) {
  Floats squares{};
  float rest = 0;
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) squares += load(x + i) * load(x + i);
  for (; i < size; ++i) rest += to_float(x[i]) * to_float(x[i]);
  const float scale = 1 / std::sqrt((sum(squares) + rest) / static_cast<float>(size) + eps);
  for (i = 0; i + kLanes <= size; i += kLanes) store(out + i, load(x + i) * scale * load(weight + i));
  for (; i < size; ++i) from_float(out + i, to_float(x[i]) * scale * to_float(weight[i]));
}

}  // namespace
}  // namespace roost

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
