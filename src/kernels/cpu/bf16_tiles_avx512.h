#pragma once
// What the products of BF16 operands on AVX-512 have in common: columns, tables of casts, groups of tokens, requests
// for memory. Only for files that are compiled for AVX-512; everything has internal linkage.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "base/buffer.h"
#include "kernels/cpu/e4m3_avx512.h"
#include "kernels/linear.h"

namespace fathom {
namespace {

// Columns of a block of the sum.
constexpr int64_t kBlockCols = 1024;

// Tokens whose pointers are kept together.
constexpr int64_t kMostTokens = 512;
// Up to so many tokens the weights' way from memory decides.
constexpr int64_t kStreamTokens = 8;

// Tables of the casts of one row of blocks of scales.
class CastTables {
 public:
  // Returns the tables [scale_cols, 256] for a row; they last until another row of blocks is asked for.
  const uint8_t* of_row(const Weight& w, int64_t row) {
    const float* scales = w.scale_inv + row / w.block_rows * w.scale_cols();
    if (scales == scales_) return tables_.as<uint8_t>();
    tables_.reserve(static_cast<size_t>(w.scale_cols() * kE4m3TableBytes));
    for (int64_t i = 0; i < w.scale_cols(); ++i) {
      make_e4m3_table(scales[i], tables_.as<uint8_t>() + i * kE4m3TableBytes);
    }
    scales_ = scales;
    return tables_.as<uint8_t>();
  }
  // A new call may find other scales at the same place.
  void forget() { scales_ = nullptr; }

 private:
  Buffer tables_;
  const float* scales_ = nullptr;
};

thread_local CastTables cast_tables;

// Rows [row, row + R spacing) of a weight, one each `spacing`.
template <int R>
struct TileRows {
  const std::byte* at[R];
  TileRows(const Weight& w, int64_t row, int64_t spacing, int64_t element) {
    for (int r = 0; r < R; ++r) at[r] = w.data + (row + r * spacing) * w.row_stride * element;
  }
};

// The groups of tokens are as even as can be: a tile of one token costs almost as much as one of three.
struct Groups {
  int64_t T, count;
  Groups(int64_t tokens, int64_t most) : T(tokens), count((tokens + most - 1) / most) {}
  int64_t first(int64_t g) const { return g * T / count; }
  int64_t size(int64_t g) const { return first(g + 1) - first(g); }
};

// A tile of the walk of few tokens: `rows` (as many as there are runs, or 1) rows from `row` on, one each `spacing`,
// times tokens [first, first + count).
struct StreamTile {
  const uint8_t* tables;  // of the casts of these rows, FP8 only
  int64_t rows, row, spacing, y_row;
  int64_t first, count;
  // Each row's bytes `ahead` further are asked for, from column `turn` on those `ahead_at_turn` further: its run ends.
  // Not those that are 0 bytes away.
  int64_t ahead, turn, ahead_at_turn;

  int64_t ahead_of(int64_t column) const { return column < turn ? ahead : ahead_at_turn; }
};

// Few tokens. Rows that share their casts are cut into `kRuns` runs that are read side by side along the rows: that
// keeps the memory busy (how many are best, and how far ahead of each to ask, depends on the machine:
// docs/performance.md, *What was tried*). The next `kAhead` bytes of each are to be asked for. The first group of
// tokens brings a row into the cache. Calls tile(StreamTile) for all.
template <bool kFp8, int64_t kAhead, int64_t kRuns, class Tile>
void stream_tiles(const Weight& w, int64_t row_begin, int64_t row_end, const NextRows& following, const Groups& groups,
                  const Tile& tile) {
  constexpr int64_t kElement = kFp8 ? 1 : 2;
  const int64_t row_bytes = w.row_stride * kElement;
  // The runs of FP8 share their tables, so they lie in one row of blocks.
  const int64_t step = kFp8 ? w.block_rows : 128;
  for (int64_t row = row_begin; row < row_end;) {
    const int64_t end = std::min(row_end, (row / step + 1) * step);
    const int64_t length = (end - row) / kRuns;
    StreamTile at;
    at.tables = kFp8 ? cast_tables.of_row(w, row) : nullptr;
    const NextRows next = end < row_end ? NextRows{&w, end, std::min(row_end, end + step)} : following;
    at.ahead_at_turn = 0;
    if (next.weight != nullptr && next.weight->data != nullptr && next.weight->dtype == w.dtype &&
        next.weight->row_stride == w.row_stride && (next.end - next.begin) / kRuns == length) {
      // All runs of the next rows begin equally far from where the present ones end.
      at.ahead_at_turn = kAhead - length * row_bytes +
                         static_cast<int64_t>(reinterpret_cast<intptr_t>(next.weight->row(next.begin)) -
                                              reinterpret_cast<intptr_t>(w.row(row)));
    }
    for (int64_t i = 0; i < end - row - (kRuns - 1) * length; ++i) {
      const bool run = i < length;
      at.rows = run ? kRuns : 1;
      at.spacing = run ? length : 1;
      at.row = run ? row + i : row + (kRuns - 1) * length + i;
      at.y_row = at.row - row_begin;
      at.ahead = kAhead;
      at.turn = std::min(w.cols, ((length - i) * row_bytes - 2 * kAhead) / kElement);
      for (int64_t g = 0; g < groups.count; ++g) {
        at.first = groups.first(g);
        at.count = groups.size(g);
        tile(at);
        at.turn = w.cols;
        at.ahead = 0;
      }
    }
    row = end;
  }
}

}  // namespace
}  // namespace fathom
