// Powers of two, sixteen at a time.
#pragma once

#include "words.h"

namespace roost {

// 2^x for x <= 0, to 2e-7 of its value; exactly 1 at 0, and 0 below -126, where floats are no longer normal. NaN stays
// NaN.
inline Floats exp2(Floats x) {
  constexpr float kRounds = 0x1.8p23f;  // adding it leaves no bits for a fraction
  const Floats shifted = x + kRounds;
  const Floats rest = x - (shifted - kRounds);
  // Coefficients of Cephes' exp2f (Moshier, 1989), for -0.5 .. 0.5.
  Floats power = broadcast(1.535336188319500e-4f);
  for (const float coefficient : {1.339887440266574e-3f, 9.618437357674640e-3f, 5.550332471162809e-2f,
                                  2.402264791363012e-1f, 6.931472028550421e-1f, 1.0f})
    power = fused(broadcast(coefficient), power, rest);
  const Floats scaled = as_floats(as_words(power) + (as_words(shifted) << 23));
  const Floats power_of_number = x >= -126.0f ? scaled : Floats{};
  return x == x ? power_of_number : x;
}

}  // namespace roost
