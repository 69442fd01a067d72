// Root mean square norm (Zhang and Sennrich, 2019).
#pragma once

#include <cmath>

#include "vector.h"

namespace roost {

// Of one row of `size` values, times `weight`.
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

}  // namespace roost
