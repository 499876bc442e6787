#pragma once
// How products with integers walk over panels, tokens and columns, written once for the sets that have a tile kernel.
// Everything here has internal linkage (see integer_generic.h).
//
// V has: block_tokens, streamed_tokens, block_panels, runs(T), symmetric_zero(bits), widens, and
//   tile<bits, R>(tokens, panel, spacing, layout, weight, group_begin, group_end, ahead, before, totals):
// totals [R, T, 16] = before + groups [group_begin, group_end) of R panels, `spacing` bytes apart, times the T tokens
// of `tokens` (TokenRows or TokenBlock); it may ask for what `ahead` says meanwhile. `before` is kNothing or `totals`.
// If it `widens`, blocks of 4 bits go to
//   widen(codes, bytes, to): the same codes in bytes, in the order of 8 bits
// first, and `tile` need not know them.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "base/buffer.h"
#include "kernels/cpu/integer_kernels.h"

namespace fathom {
namespace {

// Columns that a tile takes in one round of its loop.
constexpr int64_t kUnit = 32;

// A tile's tokens, each somewhere: for weights that stream from memory.
template <int T>
struct TokenRows {
  static constexpr int count = T;
  static constexpr bool streamed = true;
  const int8_t* q[T];
  const float* scales[T];
  int64_t block_rows;        // see OperandView
  const int32_t* begins[T];  // [groups]
  float* y[T];               // the row's first output

  const int8_t* unit(int t, int64_t u) const {
    constexpr int64_t kUnits = kOperandBlock / kUnit;
    return q[t] + u / kUnits * block_rows * kOperandBlock + u % kUnits * kUnit;
  }
  float scale(int t, int64_t group) const { return scales[t][group * block_rows]; }
  int32_t begin(int t, int64_t group) const { return begins[t][group]; }
};

// A tile's tokens side by side in one block of columns: one pointer and constants find everything of them, where as
// many pointers would not fit the registers. Units and groups count from the first that is here.
template <int T>
struct TokenBlock {
  static constexpr int count = T;
  static constexpr bool streamed = false;
  const int8_t* q;        // [T, kOperandBlock]
  const float* scales;    // [groups of 128 columns, scale_step], of which T
  const int32_t* begins;  // [groups of the weight, begin_step], of which T
  int64_t scale_step, begin_step;

