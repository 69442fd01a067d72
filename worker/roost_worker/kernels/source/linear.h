// Matrix products with a weight that is packed once, and what comes before and after them in a decoder.
#pragma once

#include <cstdint>
#include <memory>

#include "threads.h"
#include "weights.h"

namespace roost {

// What a product is made of. Tensors are read once, when it is made.
struct LinearParts {
  const void* weight;   // [outputs, inputs]
  const float* scales;  // [outputs], what rows of an int8 weight are multiplied by; null: the weight is not int8
  const void* bias;     // [outputs], or null
  const void* norm;     // [inputs], the weight of the norm that x is taken through first, or null
  float eps;            // of that norm
  int64_t outputs;
  int64_t inputs;
  bool gated;           // the outputs are gates and then as many values: the results are silu(gate) * value
};

// x [rows, inputs] -> norm(x) @ weight.T + bias, gated, + residual: [rows, results], rounded once. A row's result does
// not depend on the other rows, their number or the threads, bit for bit.
class Linear {
 public:
  virtual ~Linear() = default;
  virtual void run(Threads& threads, const void* x, int64_t rows, const void* residual, void* out) const = 0;

  // Of float, or of bfloat16, tensors; the weight may be int8.
  static std::unique_ptr<Linear> pack(
      bool is_bfloat16, const LinearParts& parts, WeightMemory& memory, Threads& threads);

 protected:
  explicit Linear(const LinearParts& parts)
      : inputs_(parts.inputs),
        results_(parts.gated ? parts.outputs / 2 : parts.outputs),
        gated_(parts.gated),
        eps_(parts.eps) {}

  const int64_t inputs_;
  const int64_t results_;
  const bool gated_;
  const float eps_;
};

}  // namespace roost
