#include "linear.h"

#include <algorithm>
#include <new>
#include <type_traits>
#include <vector>

#include "exponential.h"
#include "int8_panel.h"
#include "kernels.h"
#include "norm.h"
#include "panel.h"
#include "rounding.h"

namespace roost {
namespace {

// Rows of a piece: sums of one panel for so many rows are kept on the stack.
constexpr int64_t kPieceRows = 8 * kTileRows;
// Inputs of a panel that several tiles of rows are multiplied with in turn: 128 KiB of floats, which stay in the second
// cache.
constexpr int64_t kBlockInputs = 1024;
// Tiles of rows for which an int8 weight is as well converted in each of them.
constexpr int64_t kFewTiles = 4;
// Words that a piece multiplies with, counted once for each tile of rows: some microseconds. What is fetched ahead at
// its end is another thread's.
constexpr int64_t kPieceWords = 65536;

static_assert(kPanel == 2 * kLanes, "a gated panel holds as many gates as a vector has lanes, and as many values");

struct Range {
  int64_t begin;
  int64_t end;

  int64_t size() const { return end - begin; }
};

// The part `index` of `total` things in `parts` parts that are as large as each other, or larger by one.
Range part_of(int64_t total, int64_t parts, int64_t index) {
  return {total * index / parts, total * (index + 1) / parts};
}

template <class Value>
struct Rows {
  const Value* begin;
  int64_t stride;
};

template <class Value>
void convert(Value from, Value* to) {
  *to = from;
}

[[maybe_unused]] void convert(Bfloat16 from, float* to) { *to = to_float(from); }

// x / (1 + e^-x), by powers that are not greater than 1.
Floats silu(Floats x) {
  constexpr float kLog2E = 1.44269504f;
  const Floats power = exp2((x < 0 ? x : -x) * kLog2E);
  return x * (x < 0 ? power : broadcast(1)) / (1 + power);
}

template <class Value>
void write(Floats values, int64_t count, const Value* residual, Value* out) {
  if (count >= kLanes) {
    store(out, residual ? values + load(residual) : values);
    return;
  }
  for (int64_t i = 0; i < count; ++i) from_float(out + i, residual ? values[i] + to_float(residual[i]) : values[i]);
}

template <class Panel>
class PackedLinear final : public Linear {
  using Value = typename Panel::Value;
  using Weight = typename Panel::Weight;
  using Input = typename Panel::Input;
  static constexpr bool kIsScaled = std::is_same_v<Weight, int8_t>;

 public:
  PackedLinear(const LinearParts& parts, WeightMemory& memory, Threads& threads)
      : Linear(parts),
        steps_(round_up(inputs_, Panel::kInputs) / Panel::kInputs),
        panels_(round_up(results_, panel_results()) / panel_results()),
        words_(static_cast<uint32_t*>(memory.take(panels_ * steps_ * kPanel * sizeof(uint32_t)))),
        bias_(panels_ * kPanel),
        scales_(kIsScaled ? panels_ * kPanel : 0) {
    const Value* const norm = static_cast<const Value*>(parts.norm);
    if (norm) norm_.assign(norm, norm + inputs_);
    const Value* const bias = static_cast<const Value*>(parts.bias);
    threads.run(panels_, [&](int64_t panel) {
      pack_panel(static_cast<const Weight*>(parts.weight), panel);
      for (int column = 0; column < kPanel; ++column) {
        const int64_t output = output_of(panel, column);
        if (output < 0) continue;
        if (bias) bias_[panel * kPanel + column] = to_float(bias[output]);
        if (kIsScaled) scales_[panel * kPanel + column] = parts.scales[output];
      }
    });
  }

