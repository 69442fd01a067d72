// The arithmetic of attention: what one segment of keys adds to the outputs of a tile of query rows.
//
// A segment is 256 keys that begin at a multiple of 256, so that its result for a row, and the order in which results
// are merged, depend on positions only: not on which other rows are in the tile, nor on who computes what. Within a
// segment all scores are known before the first weight is computed; segments are merged by online softmax (Milakov and
// Gimelshein, 2018), as in FlashAttention (Dao et al., 2022).
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "exponential.h"
#include "paged_kv.h"
#include "rounding.h"

namespace roost {

constexpr int64_t kSegment = 256;

// Rows and vectors of products that are summed in registers.
#if defined(__AVX512F__)
constexpr int kTileRows = 6;
constexpr int kTileVectors = 4;
#else
constexpr int kTileRows = 4;
constexpr int kTileVectors = 1;
#endif

// What some keys give one row: the largest score, the sum of weights exp(score - largest), and the values weighted so.
// In memory it is row_size(head_dim) floats: the values, padded to whole vectors, then the sum, then the largest score.
class Row {
 public:
  Row(float* floats, int64_t head_dim) : values_(floats), size_(round_up(head_dim, kLanes)) {}

  static int64_t floats(int64_t head_dim) { return round_up(head_dim, kLanes) + kLanes; }

  float* values() const { return values_; }
  int64_t size() const { return size_; }
  float& sum() const { return values_[size_]; }
  float& largest() const { return values_[size_ + 1]; }

  // The result of no keys, which merging leaves every other result as it is.
  void clear() const {
    std::fill_n(values_, size_, 0.0f);
    sum() = 0;
    largest() = -FLT_MAX / 2;
  }

 private:
  float* values_;
  int64_t size_;
};

// Keys of one segment, of one KV head, up to the last one that any row of a tile attends to, and their values. `Stored`
// says how their words lie in memory.
template <class Stored>
struct Keys {
  using Element = typename Stored::Element;

  const PagedKv& kv;
  int64_t head;
  // The segment's part of the sequence's block table.
  const int64_t* blocks;
  int64_t count;
  // [kSegment]; those behind the last key are 0. Null unless Stored::kScaled.
  const float* key_scales = nullptr;
  const float* value_scales = nullptr;

  const Element* keys_from(int64_t key) const { return words_of(kv.keys, key) + key % kv.block_tokens; }
  const Element* values_from(int64_t key) const {
    return words_of(kv.values, key) + key % kv.block_tokens / kPerWord * kv.head_dim;
  }

 private:
  static constexpr int64_t kPerWord = Stored::Format::kPerWord;

  const Element* words_of(void* side, int64_t key) const {
    auto* bytes = static_cast<char*>(side) + blocks[key / kv.block_tokens] * kv.block_bytes;
    return reinterpret_cast<const Element*>(bytes) + head * kv.block_tokens * kv.head_dim / kPerWord;
  }
};

// Products of queries [head_dim words][rows] with all keys, padded to whole vectors, into scores [rows][kSegment].
template <class Stored, int rows>
void score(const Keys<Stored>& keys, const uint32_t* query, float* scores) {
  using Format = typename Stored::Format;
  const int64_t last = round_up(keys.count, kLanes) - kLanes;
  for (int64_t first = 0; first <= last; first += kTileVectors * kLanes) {
    const typename Stored::Element *from[kTileVectors], *ahead[kTileVectors];
    // Behind the last vector comes the last one again; nobody reads these scores.
    for (int v = 0; v < kTileVectors; ++v) {
      from[v] = keys.keys_from(std::min(first + v * kLanes, last));
      ahead[v] = keys.values_from(std::min(first + v * kLanes, last));
    }
    int64_t line = 0;
    Floats sums[rows][kTileVectors] = {};
    const uint32_t* q = query;
    for (int64_t at = 0; at < keys.kv.head_dim / Format::kPerWord * keys.kv.block_tokens; at += keys.kv.block_tokens) {
      Words key[kTileVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kTileVectors; ++v) key[v] = Stored::load(from[v] + at);
      // The values of these keys are read next, and lie in as many lines.
#pragma GCC unroll 8
      for (int v = 0; v < kTileVectors; ++v) __builtin_prefetch(ahead[v] + line);
      line += kLanes;
#pragma GCC unroll 8
      for (int row = 0; row < rows; ++row)
#pragma GCC unroll 8
        for (int v = 0; v < kTileVectors; ++v)
          sums[row][v] = Format::add_product(sums[row][v], key[v], broadcast_word(q[row]));
      q += rows;
    }
#pragma GCC unroll 8
    for (int row = 0; row < rows; ++row)
#pragma GCC unroll 8
      for (int v = 0; v < kTileVectors; ++v) {
        if constexpr (Stored::kScaled) sums[row][v] *= load(keys.key_scales + std::min(first + v * kLanes, last));
        store(scores + row * kSegment + first + v * kLanes, sums[row][v]);
      }
  }
}

// Adds the values of all keys, weighted by words [rows][kSegment], to `vectors` vectors from `dimension` on, the last
// of `lanes` lanes; into rows of `stride` floats.
template <class Stored, int rows, int vectors, bool whole>
void add_values(const Keys<Stored>& keys, const uint32_t* weights, int64_t dimension, int64_t lanes, float* out,
                int64_t stride) {
  using Format = typename Stored::Format;
  using Element = typename Stored::Element;
  Floats sums[rows][vectors] = {};
  const auto add = [&](const Element* value, const uint32_t* weight, uint32_t mask) __attribute__((always_inline)) {
    Words words[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v)
      words[v] = (whole ? Stored::load(value + v * kLanes) : Stored::load(value + v * kLanes, lanes)) & mask;
#pragma GCC unroll 8
    for (int row = 0; row < rows; ++row)
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v)
        sums[row][v] = Format::add_product(sums[row][v], words[v], broadcast_word(weight[row * kSegment]));
  };
  const int64_t words = keys.count / Format::kPerWord, block_words = keys.kv.block_tokens / Format::kPerWord;
  for (int64_t first = 0; first < words; first += block_words) {
    const Element* value = keys.values_from(first * Format::kPerWord) + dimension;
    const int64_t end = std::min(words, first + block_words);
    for (int64_t word = first; word < end; ++word, value += keys.kv.head_dim) add(value, weights + word, ~0u);
  }
  // The last token's neighbour is another sequence's, or nobody's: its weight is 0, but it may not be a number.
  if (keys.count % Format::kPerWord) add(keys.values_from(keys.count - 1) + dimension, weights + words, 0xffff);
#pragma GCC unroll 8
  for (int row = 0; row < rows; ++row)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) store(out + row * stride + dimension + v * kLanes, sums[row][v]);
}

