// A batch's queries, as attention takes them.
#pragma once

#include <cstdint>

namespace roost {

// Rows begin .. begin + tokens of the batch: one sequence's tokens at positions start .. start + tokens, whose block
// table begins at tables[table].
struct Span {
  int64_t begin;
  int64_t tokens;
  int64_t start;
  int64_t table;
};

}  // namespace roost