  const int8_t* unit(int t, int64_t u) const { return q + t * kOperandBlock + u * kUnit; }
  float scale(int t, int64_t group) const { return scales[group * scale_step + t]; }
  int32_t begin(int t, int64_t group) const { return begins[group * begin_step + t]; }
};

// Runs of lines that a tile of a block can ask for of a panel of the next one.
template <int bits>
constexpr int64_t kRunsOfPanel = bits / 4;

// Runs of memory that a tile asks for into the second-level cache while it multiplies, a line of each for every eight
// columns. Without that the memory would be idle while the later tiles of some panels find them in the cache.
constexpr int64_t kMostRuns = 4;
struct TileAhead {
  const uint8_t* at[kMostRuns];
  int count = 0;
};

// Calls function(integral_constant<int, i>) for i in 0 … n − 1. g++ 12 keeps an array of sums in memory where plain
// loops walk over it (it looks for scalars before it unrolls); with constant indices from the start it does not.
#define FATHOM_INLINED __attribute__((always_inline))
template <int n, class Function>
FATHOM_INLINED inline void unrolled(const Function& function) {
  [&]<int... i>(std::integer_sequence<int, i...>) FATHOM_INLINED {
    (function(std::integral_constant<int, i>()), ...);
  }
  (std::make_integer_sequence<int, n>());
}

// Where sums begin that have nothing before them.
alignas(64) constexpr float kNothing[4 * 8 * kPanelRows] = {};

// The product of many tokens goes by sections of rows, passes of tokens, blocks of columns and then tiles. While tiles
// of tokens pass, four panels of a block stay in the first-level cache (32 KB; of widened ones 16 KB, because what they
// are made of passes as well); the pass's activations of the block (96 KB) and its sums (192 KB) in the second-level
// cache.
template <class V, int bits>
constexpr int64_t kBlockCols = bits == 4 && V::widens ? kOperandBlock / 2 : kOperandBlock;
constexpr int64_t kPassTokens = 192;
constexpr int64_t kSectionRows = 256;

inline void store_panel(const float* totals, int64_t row, int64_t rows, float* y) {
  if (rows - row >= kPanelRows) {
    std::memcpy(y + row, totals, kPanelRows * sizeof(float));  // a register or two, not a call
  } else {
    std::copy_n(totals, rows - row, y + row);
  }
}

// What the integer sum of a group is made of Σ q with: −zero · Σ q where all zeros are the same, Σ q itself where they
// differ.
template <class V>
int32_t begin_factor(const Weight& w) {
  return w.zero_point ? 1 : -V::symmetric_zero(w.bits);
}

// Calls function(integral_constant<n>) for n in 1 … most.
template <int most, class Function>
void with_count(int n, const Function& function) {
  if constexpr (most > 1) {
    if (n < most) return with_count<most - 1>(n, function);
  }
  function(std::integral_constant<int, most>());
}

// `rows` rows from a panel's first on for few tokens, weights from memory: the panels are cut into runs that are read
// side by side, each in the order of the memory.
template <class V, int bits, int T>
void stream_panels(const TokenRows<T>& tokens, const uint8_t* panel, const PanelLayout& layout, const Weight& w,
                   int64_t rows) {
  constexpr int kRuns = V::runs(T);
  const int64_t panels = (rows + kPanelRows - 1) / kPanelRows;
  const int64_t run = panels / kRuns;
  alignas(64) float totals[kRuns * T * kPanelRows];
  const auto store = [&](int r, int64_t p) {
    for (int t = 0; t < T; ++t) store_panel(totals + (r * T + t) * kPanelRows, p * kPanelRows, rows, tokens.y[t]);
  };
  for (int64_t p = 0; p < panels; ++p) {
    const uint8_t* at = panel + static_cast<size_t>(p) * layout.bytes;
    if (p < run) {
      V::template tile<bits, kRuns>(tokens, at, static_cast<size_t>(run) * layout.bytes, layout, w, 0, layout.groups,
                                    {}, kNothing, totals);
      for (int r = 0; r < kRuns; ++r) store(r, p + r * run);
    } else if (p >= kRuns * run) {
      V::template tile<bits, 1>(tokens, at, 0, layout, w, 0, layout.groups, {}, kNothing, totals);
      store(0, p);
    }
  }
}

// The tokens of one call.
struct CallTokens {
  const OperandView* x;
  const int32_t* row_index;
  float* y;
  int64_t y_stride;

  int64_t source(int64_t t) const { return row_index != nullptr ? row_index[t] : t; }
};

template <class V, int bits, int T>
void stream_tokens(const CallTokens& call, const uint8_t* panel, const PanelLayout& layout, const Weight& w,
                   int64_t rows) {
  thread_local Buffer memory;
  auto* begins = reserve<int32_t>(memory, T * layout.groups);
  const int32_t factor = begin_factor<V>(w);
  TokenRows<T> tokens;
  tokens.block_rows = call.x->block_rows;
  for (int t = 0; t < T; ++t) {
    const int64_t source = call.source(t);
    tokens.q[t] = call.x->int8_columns(source, 0);
    tokens.scales[t] = call.x->int8_scales(source);
    tokens.begins[t] = begins + t * layout.groups;
    tokens.y[t] = call.y + t * call.y_stride;
    const int32_t* sums = call.x->int8_sums(source, w.group);
    for (int64_t g = 0; g < layout.groups; ++g) {
      begins[t * layout.groups + g] = factor * sums[g * call.x->block_rows];
    }
  }
  stream_panels<V, bits, T>(tokens, panel, layout, w, rows);
}

// Groups [begin, end) of the weight: a block of columns.
struct BlockGroups {
  int64_t begin, end;
  int64_t first_col, scale_groups;  // groups of 128 columns

  BlockGroups(int64_t begin_group, int64_t end_group, int64_t group)
      : begin(begin_group),
        end(end_group),
        first_col(begin_group * group),
        scale_groups(((end_group - begin_group) * group + 127) / 128) {}
};

// The tokens of a pass in a block of columns, and their totals.
struct Pass {
  int64_t first, size, tiles, each, more;
  TokenBlock<1> tokens;  // all of them from the first on
  float* totals;         // [panels, size, 16]; of the panels of one tile [tile, panel, token of the tile, 16]
  Buffer q, scales, begins, totals_memory;

