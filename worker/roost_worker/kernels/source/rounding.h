// Sizes in whole units.
#pragma once

#include <type_traits>

namespace roost {

// The least multiple of `unit` that is at least `size`.
template <class Integer>
constexpr Integer round_up(Integer size, std::type_identity_t<Integer> unit) {
  return (size + unit - 1) / unit * unit;
}

}  // namespace roost
