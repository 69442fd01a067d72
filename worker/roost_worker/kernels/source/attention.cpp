// Attention of a mixed batch over paged KV: how its work is divided among threads. attention_tile.h has the arithmetic.
#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "attention_tile.h"
#include "int8_kv.h"
#include "kernels.h"

namespace roost {
namespace {

// Query rows that a thread takes against the same keys: enough to read most of them from its own cache.
constexpr int64_t kPieceRows = 8 * kTileRows;
// Work in segments of a tile, some microseconds each, below which threads are not worth waking.
constexpr int64_t kLittleWork = 8;
// Tiles of rows for which int8 numbers are read where they lie; for more they are widened once.
constexpr int64_t kTilesInPlace = 2;
// Pieces for each thread, so that all end at about the same time.
constexpr int64_t kPiecesPerThread = 4;

// Query rows of one sequence and KV head that attend to segments first .. last. A row is one query head of the KV
// head's group, at one token; rows go by tokens, then by heads.
struct Piece {
  const Span* span;
  int64_t kv_head;
  int64_t row;
  int64_t rows;
  int64_t first;
  int64_t last;
  // Where rows' results go by segment, when several pieces share rows' segments (flash-decoding, Dao et al., 2023).
  float* parts;
  std::atomic<int64_t>* unfinished;
};

float* room_for(int64_t floats, std::vector<float>& memory) {
  if (static_cast<int64_t>(memory.size()) < floats) memory.resize(floats);
  return memory.data();
}

// Memory of this thread, kept from call to call.
thread_local std::vector<float> piece_memory, parts_memory, int8_memory;

template <class Format>
class Attention {
 public:
  using Value = typename Format::Value;

  Attention(const Value* query, const PagedKv& kv, int64_t heads, const int64_t* tables, Value* out)
      : query_(query), kv_(kv), heads_(heads), group_(heads / kv.kv_heads), tables_(tables), out_(out) {}

  void run(Threads* threads, const Span* spans, int64_t count) {
    plan(spans, count, threads->count());
    if (work_ < kLittleWork)
      for (const Piece& piece : pieces_) attend(piece);
    else
      threads->run(pieces_.size(), [this](int64_t piece) { attend(pieces_[piece]); });
  }

 private:
  // Divides rows by sequences, KV heads and the size of a piece.
  void plan(const Span* spans, int64_t count, int threads) {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t head = 0; head < kv_.kv_heads; ++head)
        for (int64_t row = 0; row < spans[i].tokens * group_; row += kPieceRows) {
          const int64_t rows = std::min(kPieceRows, spans[i].tokens * group_ - row);
          Piece piece{&spans[i], head, row, rows, 0, 0, nullptr, nullptr};
          piece.last = segments_of(piece);
          pieces_.push_back(piece);
          work_ += piece.last * tiles_of(rows);
        }
    if (threads > 1 && work_ >= kLittleWork) split(work_ / (threads * kPiecesPerThread));
  }

  // Divides pieces with more work than `most`. Results stay the same bits.
  void split(int64_t most) {
    const auto run_of = [&](const Piece& piece) { return std::max<int64_t>(1, most / tiles_of(piece.rows)); };
    int64_t floats = 0, shared = 0;
    for (const Piece& piece : pieces_)
      if (piece.last > run_of(piece)) {
        floats += piece.last * piece.rows * row_floats_;
        ++shared;
      }
    if (shared == 0) return;
    float* parts = room_for(floats, parts_memory);
    unfinished_ = std::make_unique<std::atomic<int64_t>[]>(shared);
    std::atomic<int64_t>* unfinished = unfinished_.get();
    std::vector<Piece> pieces;
    for (Piece piece : pieces_) {
      const int64_t run = run_of(piece), segments = piece.last;
      if (segments > run) {
        piece.parts = parts;
        piece.unfinished = unfinished++;
        piece.unfinished->store((segments + run - 1) / run, std::memory_order_relaxed);
        parts += segments * piece.rows * row_floats_;
      }
      for (piece.first = 0; piece.first < segments; piece.first += run) {
        piece.last = std::min(segments, piece.first + run);
        pieces.push_back(piece);
      }
    }
    pieces_ = std::move(pieces);
  }

