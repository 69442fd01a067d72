// From the fused projection to rotated queries, and to keys and values in their places.
#include "rotary.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <vector>

#include "int8_kv.h"
#include "kernels.h"
#include "words.h"

namespace roost {
namespace {

// Tokens that a thread takes at a time.
constexpr int64_t kPieceTokens = 8;

// One head of one token, in floats.
template <class Value>
class Head {
 public:
  explicit Head(int64_t size) : size_(size), numbers_(size), rotated_(size) {}

  float operator[](int64_t i) const { return numbers_[i]; }
  const float* numbers() const { return numbers_.data(); }

  void read(const Value* from) {
    for (int64_t i = 0; i < size_; ++i) numbers_[i] = to_float(from[i]);
  }

  void norm(const Value* weight, float eps) {
    Floats squares{};
    int64_t i = 0;
    for (; i + kLanes <= size_; i += kLanes) squares = fused(squares, load(&numbers_[i]), load(&numbers_[i]));
    float rest = 0;
    for (; i < size_; ++i) rest += numbers_[i] * numbers_[i];
    const float scale = 1 / std::sqrt((sum(squares) + rest) / static_cast<float>(size_) + eps);
    for (i = 0; i < size_; ++i) numbers_[i] *= scale * to_float(weight[i]);
  }

  // Dimension i turns with dimension i + size / 2.
  void rotate(const Value* cos, const Value* signed_sin) {
    const int64_t half = size_ / 2;
    const auto turn = [&](int64_t i, int64_t partner) {
      rotated_[i] = numbers_[i] * to_float(cos[i]) + numbers_[partner] * to_float(signed_sin[i]);
    };
    for (int64_t i = 0; i < half; ++i) turn(i, i + half);
    for (int64_t i = half; i < size_; ++i) turn(i, i - half);
    numbers_.swap(rotated_);
  }

 private:
  int64_t size_;
  std::vector<float> numbers_;
  std::vector<float> rotated_;
};

template <class Format>
class HeadWriter {
 public:
  using Value = typename Format::Value;

  HeadWriter(const Projected& projected, const PagedKv& kv, void* query)
      : from_(projected), kv_(kv), query_(static_cast<Value*>(query)), head_(kv.head_dim) {}

  void write(int64_t token) {
    const int64_t size = kv_.head_dim;
    const Value* head = static_cast<const Value*>(from_.qkv) + token * (from_.heads + 2 * kv_.kv_heads) * size;
    Value* query = query_ + token * from_.heads * size;
    const float scale = from_.query_scale ? to_float(static_cast<const Value*>(from_.query_scale)[token]) : 1.0f;
    for (int64_t i = 0; i < from_.heads; ++i, head += size, query += size) {
      read(head, from_.query_norm, token);
      for (int64_t d = 0; d < size; ++d) from_float(query + d, head_[d] * scale);
    }
    const int64_t block = from_.blocks[token], offset = from_.offsets[token];
    for (int64_t i = 0; i < kv_.kv_heads; ++i, head += size) {
      read(head, from_.key_norm, token);
      store(kv_.keys, kv_.key_scales, block, offset, i, [&](int64_t d) { return key_index<Format>(kv_, offset, d); });
    }
    for (int64_t i = 0; i < kv_.kv_heads; ++i, head += size) {
      head_.read(head);
      store(kv_.values, kv_.value_scales, block, offset, i,
            [&](int64_t d) { return value_index<Format>(kv_, offset, d); });
    }
  }

 private:
  // Stores head_ as the key or value of one token and KV head, whose dimension d has the index index(d).
  template <class Index>
  void store(void* side, void* scales, int64_t block, int64_t offset, int64_t head, const Index& index) {
    if (scales != nullptr) {
      scales_of_block(kv_, scales, block, head)[offset] =
          round_to_int8(head_.numbers(), kv_.head_dim, head_of_block<int8_t>(kv_, side, block, head), index);
      return;
    }
    Value* to = head_of_block<Value>(kv_, side, block, head);
    for (int64_t d = 0; d < kv_.head_dim; ++d) from_float(to + index(d), head_[d]);
  }

  void read(const Value* head, const void* norm, int64_t token) {
    head_.read(head);
    if (norm != nullptr) head_.norm(static_cast<const Value*>(norm), from_.eps);
    const int64_t row = token * kv_.head_dim;
    if (from_.cos != nullptr)
      head_.rotate(static_cast<const Value*>(from_.cos) + row, static_cast<const Value*>(from_.signed_sin) + row);
  }

  const Projected& from_;
  const PagedKv& kv_;
  Value* query_;
  Head<Value> head_;
};

template <class Format>
void write_heads(Threads* threads, const Projected& projected, const PagedKv& kv, void* query) {
  const int64_t pieces = (projected.tokens + kPieceTokens - 1) / kPieceTokens;
  threads->run(pieces, [&](int64_t piece) {
    HeadWriter<Format> writer(projected, kv, query);
    const int64_t end = std::min(projected.tokens, (piece + 1) * kPieceTokens);
    for (int64_t token = piece * kPieceTokens; token < end; ++token) writer.write(token);
  });
}

}  // namespace
}  // namespace roost

using namespace roost;

extern "C" int roost_write_heads(Threads* threads, int is_bfloat16, const Projected* projected, const PagedKv* kv,
                                 void* query) try {
  (is_bfloat16 ? write_heads<Bfloat16Words> : write_heads<FloatWords>)(threads, *projected, *kv, query);
  return 1;
} catch (const std::bad_alloc&) {
  return 0;
}
