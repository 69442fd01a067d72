// A batch's rows of the fused projection, and what becomes of them before attention.
#pragma once

#include <cstdint>

#include "paged_kv.h"

namespace roost {

// Queries and keys are normed, then rotated (RoFormer, Su et al., 2021, in the half-split form); queries are scaled.
struct Projected {
  // [tokens, heads + 2 kv_heads, head_dim]: queries, keys, values.
  const void* qkv;
  int64_t tokens;
  int64_t heads;
  // [head_dim], or null for no norm.
  const void* query_norm;
  const void* key_norm;
  float eps;
  // [tokens, head_dim], or null for no rotation.
  const void* cos;
  const void* signed_sin;
  // [tokens], or null for 1.
  const void* query_scale;
  // [tokens]: the block that keys and values go to, and the place in it.
  const int64_t* blocks;
  const int64_t* offsets;
};

}  // namespace roost