template <class Stored, int rows>
void weigh(const Keys<Stored>& keys, const uint32_t* weights, float* out, int64_t stride) {
  constexpr int64_t kWide = kTileVectors * kLanes;
  int64_t at = 0;
  for (; at + kWide <= keys.kv.head_dim; at += kWide)
    add_values<Stored, rows, kTileVectors, true>(keys, weights, at, kLanes, out, stride);
  for (; at + kLanes <= keys.kv.head_dim; at += kLanes)
    add_values<Stored, rows, 1, true>(keys, weights, at, kLanes, out, stride);
  if (at < keys.kv.head_dim)
    add_values<Stored, rows, 1, false>(keys, weights, at, keys.kv.head_dim - at, out, stride);
}

// Turns the scores of one row into weights, as words in the same place. The row attends to the first `count` keys of
// `padded`, a multiple of kLanes. `scale` is that of the scores, with log2(e). `value_scales`, unless null, are the
// values' scales, by which the weights are multiplied instead.
// Not inlined, nor merge(), so that it is the same instructions for all rows.
template <class Format>
[[gnu::noinline]] void weights_of(float* scores, int64_t count, int64_t padded, float scale, const float* value_scales,
                                  Row row) {
  std::fill(scores + std::max<int64_t>(count, 0), scores + padded, -INFINITY);
  Floats highest = broadcast(-FLT_MAX / 2);
  for (int64_t key = 0; key < padded; key += kLanes) {
    const Floats some = load(scores + key);
    highest = some > highest ? some : highest;
  }
  float lanes[kLanes];
  store(lanes, highest);
  row.largest() = *std::max_element(lanes, lanes + kLanes);
  Floats total{};
  const Floats from = broadcast(row.largest()), factor = broadcast(scale);
  auto* words = reinterpret_cast<uint32_t*>(scores);
  for (int64_t key = 0; key < padded; key += kLanes) {
    const Floats weights = exp2((load(scores + key) - from) * factor);
    total += weights;
    Floats packed = weights;
    // A weight of 0 stays 0: it may be that of a later key, whose scale is not a number.
    if (value_scales) packed = weights == 0 ? weights : weights * load(value_scales + key);
    Format::pack(words + key / Format::kPerWord, packed);
  }
  row.sum() = sum(total);
}

// Adds to `into` the result for keys that follow its own.
[[gnu::noinline]] inline void merge(Row into, Row row, float scale) {
  const float largest = std::max(into.largest(), row.largest());
  const Floats kept = exp2(broadcast((into.largest() - largest) * scale));
  const Floats added = exp2(broadcast((row.largest() - largest) * scale));
  for (int64_t i = 0; i < into.size(); i += kLanes)
    store(into.values() + i, fused(load(into.values() + i) * kept, load(row.values() + i), added));
  into.sum() = into.sum() * kept[0] + row.sum() * added[0];
  into.largest() = largest;
}

}  // namespace roost
