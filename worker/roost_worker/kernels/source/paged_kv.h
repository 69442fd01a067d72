// Where keys and values lie in a block of paged KV (PagedAttention, Kwon et al., 2023).
//
// A block holds, for each KV head in turn, block_tokens * head_dim keys, and elsewhere as many values, in an order that
// attention multiplies without packing: keys as words [head_dim / n][block_tokens], values as words
// [block_tokens / n][head_dim], where a word is n = 1 float, or n = 2 bfloat16 of neighbouring dimensions or tokens.
// In int8 they are in the same order, and each KV head has block_tokens scales elsewhere, floats, for the keys and as
// many for the values.
#pragma once

#include <cstdint>

namespace roost {

// One layer's keys and values, as seen from block 0.
struct PagedKv {
  void* keys;
  void* values;
  // Null unless keys and values are int8.
  void* key_scales;
  void* value_scales;
  // From one block to the next.
  int64_t block_bytes;
  // 16, 32, 64 or 128.
  int64_t block_tokens;
  int64_t kv_heads;
  // Any even number.
  int64_t head_dim;
};

// The keys or values of one head in one block.
template <class Value>
Value* head_of_block(const PagedKv& kv, void* side, int64_t block, int64_t head) {
  auto* bytes = static_cast<char*>(side) + block * kv.block_bytes;
  return reinterpret_cast<Value*>(bytes) + head * kv.block_tokens * kv.head_dim;
}

// Their scales, one for each token.
inline float* scales_of_block(const PagedKv& kv, void* scales, int64_t block, int64_t head) {
  auto* bytes = static_cast<char*>(scales) + block * kv.block_bytes;
  return reinterpret_cast<float*>(bytes) + head * kv.block_tokens;
}

// Index within them of one dimension of one token.
template <class Format>
int64_t key_index(const PagedKv& kv, int64_t token, int64_t dimension) {
  constexpr int64_t n = Format::kPerWord;
  return (dimension / n * kv.block_tokens + token) * n + dimension % n;
}

template <class Format>
int64_t value_index(const PagedKv& kv, int64_t token, int64_t dimension) {
  constexpr int64_t n = Format::kPerWord;
  return (token / n * kv.head_dim + dimension) * n + token % n;
}

}  // namespace roost
