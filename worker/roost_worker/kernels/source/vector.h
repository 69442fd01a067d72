// Sixteen floats at a time, in the compiler's own vectors: they become the widest registers that the processor has.
#pragma once

#include <cstdint>
#include <cstring>

namespace roost {

constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int16_t Shorts __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));
typedef int8_t Bytes __attribute__((vector_size(kLanes), aligned(1), may_alias));

// A bfloat16: the upper half of a float.
struct Bfloat16 {
  uint16_t bits;
};

inline Floats load(const float* from) { return *reinterpret_cast<const Floats*>(from); }

inline Floats load(const Bfloat16* from) {
  const Words words = __builtin_convertvector(*reinterpret_cast<const Halves*>(from), Words) << 16;
  return reinterpret_cast<const Floats&>(words);
}

inline void store(float* to, Floats values) { *reinterpret_cast<Floats*>(to) = values; }

// Rounds to nearest, ties to even, as torch does. Infinities stay; a NaN stays one.
inline void store(Bfloat16* to, Floats values) {
  Words words = reinterpret_cast<const Words&>(values);
  const Words rounded = words + 0x7fff + ((words >> 16) & 1);
  const Words quiet = words | 0x400000;
  const auto nan = (words & 0x7fffffff) > 0x7f800000;
  words = nan ? quiet : rounded;
  *reinterpret_cast<Halves*>(to) = __builtin_convertvector(words >> 16, Halves);
}

inline float to_float(float value) { return value; }

inline float to_float(Bfloat16 value) {
  const uint32_t word = uint32_t{value.bits} << 16;
  float wide;
  std::memcpy(&wide, &word, sizeof wide);
  return wide;
}

inline void from_float(float* to, float value) { *to = value; }

inline void from_float(Bfloat16* to, float value) {
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  const bool nan = (word & 0x7fffffff) > 0x7f800000;
  to->bits = static_cast<uint16_t>((nan ? word | 0x400000 : word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

inline Floats broadcast(float value) { return Floats{} + value; }

// The sum of all lanes, always in the same order.
inline float sum(Floats values) {
  float lanes[kLanes];
  store(lanes, values);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  return lanes[0];
}

}  // namespace roost
