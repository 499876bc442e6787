#pragma once
// How products with integers walk over panels, tokens and columns, written once for the sets that have a tile kernel.
// Everything here has internal linkage (see integer_generic.h).
//
// V has: max_tokens, streamed_tokens, cached_panels, runs(T), and
//   tile<bits, R, T, streamed>(tokens, panel, spacing, layout, weight, group_begin, group_end, ahead, totals):
// adds groups [group_begin, group_end) of R panels, `spacing` bytes apart, times T tokens to totals [R, T, 16], and
// may ask for what `ahead` says meanwhile.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "base/buffer.h"
#include "kernels/cpu/integer_kernels.h"

namespace fathom {
namespace {

constexpr int kMaxTileTokens = 12;

// The tokens of a tile.
struct TileTokens {
  const int8_t* q[kMaxTileTokens];
  const float* scales[kMaxTileTokens];
  const int32_t* sums[kMaxTileTokens];    // of the values of each group
  const int32_t* starts[kMaxTileTokens];  // −zero · these sums, where all groups have the same zero
  float* y[kMaxTileTokens];               // the row's first output
};

// Runs of memory that a tile asks for into the second-level cache while it multiplies, a line of each for every eight
// columns. Without that the memory would be idle while a block's second and later tiles find it in the cache.
struct TileAhead {
  const uint8_t* at[4];
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

// Columns of a block of the cached product, and tokens that pass while they are met: a tile's activations of a block
// (24 KB) stay in the first-level cache while the panels pass, the tokens' (384 KB) and the panels' (256 KB of 128
// rows) in the second-level cache.
constexpr int64_t kBlockCols = 2048;
constexpr int64_t kPassTokens = 192;

// Copies what of a panel lies within `rows`; whole panels are a register or two, not a call.
inline void copy_panel(const float* from, int64_t row, int64_t rows, float* to) {
  if (rows - row >= kPanelRows) {
    std::memcpy(to, from, kPanelRows * sizeof(float));
  } else {
    std::copy_n(from, rows - row, to);
  }
}

inline void store_panel(const float* totals, int tokens, int64_t row, int64_t rows, const TileTokens& to) {
  for (int t = 0; t < tokens; ++t) copy_panel(totals + t * kPanelRows, row, rows, to.y[t] + row);
}

// `rows` rows from a panel's first on for few tokens, weights from memory: the panels are cut into runs that are read
// side by side, each in the order of the memory.
template <class V, int bits, int T>
void stream_panels(const TileTokens& tokens, const uint8_t* panel, const PanelLayout& layout, const Weight& w,
                   int64_t rows) {
  constexpr int kRuns = V::runs(T);
  const int64_t panels = (rows + kPanelRows - 1) / kPanelRows;
  const int64_t run = panels / kRuns;
  alignas(64) float totals[kRuns * T * kPanelRows];
  for (int64_t p = 0; p < panels; ++p) {
    const uint8_t* at = panel + static_cast<size_t>(p) * layout.bytes;
    if (p < run) {
      std::memset(totals, 0, sizeof(totals));
      V::template tile<bits, kRuns, T, true>(tokens, at, static_cast<size_t>(run) * layout.bytes, layout, w, 0,
                                             layout.groups, {}, totals);
      for (int r = 0; r < kRuns; ++r) {
        store_panel(totals + r * T * kPanelRows, T, (p + r * run) * kPanelRows, rows, tokens);
      }
    } else if (p >= kRuns * run) {
      std::memset(totals, 0, sizeof(totals));
      V::template tile<bits, 1, T, true>(tokens, at, 0, layout, w, 0, layout.groups, {}, totals);
      store_panel(totals, T, p * kPanelRows, rows, tokens);
    }
  }
}

inline void load_panel(float* totals, int tokens, int64_t row, int64_t rows, const TileTokens& from) {
  for (int t = 0; t < tokens; ++t) copy_panel(from.y[t] + row, row, rows, totals + t * kPanelRows);
}

// The block of panels that is met next: its first panel and groups of columns. No groups: none is known.
struct NextBlock {
  const uint8_t* panel = nullptr;
  int64_t group = 0, groups = 0;
};

// The share of tile `tile` of `tiles` in asking for `R` panels of the next block. In the course of a tile one run of
// lines is half of a panel's codes of 8 bits, or all of those of 4.
template <int bits, int R>
TileAhead share_of_tile(const NextBlock& next, size_t panel, const PanelLayout& layout, int64_t tile, int64_t tiles) {
  constexpr int64_t kRuns = R * bits / 4;
  TileAhead ahead;
  if (next.groups == 0) return ahead;
  const int64_t each = (kRuns + tiles - 1) / tiles;
  const size_t half = bits == 8 ? static_cast<size_t>(next.groups) * layout.group_codes / 2 : 0;
  for (int64_t run = tile * each; run < std::min(kRuns, (tile + 1) * each); ++run) {
    const int64_t of_panel = bits == 8 ? run / 2 : run;
    ahead.at[ahead.count++] = next.panel + (panel + static_cast<size_t>(of_panel)) * layout.bytes + layout.codes +
                              static_cast<size_t>(next.group) * layout.group_codes +
                              static_cast<size_t>(run - of_panel * (bits / 4)) * half;
  }
  return ahead;
}

inline void ask_for(const uint8_t* begin, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(begin + i, 0, 2);
}

// Asks at once for the scales and zeros of a panel of the next block, a few lines.
inline void ask_for_scales(const NextBlock& next, size_t panel, const PanelLayout& layout, const Weight& w) {
  const uint8_t* at = next.panel + panel * layout.bytes;
  ask_for(at + 2 * next.group * kPanelRows, 2 * next.groups * kPanelRows);
  if (w.zero_point) ask_for(at + layout.zeros + next.group * kPanelRows, next.groups * kPanelRows);
}

// Groups [begin, end) of `rows` rows for tile `tile` of `tiles` of many tokens: the outputs go on from the groups
// before.
template <class V, int bits, int T>
void cached_panels(const TileTokens& tokens, const uint8_t* panel, const PanelLayout& layout, const Weight& w,
                   int64_t rows, int64_t begin, int64_t end, const NextBlock& next, int64_t tile, int64_t tiles) {
  constexpr int R = V::cached_panels;
  const int64_t panels = (rows + kPanelRows - 1) / kPanelRows;
  alignas(64) float totals[R * T * kPanelRows];
  for (int64_t p = 0; p < panels;) {
    const int64_t count = p + R <= panels ? R : 1;
    std::memset(totals, 0, sizeof(totals));
    for (int64_t r = 0; begin > 0 && r < count; ++r) {
      load_panel(totals + r * T * kPanelRows, T, (p + r) * kPanelRows, rows, tokens);
    }
    const uint8_t* at = panel + static_cast<size_t>(p) * layout.bytes;
    // The outputs come from far where the rows are many.
    for (int64_t r = 0; r < std::min<int64_t>(R, panels - p - count); ++r) {
      for (int t = 0; t < T; ++t) __builtin_prefetch(tokens.y[t] + (p + count + r) * kPanelRows, 1);
    }
    if (tile == 0 && next.groups > 0) {
      for (int64_t r = 0; r < count; ++r) ask_for_scales(next, static_cast<size_t>(p + r), layout, w);
    }
    if (count == R) {
      const TileAhead ahead = share_of_tile<bits, R>(next, static_cast<size_t>(p), layout, tile, tiles);
      V::template tile<bits, R, T, false>(tokens, at, layout.bytes, layout, w, begin, end, ahead, totals);
    } else {
      V::template tile<bits, 1, T, false>(tokens, at, 0, layout, w, begin, end, {}, totals);
    }
    for (int64_t r = 0; r < count; ++r) {
      store_panel(totals + r * T * kPanelRows, T, (p + r) * kPanelRows, rows, tokens);
    }
    p += count;
  }
}

// Calls function(integral_constant<n>) for n in 1 … most.
template <int most, class Function>
void with_count(int n, const Function& function) {
  if constexpr (most > 1) {
    if (n < most) return with_count<most - 1>(n, function);
  }
  function(std::integral_constant<int, most>());
}

template <class V, int bits>
void linear_tiles_bits(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                       int64_t row_end, float* y, int64_t y_stride) {
  const PanelLayout layout = panel_layout(integer_format(w), w.cols);
  const auto* panel =
      reinterpret_cast<const uint8_t*>(w.data) + static_cast<size_t>(row_begin / kPanelRows) * layout.bytes;
  const int64_t rows = row_end - row_begin;
  const bool streamed = T <= V::streamed_tokens;
  const int64_t most = streamed ? V::streamed_tokens : V::max_tokens;
  thread_local Buffer start_memory;
  const auto starts = reserve<int32_t>(start_memory, V::max_tokens * layout.groups);
  // Tokens [t0, t0 + n) of the call; their starts of groups [begin, end).
  const auto tokens_at = [&](int64_t t0, int n, int64_t begin, int64_t end) {
    TileTokens tokens;
    for (int t = 0; t < n; ++t) {
      const int64_t source = row_index != nullptr ? row_index[t0 + t] : t0 + t;
      tokens.q[t] = x.int8_row(source);
      tokens.scales[t] = x.row_scales(source);
      tokens.sums[t] = x.row_sums(source, w.group);
      tokens.y[t] = y + (t0 + t) * y_stride;
      int32_t* own = starts + t * layout.groups;
      for (int64_t g = begin; g < end; ++g) own[g] = -(bits == 8 ? 128 : 8) * tokens.sums[t][g];
      tokens.starts[t] = own;
    }
    return tokens;
  };
  if (streamed) {
    const auto n = static_cast<int>(T);
    return with_count<V::streamed_tokens>(n, [&](auto count) {
      stream_panels<V, bits, decltype(count)::value>(tokens_at(0, n, 0, layout.groups), panel, layout, w, rows);
    });
  }
  const int64_t passes = (T + kPassTokens - 1) / kPassTokens;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = pass * T / passes;
    const int64_t size = (pass + 1) * T / passes - first;
    const int64_t tiles = (size + most - 1) / most;
    for (int64_t g = 0; g < layout.groups; g += kBlockCols / w.group) {
      const int64_t end = std::min(layout.groups, g + kBlockCols / w.group);
      // The next columns of these rows, for the next pass again the first ones (long rows leave the cache in a pass,
      // and asking for what is there is cheap); then those of the rows that follow, which the same thread often takes
      // next.
      NextBlock next;
      const bool same_rows = end < layout.groups || pass + 1 < passes;
      if (same_rows || row_end + rows <= w.rows) {
        next.panel =
            same_rows ? panel : panel + static_cast<size_t>((rows + kPanelRows - 1) / kPanelRows) * layout.bytes;
        next.group = end < layout.groups ? end : 0;
        next.groups = std::min(layout.groups - next.group, end - g);
      }
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t t0 = first + i * size / tiles;
        const auto n = static_cast<int>(first + (i + 1) * size / tiles - t0);
        with_count<V::max_tokens>(n, [&](auto count) {
          cached_panels<V, bits, decltype(count)::value>(tokens_at(t0, n, g, end), panel, layout, w, rows, g, end, next,
                                                         i, tiles);
        });
      }
    }
  }
}

template <class V>
void linear_tiles(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                  int64_t row_end, float* y, int64_t y_stride) {
  if (w.bits == 8) {
    linear_tiles_bits<V, 8>(x, row_index, T, w, row_begin, row_end, y, y_stride);
  } else {
    linear_tiles_bits<V, 4>(x, row_index, T, w, row_begin, row_end, y, y_stride);
  }
}

}  // namespace
}  // namespace fathom