  void run(Threads& threads, const void* x, int64_t rows, const void* residual, void* out) const override {
    if (rows == 0) return;
    const Rows<Input> inputs = prepare(threads, static_cast<const Value*>(x), rows);
    const int64_t chunks = round_up(rows, kPieceRows) / kPieceRows;
    const int64_t tiles = round_up(round_up(rows, chunks) / chunks, kTileRows) / kTileRows;
    const int64_t pieces = round_up(panels_ * steps_ * kPanel * tiles, kPieceWords) / kPieceWords;
    const int64_t groups = std::min(panels_, round_up(pieces, threads.count()));
    threads.run(groups * chunks, [&](int64_t piece) {
      const Range panels = part_of(panels_, groups, piece / chunks);
      const Range chunk = part_of(rows, chunks, piece % chunks);
      for (int64_t panel = panels.begin; panel < panels.end; ++panel)
        multiply_panel(panel, inputs, chunk, static_cast<const Value*>(residual), static_cast<Value*>(out));
    });
  }

 private:
  int64_t panel_results() const { return gated_ ? kLanes : kPanel; }

  // The row of the weight that a panel's column holds, or -1.
  int64_t output_of(int64_t panel, int column) const {
    const int64_t result = panel * panel_results() + column % panel_results();
    if (result >= results_) return -1;
    return column < panel_results() ? result : results_ + result;
  }

  void pack_panel(const Weight* weight, int64_t panel) {
    Weight* const values = reinterpret_cast<Weight*>(words_ + panel * steps_ * kPanel);
    for (int column = 0; column < kPanel; ++column) {
      const int64_t output = output_of(panel, column);
      if (output < 0) continue;
      for (int64_t input = 0; input < inputs_; ++input)
        values[(input / Panel::kInputs * kPanel + column) * Panel::kInputs + input % Panel::kInputs] =
            weight[output * inputs_ + input];
    }
  }

  // The rows as panels multiply them: after the norm, with inputs for whole steps, as floats where panels want floats.
  Rows<Input> prepare(Threads& threads, const Value* x, int64_t rows) const {
    static thread_local std::vector<Value> normed_rows;
    static thread_local std::vector<Input> padded_rows;
    if (!norm_.empty()) {
      normed_rows.resize(rows * inputs_);
      Value* const normed = normed_rows.data();
      const Value* const before = x;
      threads.run(rows, [&](int64_t row) {
        norm_row(before + row * inputs_, norm_.data(), inputs_, eps_, normed + row * inputs_);
      });
      x = normed;
    }
    const int64_t stride = steps_ * Panel::kInputs;
    if constexpr (std::is_same_v<Value, Input>)
      if (stride == inputs_) return {x, stride};
    padded_rows.resize(rows * stride);
    Input* const padded = padded_rows.data();
    threads.run(rows, [&](int64_t row) {
      for (int64_t i = 0; i < inputs_; ++i) convert(x[row * inputs_ + i], padded + row * stride + i);
      for (int64_t i = inputs_; i < stride; ++i) padded[row * stride + i] = Input{};
    });
    return {padded, stride};
  }

  void multiply_panel(int64_t panel, Rows<Input> inputs, Range chunk, const Value* residual, Value* out) const {
    alignas(64) float sums[kPieceRows * kPanel];
    const uint32_t* const words = words_ + panel * steps_ * kPanel;
    const Rows<Input> rows{inputs.begin + chunk.begin * inputs.stride, inputs.stride};
    if (chunk.size() <= kTileRows)
      multiply_tiles<Panel>(rows, chunk.size(), 0, words, steps_, sums);
    else
      multiply_blocks(rows, chunk.size(), words, sums);
    for (int64_t row = 0; row < chunk.size(); ++row) {
      const int64_t begin = (chunk.begin + row) * results_ + panel * panel_results();
      finish(sums + row * kPanel, panel, residual ? residual + begin : nullptr, out + begin);
    }
  }

