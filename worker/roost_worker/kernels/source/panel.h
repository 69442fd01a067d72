// The innermost part of matrix products: some rows times one panel of a packed weight.
//
// A panel holds kPanel outputs of a weight [outputs, inputs]. It is an array [steps][kPanel] of 32-bit words; a step
// takes one input of each row in float, two neighbours in bfloat16, or four in int8. Each sum is taken in the order of
// the inputs, so that it depends on nothing but its row and its weights: whatever rows it is computed with, its bits
// are the same.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include "vector.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace roost {

constexpr int kPanel = 32;

// The processor's own vectors, and the rows whose sums fit its registers beside what a step loads.
#if defined(__AVX512F__)
constexpr int kWidth = 16;
constexpr int kTileRows = 12;
#elif defined(__AVX__)
constexpr int kWidth = 8;
constexpr int kTileRows = 3;
#else
constexpr int kWidth = 4;
constexpr int kTileRows = 2;
#endif
constexpr int kVectors = kPanel / kWidth;
typedef float Wide __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));
typedef uint32_t WideWords __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));

// Words that are fetched ahead, within the panel and into the next: at 12 rows, the time that memory needs to answer.
constexpr int kAhead = 2048;

template <int kRows>
using Sums = Wide[kRows][kVectors];

// Float weights and inputs.
struct FloatPanel {
  using Value = float;
  using Weight = float;
  using Input = float;
  static constexpr int kInputs = 1;

  template <int kRows>
  static void add(Sums<kRows>& sums, const Input* x, int64_t stride, const uint32_t* words) {
    Wide weights[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) weights[v] = reinterpret_cast<const Wide*>(words)[v];
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sums[row][v] += x[row * stride] * weights[v];
  }
};

#if defined(__AVX512BF16__)

// Bfloat16 weights and inputs, multiplied by the processor's units for them.
struct Bfloat16Panel {
  using Value = Bfloat16;
  using Weight = Bfloat16;
  using Input = Bfloat16;
  static constexpr int kInputs = 2;

  template <int kRows>
  static void add(Sums<kRows>& sums, const Input* x, int64_t stride, const uint32_t* words) {
    __m512bh weights[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) weights[v] = (__m512bh)_mm512_loadu_si512(words + v * kWidth);
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      int pair;
      std::memcpy(&pair, x + row * stride, sizeof pair);
      const __m512bh inputs = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v)
        sums[row][v] = (Wide)_mm512_dpbf16_ps((__m512)sums[row][v], weights[v], inputs);
    }
  }
};

#else

// Bfloat16 weights, multiplied as floats: each is the upper half of one. Inputs come as floats.
struct Bfloat16Panel {
  using Value = Bfloat16;
  using Weight = Bfloat16;
  using Input = float;
  static constexpr int kInputs = 2;

  template <int kRows>
  static void add(Sums<kRows>& sums, const Input* x, int64_t stride, const uint32_t* words) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const WideWords pairs = reinterpret_cast<const WideWords*>(words)[v];
      const WideWords first = pairs << 16, second = pairs & 0xffff0000;
#pragma GCC unroll 16
      for (int row = 0; row < kRows; ++row) {
        sums[row][v] += x[row * stride] * reinterpret_cast<const Wide&>(first);
        sums[row][v] += x[row * stride + 1] * reinterpret_cast<const Wide&>(second);
      }
    }
  }
};

#endif

// Sums of kRows rows, `stride` inputs apart, over `steps` steps, into `sums` [kRows][kPanel]; on top of what is there
// if `resumed`.
template <class Panel, int kRows>
void multiply(const typename Panel::Input* x, int64_t stride, const uint32_t* words, int64_t steps, bool resumed,
              float* sums) {
  Sums<kRows> held;
  Wide* const kept = reinterpret_cast<Wide*>(sums);
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) held[row][v] = resumed ? kept[row * kVectors + v] : Wide{};
  for (int64_t step = 0; step < steps; ++step) {
    __builtin_prefetch(words + kAhead);
    __builtin_prefetch(words + kAhead + kPanel / 2);
    Panel::template add<kRows>(held, x, stride, words);
    x += Panel::kInputs;
    words += kPanel;
  }
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) kept[row * kVectors + v] = held[row][v];
}

// `multiply` for 1 … kTileRows rows, by rows - 1.
template <class Panel>
constexpr auto kMultiply = []<int... kRows>(std::integer_sequence<int, kRows...>) {
  return std::array{&multiply<Panel, kRows + 1>...};
}(std::make_integer_sequence<int, kTileRows>());

}  // namespace roost
