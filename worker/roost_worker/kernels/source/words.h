// Keys, values, queries and weights as attention multiplies them: words of 32 bits, each a float or a pair of bfloat16.
#pragma once

#include "vector.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace roost {

inline Floats as_floats(Words words) { return reinterpret_cast<const Floats&>(words); }
inline Words as_words(Floats floats) { return reinterpret_cast<const Words&>(floats); }
inline Words load_words(const uint32_t* from) { return *reinterpret_cast<const Words*>(from); }
inline Words broadcast_word(uint32_t word) { return Words{} + word; }

// The first `count` words, 1 to kLanes; zero in the other lanes. Nothing is read behind them.
inline Words load_words(const uint32_t* from, int64_t count) {
  Words words{};
#if defined(__AVX512F__)
  words = (Words)_mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << count) - 1), from);
#else
  std::memcpy(&words, from, count * sizeof *from);
#endif
  return words;
}

// sum + a * b in each lane. The instruction is named where there is one, so that all callers round alike.
inline Floats fused(Floats sum, Floats a, Floats b) {
#if defined(__AVX512F__)
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#else
  return a * b + sum;
#endif
}

// A word is a float.
struct FloatWords {
  using Value = float;
  static constexpr int64_t kPerWord = 1;

  static Floats add_product(Floats sum, Words a, Words b) { return fused(sum, as_floats(a), as_floats(b)); }

  // Turns kLanes floats into words, in place.
  static void pack(uint32_t* to, Floats values) { *reinterpret_cast<Words*>(to) = as_words(values); }

  // The int8 numbers of one word.
  using Int8 = int8_t;
  static Words widened(Bytes bytes) {
    // In several steps, since GCC 12 finds no instruction for the whole conversion.
    const auto integers = __builtin_convertvector(__builtin_convertvector(bytes, Shorts), Integers);
    return as_words(__builtin_convertvector(integers, Floats));
  }
};

// A word is two bfloat16, the first one in the lower half; the product of two words is the sum of two products.
struct Bfloat16Words {
  using Value = Bfloat16;
  static constexpr int64_t kPerWord = 2;

  static Floats add_product(Floats sum, Words a, Words b) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    sum = fused(sum, as_floats(a << 16), as_floats(b << 16));
    return fused(sum, as_floats(a & 0xffff0000), as_floats(b & 0xffff0000));
#endif
  }

  // Rounds kLanes floats to kLanes / 2 words.
  static void pack(uint32_t* to, Floats values) {
#if defined(__AVX512BF16__)
    const __m256bh halves = _mm512_cvtneps_pbh((__m512)values);
    std::memcpy(to, &halves, sizeof halves);
#else
    store(reinterpret_cast<Bfloat16*>(to), values);
#endif
  }

  // A bfloat16 holds an int8 exactly: its lower half as a float is zero.
  using Int8 = int16_t;
  static Words widened(Shorts pairs) {
    const Integers both = __builtin_convertvector(pairs, Integers);
    const Words first = as_words(__builtin_convertvector((both << 24) >> 24, Floats));
    const Words second = as_words(__builtin_convertvector(both >> 8, Floats));
    return first >> 16 | second;
  }
};

// Words as they are multiplied.
template <class WordFormat>
struct PlainWords {
  using Format = WordFormat;
  using Element = uint32_t;
  static constexpr bool kScaled = false;

  static Words load(const Element* from) { return load_words(from); }
  static Words load(const Element* from, int64_t count) { return load_words(from, count); }
};

// Words that were widened from int8 numbers, whose scales are elsewhere.
template <class WordFormat>
struct ScaledWords : PlainWords<WordFormat> {
  static constexpr bool kScaled = true;
};

// Words of int8 numbers, which are widened when they are loaded.
template <class WordFormat>
struct Int8Words {
  using Format = WordFormat;
  using Element = typename Format::Int8;
  static constexpr bool kScaled = true;

  static Words load(const Element* from) {
    typedef Element Elements __attribute__((vector_size(kLanes * sizeof(Element)), aligned(1), may_alias));
    return Format::widened(*reinterpret_cast<const Elements*>(from));
  }
  static Words load(const Element* from, int64_t count) {
    Element elements[kLanes] = {};
    std::memcpy(elements, from, count * sizeof *from);
    return load(elements);
  }
};

}  // namespace roost