  void attend(const Piece& piece) const {
    const int64_t words = kv_.head_dim / Format::kPerWord;
    float* rows = room_for((piece.rows + kTileRows) * row_floats_ + kTileRows * kSegment + piece.rows * words,
                           piece_memory);
    float* tile = rows + piece.rows * row_floats_;
    float* scores = tile + kTileRows * row_floats_;
    auto* queries = reinterpret_cast<uint32_t*>(scores + kTileRows * kSegment);
    // Tiles are of about the same height.
    const int64_t height = (piece.rows + tiles_of(piece.rows) - 1) / tiles_of(piece.rows);
    pack_queries(piece, height, queries);
    for (int64_t row = 0; row < piece.rows; ++row) row_of(rows, row).clear();
    for (int64_t segment = piece.first; segment < piece.last; ++segment)
      with_keys(piece, segment, [&](const auto& keys) {
        for (int64_t row = 0; row < piece.rows; row += height) {
          const int64_t count = std::min(height, piece.rows - row);
          float* into = piece.parts ? piece.parts + (segment * piece.rows + row) * row_floats_ : tile;
          attend_tile(piece, row, count, segment, keys, queries + row * words, scores, into);
          for (int64_t i = 0; i < count && !piece.parts; ++i) merge(row_of(rows, row + i), row_of(into, i), scale_);
        }
      });
    if (piece.parts && !merge_parts(piece, rows)) return;
    for (int64_t row = 0; row < piece.rows; ++row) finish(row_of(rows, row), out_ + place(piece, row));
  }

  // Merges all parts of the rows, if this piece is the last one that shares them.
  bool merge_parts(const Piece& piece, float* rows) const {
    if (piece.unfinished->fetch_sub(1, std::memory_order_acq_rel) != 1) return false;
    for (int64_t segment = 0; segment < segments_of(piece); ++segment)
      for (int64_t row = 0; row < piece.rows; ++row)
        merge(row_of(rows, row), row_of(piece.parts, segment * piece.rows + row), scale_);
    return true;
  }

  // Does `work` with the keys of a segment that any row of the piece attends to.
  template <class Work>
  void with_keys(const Piece& piece, int64_t segment, const Work& work) const {
    const int64_t begin = segment * kSegment;
    const int64_t* blocks = tables_ + piece.span->table + begin / kv_.block_tokens;
    const int64_t count = std::min(kSegment, position(*piece.span, piece.row + piece.rows - 1) + 1 - begin);
    if (kv_.key_scales == nullptr) {
      work(Keys<PlainWords<Format>>{kv_, piece.kv_head, blocks, count});
      return;
    }
    const bool widens = tiles_of(piece.rows) > kTilesInPlace;
    float* memory = room_for(Int8Segment<Format>::floats(kv_.head_dim, widens), int8_memory);
    Int8Segment<Format> int8(memory, kv_.head_dim, widens);
    const auto keys = int8.in_place(kv_, piece.kv_head, blocks, count);
    if (widens)
      work(int8.widened(keys));
    else
      work(keys);
  }

  // What one segment gives to `count` rows of a piece.
  template <class Stored>
  void attend_tile(const Piece& piece, int64_t row, int64_t count, int64_t segment, Keys<Stored> keys,
                   const uint32_t* queries, float* scores, float* into) const {
    const int64_t begin = segment * kSegment;
    keys.count = std::min(keys.count, position(*piece.span, piece.row + row + count - 1) + 1 - begin);
    if (keys.count <= 0) {
      for (int64_t i = 0; i < count; ++i) row_of(into, i).clear();
      return;
    }
    dispatch(count, [&]<int rows>() {
      score<Stored, rows>(keys, queries, scores);
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t attended = std::min(keys.count, position(*piece.span, piece.row + row + i) + 1 - begin);
        weights_of<Format>(scores + i * kSegment, attended, round_up(keys.count, kLanes), scale_, keys.value_scales,
                           row_of(into, i));
      }
      weigh<Stored, rows>(keys, reinterpret_cast<uint32_t*>(scores), into, row_floats_);
    });
  }