  // Multiplies blocks of a panel that stay in a cache while tiles of rows take their turns.
  void multiply_blocks(Rows<Input> inputs, int64_t rows, const uint32_t* words, float* sums) const {
    const int64_t most = kBlockInputs / Panel::kInputs;
    for (int64_t step = 0; step < steps_; step += most) {
      const int64_t steps = std::min(most, steps_ - step);
      const uint32_t* const block = words + step * kPanel;
      if constexpr (kIsScaled) {
        if (rows <= kFewTiles * kTileRows) {
          multiply_tiles<Panel>(inputs, rows, step, block, steps, sums);
          continue;
        }
        using Widened = typename Panel::Widened;
        constexpr int64_t kRatio = Panel::kInputs / Widened::kInputs;
        static thread_local std::vector<uint32_t> widened(kBlockInputs / Widened::kInputs * kPanel);
        Panel::widen(block, steps, widened.data());
        multiply_tiles<Widened>(inputs, rows, step * kRatio, widened.data(), steps * kRatio, sums);
      } else {
        multiply_tiles<Panel>(inputs, rows, step, block, steps, sums);
      }
    }
  }

  // Adds what `steps` steps from `first` on give to the sums [rows][kPanel], which begin with step 0.
  template <class Multiplied>
  static void multiply_tiles(Rows<Input> inputs, int64_t rows, int64_t first, const uint32_t* words, int64_t steps,
                             float* sums) {
    const int64_t tiles = round_up(rows, kTileRows) / kTileRows;
    for (int64_t index = 0; index < tiles; ++index) {
      const Range tile = part_of(rows, tiles, index);
      const Input* const x = inputs.begin + tile.begin * inputs.stride + first * Multiplied::kInputs;
      kMultiply<Multiplied>[tile.size() - 1](x, inputs.stride, words, steps, first > 0, sums + tile.begin * kPanel);
    }
  }

  // Writes a row's results of one panel from its sums.
  void finish(const float* sums, int64_t panel, const Value* residual, Value* out) const {
    const float* const bias = bias_.data() + panel * kPanel;
    const int64_t count = results_ - panel * panel_results();
    Floats first = load(sums), second = load(sums + kLanes);
    if constexpr (kIsScaled) {
      first *= load(scales_.data() + panel * kPanel);
      second *= load(scales_.data() + panel * kPanel + kLanes);
    }
    first += load(bias);
    second += load(bias + kLanes);
    if (gated_) return write(silu(first) * second, count, residual, out);
    write(first, count, residual, out);
    write(second, count - kLanes, residual ? residual + kLanes : nullptr, out + kLanes);
  }

  const int64_t steps_;
  const int64_t panels_;
  uint32_t* const words_;
  std::vector<float> bias_;
  std::vector<float> scales_;
  std::vector<Value> norm_;
};

}  // namespace

std::unique_ptr<Linear> Linear::pack(
    bool is_bfloat16, const LinearParts& parts, WeightMemory& memory, Threads& threads) {
  if (parts.scales && is_bfloat16) return std::make_unique<PackedLinear<Int8Bfloat16Panel>>(parts, memory, threads);
  if (parts.scales) return std::make_unique<PackedLinear<Int8AsFloatPanel<float>>>(parts, memory, threads);
  if (is_bfloat16) return std::make_unique<PackedLinear<Bfloat16Panel>>(parts, memory, threads);
  return std::make_unique<PackedLinear<FloatPanel>>(parts, memory, threads);
}

}  // namespace roost

using namespace roost;

extern "C" WeightMemory* roost_weights_new() { return new WeightMemory; }

extern "C" void roost_weights_free(WeightMemory* memory) { delete memory; }

extern "C" Linear* roost_linear_new(Threads* threads, WeightMemory* memory, int is_bfloat16, const void* weight,
                                    const float* scales, const void* bias, const void* norm, float eps,
                                    int64_t outputs, int64_t inputs, int gated) try {
  const LinearParts parts{weight, scales, bias, norm, eps, outputs, inputs, gated != 0};
  return Linear::pack(is_bfloat16 != 0, parts, *memory, *threads).release();
} catch (const std::bad_alloc&) {
  return nullptr;
}

extern "C" void roost_linear_free(Linear* linear) { delete linear; }

extern "C" int roost_linear(
    Threads* threads, const Linear* linear, const void* x, int64_t rows, const void* residual, void* out) try {
  linear->run(*threads, x, rows, residual, out);
  return 1;
} catch (const std::bad_alloc&) {
  return 0;
}
