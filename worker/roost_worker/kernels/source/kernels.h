// The kernels as `roost_worker.kernels.library` declares them: plain C functions over addresses and sizes.
//
// Tensors are contiguous where nothing else is said. `is_bfloat16` tells the element type of all tensors that have no
// type of their own: bfloat16, or else float. Kernels that return int return 0 when there is not enough memory, after
// which what they write is not to be used, else 1.
#pragma once

#include <cstdint>

#include "attention.h"
#include "linear.h"
#include "paged_kv.h"
#include "rotary.h"
#include "threads.h"

extern "C" {

// What of the processor the kernels use, for people.
const char* roost_units();

// Threads for the calls below: this many with the caller's own, or as many as the system gives.
roost::Threads* roost_threads_new(int count);
int roost_threads_count(const roost::Threads* threads);
void roost_threads_free(roost::Threads* threads);

// For tests: the limits of helpers at each of `count` times, when helpers save jobs as much as `saved` and these wait
// for them as long as `waited`.
void roost_helper_limits(int helpers, const int64_t* times, const int64_t* saved, const int64_t* waited, int64_t count,
                         int64_t* limits);

// Memory for the weights of products; it must outlive them.
roost::WeightMemory* roost_weights_new();
void roost_weights_free(roost::WeightMemory* memory);

// A product as `linear.h` describes it, with its weight packed into `memory`. `scales`, `bias` and `norm` may be null;
// with scales the weight is int8, whatever the other tensors are. Null if there is not enough memory.
roost::Linear* roost_linear_new(roost::Threads* threads, roost::WeightMemory* memory, int is_bfloat16,
                                const void* weight, const float* scales, const void* bias, const void* norm, float eps,
                                int64_t outputs, int64_t inputs, int gated);
void roost_linear_free(roost::Linear* linear);

// x [rows, inputs] -> out [rows, results], plus `residual` [rows, results] unless it is null.
int roost_linear(roost::Threads* threads, const roost::Linear* linear, const void* x, int64_t rows,
                 const void* residual, void* out);

// Norms, rotates and scales a batch's queries, into query [tokens, heads, head_dim], and writes its keys, treated alike
// but for the scale, and values into kv. Blocks and places differ from token to token.
int roost_write_heads(roost::Threads* threads, int is_bfloat16, const roost::Projected* projected,
                      const roost::PagedKv* kv, void* query);

// Causal grouped-query attention of query [tokens, heads, head_dim] over kv, into out [tokens, heads, head_dim].
// `spans` [count] cover all tokens; `tables` holds the ids of each sequence's blocks, up to the last token of its span.
// A token's output depends on its query and on its sequence's keys and values up to its position only, bit for bit.
int roost_attend(roost::Threads* threads, int is_bfloat16, const void* query, const roost::PagedKv* kv, int64_t heads,
                 const roost::Span* spans, int64_t count, const int64_t* tables, void* out);

}  // extern "C"
