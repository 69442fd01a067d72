// Panels of int8 weights: a step takes four inputs of each row, and a word of a column holds their four weights. Scales
// come after the sums.
#pragma once

#include "panel.h"

namespace roost {

// The signed byte `index`, 0 … 3, of each word, as a float.
template <int index>
Wide byte_of(WideWords words) {
  typedef int32_t WideIntegers __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));
  const WideWords upper = words << (24 - 8 * index);
  return __builtin_convertvector(reinterpret_cast<const WideIntegers&>(upper) >> 24, Wide);
}

// Int8 weights, multiplied as floats. `Value` is the rows' type. `widen` writes `steps` steps as a Widened panel has
// them, which gives the same bits, and takes less time where many rows are multiplied.
template <class RowValue>
struct Int8AsFloatPanel {
  using Widened = FloatPanel;
  using Value = RowValue;
  using Weight = int8_t;
  using Input = float;
  static constexpr int kInputs = 4;

  template <int kRows>
  static void add(Sums<kRows>& sums, const Input* x, int64_t stride, const uint32_t* words) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const WideWords four = reinterpret_cast<const WideWords*>(words)[v];
      const Wide weights[] = {byte_of<0>(four), byte_of<1>(four), byte_of<2>(four), byte_of<3>(four)};
#pragma GCC unroll 16
      for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 4
        for (int input = 0; input < kInputs; ++input) sums[row][v] += x[row * stride + input] * weights[input];
    }
  }

  static void widen(const uint32_t* words, int64_t steps, uint32_t* to) {
    for (int64_t step = 0; step < steps; ++step, to += kInputs * kPanel)
      for (int v = 0; v < kVectors; ++v, words += kWidth) {
        const WideWords four = *reinterpret_cast<const WideWords*>(words);
        Wide* const column = reinterpret_cast<Wide*>(to + v * kWidth);
        column[0] = byte_of<0>(four);
        column[kVectors] = byte_of<1>(four);
        column[2 * kVectors] = byte_of<2>(four);
        column[3 * kVectors] = byte_of<3>(four);
      }
  }
};

#if defined(__AVX512BF16__)

// Int8 weights and bfloat16 inputs: a bfloat16 holds an int8 exactly.
struct Int8AsBfloat16Panel {
  using Widened = Bfloat16Panel;
  using Value = Bfloat16;
  using Weight = int8_t;
  using Input = Bfloat16;
  static constexpr int kInputs = 4;

  template <int kRows>
  static void add(Sums<kRows>& sums, const Input* x, int64_t stride, const uint32_t* words) {
    __m512bh weights[2][kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const WideWords four = reinterpret_cast<const WideWords*>(words)[v];
      weights[0][v] = (__m512bh)(__m512i)pair(byte_of<0>(four), byte_of<1>(four));
      weights[1][v] = (__m512bh)(__m512i)pair(byte_of<2>(four), byte_of<3>(four));
    }
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        int inputs;
        std::memcpy(&inputs, x + row * stride + 2 * half, sizeof inputs);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v)
          sums[row][v] = (Wide)_mm512_dpbf16_ps((__m512)sums[row][v], weights[half][v],
                                                (__m512bh)_mm512_set1_epi32(inputs));
      }
  }

  static void widen(const uint32_t* words, int64_t steps, uint32_t* to) {
    for (int64_t step = 0; step < steps; ++step, to += 2 * kPanel)
      for (int v = 0; v < kVectors; ++v, words += kWidth) {
        const WideWords four = *reinterpret_cast<const WideWords*>(words);
        WideWords* const column = reinterpret_cast<WideWords*>(to + v * kWidth);
        column[0] = pair(byte_of<0>(four), byte_of<1>(four));
        column[kVectors] = pair(byte_of<2>(four), byte_of<3>(four));
      }
  }

 private:
  static WideWords pair(Wide first, Wide second) {
    return reinterpret_cast<const WideWords&>(first) >> 16 | reinterpret_cast<const WideWords&>(second);
  }
};

using Int8Bfloat16Panel = Int8AsBfloat16Panel;

#else

using Int8Bfloat16Panel = Int8AsFloatPanel<Bfloat16>;

#endif

}  // namespace roost
