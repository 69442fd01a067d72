// Keys and values in int8: those of one token and KV head have a scale of their own. Scores are multiplied by the keys'
// scales, and weights by the values', so that the numbers themselves are multiplied as they are.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "attention_tile.h"

namespace roost {

// Rounds `size` numbers to 255 steps that are symmetric around 0, number i to to[index(i)]; returns the scale. That is
// NaN when one of them is an infinity or NaN, so that they are read as NaN.
template <class Index>
float round_to_int8(const float* numbers, int64_t size, int8_t* to, const Index& index) {
  float largest = 0, not_finite = 0;
  for (int64_t i = 0; i < size; ++i) {
    largest = std::max(largest, std::fabs(numbers[i]));
    not_finite += numbers[i] * 0;
  }
  const float scale = largest / 127 + not_finite;
  const bool has_steps = scale >= FLT_MIN;  // a smaller one has too few digits to divide by
  for (int64_t i = 0; i < size; ++i)
    to[index(i)] = has_steps ? static_cast<int8_t>(std::nearbyint(numbers[i] / scale)) : int8_t{0};
  return scale;
}

// The keys and values of one segment and KV head as attention multiplies them: where they lie, or, for many rows of
// queries, widened once. Both give the same bits.
template <class Format>
class Int8Segment {
  static constexpr int64_t n = Format::kPerWord;

 public:
  static int64_t floats(int64_t head_dim, bool widens) {
    return 2 * kSegment + (widens ? 2 * kSegment * head_dim / n : 0);
  }

  // `memory` is floats(head_dim, widens) floats.
  Int8Segment(float* memory, int64_t head_dim, bool widens) : key_scales_(memory), value_scales_(memory + kSegment) {
    auto* words = reinterpret_cast<uint32_t*>(memory + 2 * kSegment);
    if (widens) widened_ = {words, words + kSegment * head_dim / n, nullptr, nullptr, 0, kSegment, 1, head_dim};
  }

  // Reads the scales of `count` keys of a head in a segment's `blocks`, until the next call.
  Keys<Int8Words<Format>> in_place(const PagedKv& kv, int64_t head, const int64_t* blocks, int64_t count) {
    read_scales(kv, kv.key_scales, head, blocks, count, key_scales_);
    read_scales(kv, kv.value_scales, head, blocks, count, value_scales_);
    return {kv, head, blocks, count, key_scales_, value_scales_};
  }

  // Widens all words of `keys` and its values. Words behind them, up to whole vectors, are anything.
  Keys<ScaledWords<Format>> widened(const Keys<Int8Words<Format>>& keys) {
    const int64_t block_tokens = keys.kv.block_tokens;
    for (int64_t first = 0; first < keys.count; first += block_tokens) {
      const int64_t tokens = std::min(block_tokens, keys.count - first);
      const auto* from = keys.keys_from(first);
      auto* to = static_cast<uint32_t*>(widened_.keys) + first;
      for (int64_t word = 0; word < keys.kv.head_dim / n; ++word, from += block_tokens, to += kSegment)
        widen(from, tokens, to);
      widen(keys.values_from(first), (tokens + n - 1) / n * keys.kv.head_dim,
            static_cast<uint32_t*>(widened_.values) + first / n * keys.kv.head_dim);
    }
    return {widened_, 0, &kBlock, keys.count, key_scales_, value_scales_};
  }

 private:
  static constexpr int64_t kBlock = 0;

  static void read_scales(const PagedKv& kv, void* scales, int64_t head, const int64_t* blocks, int64_t count,
                          float* to) {
    for (int64_t first = 0; first < count; first += kv.block_tokens) {
      const float* from = scales_of_block(kv, scales, blocks[first / kv.block_tokens], head);
      std::copy_n(from, std::min(kv.block_tokens, count - first), to + first);
    }
    std::fill(to + count, to + kSegment, 0.0f);
  }

  // Reads and writes whole vectors. A block holds whole ones of each head, since it has a multiple of 16 tokens and
  // head_dim is even.
  static void widen(const typename Format::Int8* from, int64_t count, uint32_t* to) {
    for (int64_t i = 0; i < count; i += kLanes)
      *reinterpret_cast<Words*>(to + i) = Int8Words<Format>::load(from + i);
  }

  float* key_scales_;
  float* value_scales_;
  PagedKv widened_{};
};

}  // namespace roost