  // The first tiles have a token more where they cannot all have the same number.
  int64_t tile_begin(int64_t tile) const { return tile * each + std::min(tile, more); }
};

// Tokens of a pass that lie side by side already.
inline void view_tokens(const OperandView& x, const Weight& w, const BlockGroups& block, int32_t factor, Pass& pass) {
  auto* begins = reserve<int32_t>(pass.begins, (block.end - block.begin) * pass.size);
  pass.tokens = {x.int8_columns(pass.first, block.first_col),
                 x.int8_scales(pass.first) + block.first_col / 128 * x.block_rows, begins, x.block_rows, pass.size};
  for (int64_t g = block.begin; g < block.end; ++g, begins += pass.size) {
    const int32_t* sums = x.int8_sums(pass.first, w.group) + g * x.block_rows;
    for (int64_t t = 0; t < pass.size; ++t) begins[t] = factor * sums[t];
  }
}

// Brings the tokens of a pass together.
inline void gather_tokens(const CallTokens& call, const Weight& w, const BlockGroups& block, int32_t factor,
                          Pass& pass) {
  const OperandView& x = *call.x;
  auto* q = reserve<int8_t>(pass.q, pass.size * kOperandBlock);
  auto* scales = reserve<float>(pass.scales, pass.size * block.scale_groups);
  auto* begins = reserve<int32_t>(pass.begins, pass.size * (block.end - block.begin));
  pass.tokens = {q, scales, begins, pass.size, pass.size};
  const int32_t* source = call.row_index + pass.first;
  const auto bytes = static_cast<size_t>(kOperandBlock - block.first_col % kOperandBlock);
  for (int64_t t = 0; t < pass.size; ++t) {
    std::memcpy(q + t * kOperandBlock, x.int8_columns(source[t], block.first_col), bytes);
  }
  for (int64_t g = 0; g < block.scale_groups; ++g) {
    const float* all = x.int8_scales(0) + (block.first_col / 128 + g) * x.block_rows;
    for (int64_t t = 0; t < pass.size; ++t) *scales++ = all[source[t]];
  }
  for (int64_t g = block.begin; g < block.end; ++g) {
    const int32_t* sums = x.int8_sums(0, w.group) + g * x.block_rows;
    for (int64_t t = 0; t < pass.size; ++t) *begins++ = factor * sums[source[t]];
  }
}

// What is met after some panels: the panels of `weight` from `panel` on, and their groups of columns.
struct NextPanels {
  const uint8_t* panel = nullptr;
  const PanelLayout* layout = nullptr;
  int64_t group = 0, groups = 0;  // no groups: not known
};

// The share of tile `tile` in asking for the next R panels, if each tile takes `each` runs of lines. In the course of a
// tile one run is half of a panel's codes of 8 bits, or all of those of 4.
template <int bits, int R>
TileAhead share_of_tile(const NextPanels& next, int64_t tile, int64_t each) {
  TileAhead ahead;
  if (next.groups == 0) return ahead;
  const size_t half = bits == 8 ? static_cast<size_t>(next.groups) * next.layout->group_codes / 2 : 0;
  for (int64_t run = tile * each; run < std::min(kRunsOfPanel<bits> * R, (tile + 1) * each); ++run) {
    const int64_t of_panel = run / kRunsOfPanel<bits>;
    ahead.at[ahead.count++] = next.panel + static_cast<size_t>(of_panel) * next.layout->bytes + next.layout->codes +
                              static_cast<size_t>(next.group) * next.layout->group_codes +
                              static_cast<size_t>(run - of_panel * kRunsOfPanel<bits>) * half;
  }
  return ahead;
}

// Inlined, as all that only prefetch: g++ 12 takes a call of such a function for one that does nothing and drops it.
FATHOM_INLINED inline void ask_for(const uint8_t* begin, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(begin + i, 0, 2);
}

// Asks at once for the scales and zeros of the next panels, a few lines.
FATHOM_INLINED inline void ask_for_scales(const NextPanels& next, int64_t panels) {
  if (next.groups == 0) return;
  for (int64_t p = 0; p < panels; ++p) {
    const uint8_t* at = next.panel + static_cast<size_t>(p) * next.layout->bytes;
    ask_for(at + 2 * next.group * kPanelRows, 2 * next.groups * kPanelRows);
    if (next.layout->codes > next.layout->zeros) {
      ask_for(at + next.layout->zeros + next.group * kPanelRows, next.groups * kPanelRows);
    }
  }
}

// R panels of a block with codes of 4 bits as panels of 8 bits that have only the block's groups.
template <class V, int R>
const uint8_t* widen_panels(const uint8_t* panel, const PanelLayout& layout, const BlockGroups& block,
                            PanelLayout& wide) {
  constexpr int64_t kCols = kBlockCols<V, 4>;
  constexpr int64_t kMostGroups = kCols / 32;
  alignas(64) thread_local uint8_t memory[R * kPanelRows * (kCols + 3 * kMostGroups)];
  wide.groups = block.end - block.begin;
  wide.group_codes = 2 * layout.group_codes;
  wide.zeros = 2 * kPanelRows * kMostGroups;
  wide.codes = wide.zeros + kPanelRows * kMostGroups;
  wide.bytes = sizeof(memory) / R;
  const auto groups = static_cast<size_t>(wide.groups);
  const auto first = static_cast<size_t>(block.begin);
  for (size_t r = 0; r < R; ++r, panel += layout.bytes) {
    uint8_t* to = memory + r * wide.bytes;
    std::memcpy(to, panel + first * 2 * kPanelRows, groups * 2 * kPanelRows);
    if (layout.codes > layout.zeros) {
      std::memcpy(to + wide.zeros, panel + layout.zeros + first * kPanelRows, groups * kPanelRows);
    }
    V::widen(panel + layout.codes + first * layout.group_codes, groups * layout.group_codes, to + wide.codes);
  }
  return memory;
}

// A block of columns of R panels, the rows from `row` of `rows` on, times all tokens of the pass. `last`: the totals
// are complete and go to y.
template <class V, int bits, int R>
void block_panels(const CallTokens& call, const Pass& pass, const uint8_t* panel, const PanelLayout& layout,
                  const Weight& w, int64_t row, int64_t rows, const BlockGroups& block, const NextPanels& next,
                  bool last) {
  constexpr bool widens = bits == 4 && V::widens;
  ask_for_scales(next, R);
  PanelLayout used = layout;
  int64_t group = block.begin;
  if constexpr (widens) {
    panel = widen_panels<V, R>(panel, layout, block, used);
    group = 0;
  }
  const int64_t group_end = group + block.end - block.begin;
  const TokenBlock<1>& all = pass.tokens;
  float* of_panels = pass.totals + row * pass.size;
  const int64_t each = std::min<int64_t>((kRunsOfPanel<bits> * R + pass.tiles - 1) / pass.tiles, kMostRuns);
  for (int64_t tile = 0; tile < pass.tiles; ++tile) {
    const int64_t begin = pass.tile_begin(tile);
    const auto count = static_cast<int>(pass.tile_begin(tile + 1) - begin);
    float* totals = of_panels + begin * R * kPanelRows;
    const TileAhead ahead = share_of_tile<bits, R>(next, tile, each);
    float* y = call.y + (pass.first + begin) * call.y_stride + row;
    for (int64_t t = 0; last && t < count; ++t) {
      for (int64_t r = 0; r < R; ++r) __builtin_prefetch(y + t * call.y_stride + r * kPanelRows, 1);
    }
    with_count<V::block_tokens>(count, [&](auto T) {
      const TokenBlock<decltype(T)::value> tokens = {all.q + begin * kOperandBlock, all.scales + begin,
                                                     all.begins + begin, all.scale_step, all.begin_step};
      V::template tile<widens ? 8 : bits, R>(tokens, panel, used.bytes, used, w, group, group_end, ahead,
                                             block.begin == 0 ? kNothing : totals, totals);
    });
    if (!last) continue;
    for (int t = 0; t < count; ++t, y += call.y_stride) {
      for (int r = 0; r < R; ++r) store_panel(totals + (r * count + t) * kPanelRows, r * kPanelRows, rows - row, y);
    }
  }
}

// A section of `rows` rows for many tokens, `following` what comes after it.
template <class V, int bits>
void multiply_section(const CallTokens& call, int64_t T, const uint8_t* panel, const PanelLayout& layout,
                      const Weight& w, int64_t rows, const NextPanels& following) {
  constexpr int R = V::block_panels;
  const int64_t block_groups = kBlockCols<V, bits> / w.group;
  const int64_t panels = (rows + kPanelRows - 1) / kPanelRows;
  const int64_t passes = (T + kPassTokens - 1) / kPassTokens;
  const int32_t factor = begin_factor<V>(w);
  thread_local Pass pass;
  for (int64_t i = 0; i < passes; ++i) {
    pass.first = i * T / passes;
    pass.size = (i + 1) * T / passes - pass.first;
    pass.tiles = (pass.size + V::block_tokens - 1) / V::block_tokens;
    pass.each = pass.size / pass.tiles;
    pass.more = pass.size % pass.tiles;
    pass.totals = reserve<float>(pass.totals_memory, pass.size * panels * kPanelRows);
    for (int64_t g = 0; g < layout.groups; g += block_groups) {
      const BlockGroups block(g, std::min(layout.groups, g + block_groups), w.group);
      const bool last = block.end == layout.groups;
      if (call.row_index == nullptr) {
        view_tokens(*call.x, w, block, factor, pass);
      } else {
        gather_tokens(call, w, block, factor, pass);
      }
      for (int64_t p = 0; p < panels;) {
        const int64_t count = p + R <= panels ? R : 1;
        // The next panels of these columns; then the first ones with the next columns, or in the next pass again with
        // the first (long rows leave the cache in a pass, and asking for what is there is cheap); or what follows.
        NextPanels next = following;
        if (p + count < panels) {
          next = {panel + static_cast<size_t>(p + count) * layout.bytes, &layout, g, block.end - g};
        } else if (!last || i + 1 < passes) {
          const int64_t group = last ? 0 : block.end;
          next = {panel, &layout, group, std::min(layout.groups - group, block_groups)};
        }
        next.groups = std::min(next.groups, block.end - g);
        const uint8_t* at = panel + static_cast<size_t>(p) * layout.bytes;
        if (count == R) {
          block_panels<V, bits, R>(call, pass, at, layout, w, p * kPanelRows, rows, block, next, last);
        } else {
          block_panels<V, bits, 1>(call, pass, at, layout, w, p * kPanelRows, rows, block, next, last);
        }
        p += count;
      }
    }
  }
}

// For a product that streams: asks for what it reads first, the heads of its runs of panels.
template <class V>
FATHOM_INLINED inline void ask_for_streams(const NextRows& next, const PanelLayout& layout, int64_t T) {
  constexpr int64_t kBytes = 2048;
  const int runs = V::runs(static_cast<int>(T));
  const int64_t run = (next.end - next.begin) / kPanelRows / runs;
  for (int r = 0; r < runs; ++r) {
    const uint8_t* panel = reinterpret_cast<const uint8_t*>(next.weight->data) +
                           static_cast<size_t>(next.begin / kPanelRows + r * run) * layout.bytes;
    for (size_t i = 0; i < layout.codes + kBytes; i += 64) __builtin_prefetch(panel + i);
  }
}

template <class V, int bits>
void linear_tiles_bits(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                       int64_t row_end, float* y, int64_t y_stride, const NextRows& next) {
  const PanelLayout layout = panel_layout(integer_format(w), w.cols);
  const auto* panel =
      reinterpret_cast<const uint8_t*>(w.data) + static_cast<size_t>(row_begin / kPanelRows) * layout.bytes;
  const int64_t rows = row_end - row_begin;
  const bool next_known = next.weight != nullptr && next.weight->data != nullptr && next.weight->bits == bits &&
                          next.weight->group == w.group && next.begin < next.end;
  PanelLayout next_layout;
  if (next_known) next_layout = panel_layout(integer_format(*next.weight), next.weight->cols);
  if (T <= V::streamed_tokens) {
    if (next_known) ask_for_streams<V>(next, next_layout, T);
    const CallTokens call = {&x, row_index, y, y_stride};
    return with_count<V::streamed_tokens>(static_cast<int>(T), [&](auto count) {
      stream_tokens<V, bits, decltype(count)::value>(call, panel, layout, w, rows);
    });
  }
  for (int64_t row = 0; row < rows; row += kSectionRows) {
    const int64_t count = std::min(kSectionRows, rows - row);
    const uint8_t* at = panel + static_cast<size_t>(row / kPanelRows) * layout.bytes;
    NextPanels following;
    if (row + count < rows) {
      following = {at + static_cast<size_t>(count / kPanelRows) * layout.bytes, &layout, 0, layout.groups};
    } else if (next_known) {
      following = {reinterpret_cast<const uint8_t*>(next.weight->data) +
                       static_cast<size_t>(next.begin / kPanelRows) * next_layout.bytes,
                   &next_layout, 0, next_layout.groups};
    }
    const CallTokens call = {&x, row_index, y + row, y_stride};
    multiply_section<V, bits>(call, T, at, layout, w, count, following);
  }
}

template <class V>
void linear_tiles(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                  int64_t row_end, float* y, int64_t y_stride, const NextRows& next) {
  if (w.bits == 8) {
    linear_tiles_bits<V, 8>(x, row_index, T, w, row_begin, row_end, y, y_stride, next);
  } else {
    linear_tiles_bits<V, 4>(x, row_index, T, w, row_begin, row_end, y, y_stride, next);
  }
}

}  // namespace
}  // namespace fathom
