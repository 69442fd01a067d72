// The kernels as `roost_worker.kernels.library` declares them: plain C functions over addresses and sizes.
//
// Tensors are contiguous where nothing else is said. `is_bfloat16` tells the element type of all tensors that have no type
// of their own: bfloat16, or else float.
#pragma once

#include <cstdint>

#include "threads.h"

extern "C" {

// Threads for the calls below: this many, with the caller's own.
roost::Threads* roost_threads_new(int count);
void roost_threads_free(roost::Threads* threads);

// Root mean square norm (Zhang and Sennrich, 2019) of x [rows, size] with weight [size], into out [rows, size].
void roost_rms_norm(roost::Threads* threads, int is_bfloat16, const void* x, const void* weight, int64_t rows,
                    int64_t size, float eps, void* out);

}  // extern "C"