  template <class Work>
  static void dispatch(int64_t rows, const Work& work) {
    switch (rows) {
      case 1: return work.template operator()<1>();
      case 2: return work.template operator()<2>();
      case 3: return work.template operator()<3>();
      case 4: return work.template operator()<4>();
#if defined(__AVX512F__)
      case 5: return work.template operator()<5>();
      case 6: return work.template operator()<6>();
#endif
    }
  }

  // Lays out each tile of `height` rows as words [head_dim words][rows].
  void pack_queries(const Piece& piece, int64_t height, uint32_t* to) const {
    const int64_t words = kv_.head_dim / Format::kPerWord;
    for (int64_t first = 0; first < piece.rows; first += height, to += height * words) {
      const int64_t rows = std::min(height, piece.rows - first);
      for (int64_t row = 0; row < rows; ++row) {
        const Value* query = query_ + place(piece, first + row);
        for (int64_t word = 0; word < words; ++word)
          std::memcpy(to + word * rows + row, query + word * Format::kPerWord, sizeof *to);
      }
    }
  }

  void finish(Row row, Value* out) const {
    const float share = 1 / row.sum();
    for (int64_t i = 0; i < kv_.head_dim; ++i) from_float(out + i, row.values()[i] * share);
  }

  // Index of a piece's row in queries and outputs [tokens, heads, head_dim].
  int64_t place(const Piece& piece, int64_t row) const {
    const int64_t token = (piece.row + row) / group_, head = (piece.row + row) % group_;
    return ((piece.span->begin + token) * heads_ + piece.kv_head * group_ + head) * kv_.head_dim;
  }

  int64_t position(const Span& span, int64_t row) const { return span.start + row / group_; }
  Row row_of(float* rows, int64_t row) const { return Row(rows + row * row_floats_, kv_.head_dim); }
  // Up to the position of the last row.
  int64_t segments_of(const Piece& piece) const {
    return position(*piece.span, piece.row + piece.rows - 1) / kSegment + 1;
  }
  static int64_t tiles_of(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

  const Value* query_;
  const PagedKv& kv_;
  const int64_t heads_;
  const int64_t group_;
  const int64_t* tables_;
  Value* out_;
  const int64_t row_floats_ = Row::floats(kv_.head_dim);
  const float scale_ = static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(kv_.head_dim)));
  std::vector<Piece> pieces_;
  std::unique_ptr<std::atomic<int64_t>[]> unfinished_;
  // Segments of tiles, over all pieces.
  int64_t work_ = 0;
};

template <class Format>
void attend(Threads* threads, const void* query, const PagedKv& kv, int64_t heads, const Span* spans, int64_t count,
            const int64_t* tables, void* out) {
  using Value = typename Format::Value;
  Attention<Format>(static_cast<const Value*>(query), kv, heads, tables, static_cast<Value*>(out))
      .run(threads, spans, count);
}

}  // namespace
}  // namespace roost

using namespace roost;

extern "C" int roost_attend(Threads* threads, int is_bfloat16, const void* query, const PagedKv* kv, int64_t heads,
                            const Span* spans, int64_t count, const int64_t* tables, void* out) try {
  (is_bfloat16 ? attend<Bfloat16Words> : attend<FloatWords>)(threads, query, *kv, heads, spans, count, tables, out);
  return 1;
} catch (const std::bad_alloc&) {
  return 0;
}
