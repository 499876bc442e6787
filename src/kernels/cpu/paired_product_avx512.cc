#include "kernels/cpu/paired_product_kernels.h"

#include <algorithm>

#if defined(__x86_64__)
#include <immintrin.h>

#include "base/buffer.h"
#include "base/number_formats.h"
#include "kernels/cpu/avx512_name.h"
#include "kernels/cpu/bf16_avx512.h"
#include "kernels/cpu/isa.h"

namespace fathom {
namespace {

// A block of the right side: 128 pairs of 64 columns, 32 KB of the first-level cache; with scales those of a group.
constexpr int64_t kPairs = 128;
constexpr int64_t kGroupPairs = 64;
constexpr int64_t kCols = 64;
constexpr int kRows = 6;

struct alignas(64) RightBlock {
  uint16_t values[kPairs * kCols * 2];
  float scales[kCols];
};
thread_local RightBlock right_block;

// What a tile meets: left rows with their scales, and where their sums go.
struct TileRows {
  const uint16_t* left[kRows];
  float scale[kRows];
  float* y[kRows];
};

// What y holds of a tile's row r and vector v; zeros unless it is added to.
template <int V>
inline __m512 sums_before(const TileRows& rows, int r, int v, __mmask16 mask, bool add) {
  const __mmask16 lanes = v + 1 == V ? mask : static_cast<__mmask16>(0xffff);
  return add ? _mm512_maskz_loadu_ps(lanes, rows.y[r] + 16 * v) : _mm512_setzero_ps();
}

// With scales a block's sum begins with nothing, and what y holds is added at its end.
template <bool scaled, int R, int V>
inline void begin_sums(const TileRows& rows, __mmask16 mask, bool add, __m512 (&sums)[R][V]) {
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] = scaled ? _mm512_setzero_ps() : sums_before<V>(rows, r, v, mask, add);
  }
}

template <bool scaled, int R, int V>
inline void finish_sums(const TileRows& rows, const float* scales, __mmask16 mask, bool add,
                        const __m512 (&sums)[R][V]) {
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      __m512 sum = sums[r][v];
      if constexpr (scaled) {
        const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(rows.scale[r]), _mm512_load_ps(scales + 16 * v));
        sum = _mm512_fmadd_ps(sum, scale, sums_before<V>(rows, r, v, mask, add));
      }
      const __mmask16 lanes = v + 1 == V ? mask : static_cast<__mmask16>(0xffff);
      _mm512_mask_storeu_ps(rows.y[r] + 16 * v, lanes, sum);
    }
  }
}

// R rows by V vectors of 16 columns over `pairs` pairs of the block; the last vector's columns are those of `mask`.
// With scales the block's sum is one of its own.
template <bool scaled, int R, int V>
void tile(const TileRows& rows, int64_t pair_stride, const uint16_t* block, const float* scales, int64_t pairs,
          __mmask16 mask, bool add) {
  const DotScope scope;
  __m512 sums[R][V];
  begin_sums<scaled>(rows, mask, add, sums);
  for (int64_t p = 0; p < pairs; ++p) {
    Bf16Pairs right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = pairs_of(_mm512_load_si512(block + p * kCols * 2 + 32 * v));
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const Bf16Pairs value = broadcast_pair(rows.left[r] + p * pair_stride);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] = dot(sums[r][v], right[v], value);
    }
  }
  finish_sums<scaled>(rows, scales, mask, add, sums);
}

// ---- Bf16Dot::fma ----
//
// Both sides are widened to float32 first. A block holds for each pair its columns' odd values, then their even ones; a
// left tile the same of its rows, or of each row for all pairs.

// Left rows that are widened together, two tiles of them: of neighbours a line of memory holds sixteen.
constexpr int64_t kLeftRows = 2 * kRows;
constexpr int64_t kLeftFloats = kGroupPairs * 32;  // of them

struct alignas(64) WideBlock {
  float right[kGroupPairs * kCols * 2];
  Buffer left;  // [pairs of tiles, kLeftFloats]
};
thread_local WideBlock wide_block;

void widen_block(const uint16_t* right, int64_t right_cols, int64_t pairs, int64_t cols) {
  float* out = wide_block.right;
  for (int64_t p = 0; p < pairs; ++p, right += right_cols * 2, out += kCols * 2) {
    for (int64_t c = 0; c < cols; c += 16) {
      const auto mask = static_cast<__mmask16>(cols - c >= 16 ? 0xffff : (1u << (cols - c)) - 1);
      const __m512i bits = _mm512_maskz_loadu_epi32(mask, right + 2 * c);
      _mm512_store_ps(out + c, odd_values(bits));
      _mm512_store_ps(out + kCols + c, even_values(bits));
    }
  }
}

// Pair p of row r of the left side.
const uint16_t* left_at(const PairedLeft& left, int64_t r, int64_t p) {
  return left.data + (left.index != nullptr ? left.index[r] : r) * left.row_stride + p * left.pair_stride;
}

// Where a widened left value lies: row r, pair p at first + r · row + p · pair; its even value `even` further.
struct WideLeft {
  const float* first;
  int64_t row, pair, even;
};

// Rows [r, r + n) and `pairs` pairs from p on, to `out`.
WideLeft widen_left(const PairedLeft& left, int64_t r, int64_t n, int64_t p, int64_t pairs, float* out) {
  if (left.index == nullptr && left.row_stride == 2) {
    const uint16_t* from = left.data + 2 * r + p * left.pair_stride;
    const auto mask = static_cast<__mmask16>((1u << n) - 1);
    for (int64_t i = 0; i < pairs; ++i) {
      const __m512i bits = _mm512_maskz_loadu_epi32(mask, from + i * left.pair_stride);
      _mm512_store_ps(out + 32 * i, odd_values(bits));
      _mm512_store_ps(out + 32 * i + 16, even_values(bits));
    }
    return {out, 1, 32, 16};
  }
  constexpr int64_t kEven = kLeftRows * kGroupPairs;
  float* to = out;
  for (int64_t i = 0; i < n; ++i, to += kGroupPairs) {
    const uint16_t* from = left_at(left, r + i, p);
    if (left.pair_stride == 2) {
      for (int64_t k = 0; k < pairs; k += 16) {
        const auto mask = static_cast<__mmask16>(pairs - k >= 16 ? 0xffff : (1u << (pairs - k)) - 1);
        const __m512i bits = _mm512_maskz_loadu_epi32(mask, from + 2 * k);
        _mm512_store_ps(to + k, odd_values(bits));
        _mm512_store_ps(to + kEven + k, even_values(bits));
      }
    } else {
      for (int64_t k = 0; k < pairs; ++k) {
        to[kEven + k] = bf16_to_f32(from[k * left.pair_stride]);
        to[k] = bf16_to_f32(from[k * left.pair_stride + 1]);
      }
    }
  }
  return {out, kGroupPairs, 1, kEven};
}

template <bool scaled, int R, int V>
void wide_tile(const TileRows& rows, const WideLeft& left, const float* scales, int64_t pairs, __mmask16 mask,
               bool add) {
  const FlushSubnormals flush;
  __m512 sums[R][V];
  begin_sums<scaled>(rows, mask, add, sums);
  const float* right = wide_block.right;
  const float* of_rows = left.first;
  for (int64_t p = 0; p < pairs; ++p, of_rows += left.pair) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half, right += kCols) {
      __m512 values[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) values[v] = _mm512_load_ps(right + 16 * v);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const __m512 value = _mm512_set1_ps(of_rows[r * left.row + half * left.even]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums[r][v] = _mm512_fmadd_ps(values[v], value, sums[r][v]);
      }
    }
  }
  finish_sums<scaled>(rows, scales, mask, add, sums);
}

using WideTile = void (*)(const TileRows& rows, const WideLeft& left, const float* scales, int64_t pairs,
                          __mmask16 mask, bool add);
template <bool scaled, int V>
constexpr WideTile kWideTilesOf[] = {nullptr,
                                     wide_tile<scaled, 1, V>,
                                     wide_tile<scaled, 2, V>,
                                     wide_tile<scaled, 3, V>,
                                     wide_tile<scaled, 4, V>,
                                     wide_tile<scaled, 5, V>,
                                     wide_tile<scaled, 6, V>};
template <bool scaled>
constexpr const WideTile* kWideTiles[] = {nullptr, kWideTilesOf<scaled, 1>, kWideTilesOf<scaled, 2>,
                                          kWideTilesOf<scaled, 3>, kWideTilesOf<scaled, 4>};

// ---- Bf16Dot::instruction ----

using Tile = void (*)(const TileRows& rows, int64_t pair_stride, const uint16_t* block, const float* scales,
                      int64_t pairs, __mmask16 mask, bool add);
template <bool scaled, int V>
constexpr Tile kTilesOf[] = {nullptr,
                             tile<scaled, 1, V>,
                             tile<scaled, 2, V>,
                             tile<scaled, 3, V>,
                             tile<scaled, 4, V>,
                             tile<scaled, 5, V>,
                             tile<scaled, 6, V>};
template <bool scaled>
constexpr const Tile* kTiles[] = {nullptr, kTilesOf<scaled, 1>, kTilesOf<scaled, 2>, kTilesOf<scaled, 3>,
                                  kTilesOf<scaled, 4>};

// Where it already lies as a block does.
bool is_block(const uint16_t* right, int64_t right_cols) {
  return right_cols == kCols && reinterpret_cast<uintptr_t>(right) % 64 == 0;
}

void copy_block(const uint16_t* right, int64_t right_cols, int64_t pairs, int64_t cols) {
  uint16_t* out = right_block.values;
  for (int64_t p = 0; p < pairs; ++p, right += right_cols * 2, out += kCols * 2) {
    int64_t c = 0;
    for (; c + 16 <= cols; c += 16) _mm512_store_si512(out + 2 * c, _mm512_loadu_si512(right + 2 * c));
    if (c < cols) {
      const auto mask = static_cast<__mmask16>((1u << (cols - c)) - 1);
      _mm512_store_si512(out + 2 * c, _mm512_maskz_loadu_epi32(mask, right + 2 * c));
    }
  }
}

// 16 columns of two rows as BF16 pairs.
inline __m512i interleave(__m256i first, __m256i second) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

struct FromF32 {
  using Element = float;
  static __m256i load(const float* x, __mmask16 mask) { return narrowed(_mm512_maskz_loadu_ps(mask, x)); }
};
struct FromBf16 {
  using Element = uint16_t;
  static __m256i load(const uint16_t* x, __mmask16 mask) { return _mm256_maskz_loadu_epi16(mask, x); }
};

template <typename From>
void pair_rows_of(const void* data, int64_t stride, const int32_t* index, int64_t rows, int64_t cols,
                  int64_t pair_begin, int64_t pair_end, uint16_t* out) {
  const auto* x = static_cast<const typename From::Element*>(data);
  const auto row = [&](int64_t r) { return x + (index != nullptr ? index[r] : r) * stride; };
  for (int64_t p = pair_begin; p < pair_end; ++p) {
    const auto* first = row(2 * p);
    const auto* second = 2 * p + 1 < rows ? row(2 * p + 1) : nullptr;
    uint16_t* to = out + p * cols * 2;
    for (int64_t c = 0; c < cols; c += 16) {
      const auto mask = static_cast<__mmask16>(cols - c >= 16 ? 0xffff : (1u << (cols - c)) - 1);
      const __m256i low = From::load(first + c, mask);
      const __m256i high = second != nullptr ? From::load(second + c, mask) : _mm256_setzero_si256();
      _mm512_mask_storeu_epi32(to + 2 * c, mask, interleave(low, high));
    }
  }
}

// How the rows are cut into tiles, as even as can be: 7 rows are 4 and 3, not 6 and 1.
struct RowCuts {
  int64_t rows, tiles;
  explicit RowCuts(int64_t count) : rows(count), tiles((count + kRows - 1) / kRows) {}
  int64_t first(int64_t tile) const { return std::min(tile, tiles) * rows / tiles; }
};

// A product's arguments, as kernels/paired_product.h has them.
struct Product {
  const PairedLeft& left;
  const PairedScales* scales;
  int64_t rows;
  const uint16_t* right;
  int64_t right_cols, pairs, begin, end;
  float* y;
  int64_t y_stride;
  const int32_t* y_index;
  bool accumulate;

  // Rows [r, r + n) of the tile at column c, with the scales of a group.
  TileRows tile_rows(int64_t r, int64_t n, int64_t p, int64_t c, int64_t group) const {
    TileRows at;
    for (int64_t k = 0; k < n; ++k) {
      at.left[k] = left_at(left, r + k, p);
      if (scales != nullptr) {
        const int64_t row = left.index != nullptr ? left.index[r + k] : r + k;
        at.scale[k] = scales->left[row * scales->left_row_stride + group * scales->left_group_stride];
      }
      at.y[k] = y + (y_index != nullptr ? y_index[r + k] : r + k) * y_stride + (c - begin);
    }
    return at;
  }

  void right_scales(int64_t c, int64_t cols, int64_t group) const {
    for (int64_t i = 0; scales != nullptr && i < cols; ++i) {
      right_block.scales[i] = scales->right[group * scales->right_group_stride + (c + i) / scales->right_cols];
    }
  }
};

// Columns [c, c + 64) as vectors, the last of which has those of `mask`.
struct ColumnCut {
  int64_t cols, vectors;
  __mmask16 mask;
  ColumnCut(int64_t c, int64_t end)
      : cols(std::min(kCols, end - c)),
        vectors((cols + 15) / 16),
        mask(static_cast<__mmask16>((1u << (cols - 16 * (vectors - 1))) - 1)) {}
};

void multiply_by_instruction(const Product& product) {
  const int64_t step = product.scales != nullptr ? kGroupPairs : kPairs;
  const RowCuts cuts(product.rows);
  for (int64_t c = product.begin; c < product.end; c += kCols) {
    const ColumnCut cut(c, product.end);
    const Tile* tiles = product.scales != nullptr ? kTiles<true>[cut.vectors] : kTiles<false>[cut.vectors];
    for (int64_t p = 0; p < product.pairs; p += step) {
      const int64_t count = std::min(step, product.pairs - p);
      const uint16_t* block = product.right + (p * product.right_cols + c) * 2;
      if (!is_block(block, product.right_cols)) {
        copy_block(block, product.right_cols, count, cut.cols);
        block = right_block.values;
      }
      product.right_scales(c, cut.cols, p / step);
      for (int64_t i = 0; i < cuts.tiles; ++i) {
        const int64_t r = cuts.first(i);
        const int64_t n = cuts.first(i + 1) - r;
        tiles[n](product.tile_rows(r, n, p, c, p / step), product.left.pair_stride, block, right_block.scales, count,
                 cut.mask, product.accumulate || p > 0);
      }
    }
  }
}

// A group's left rows are widened once for all columns.
void multiply_widened(const Product& product) {
  const RowCuts cuts(product.rows);
  float* memory = reserve<float>(wide_block.left, (cuts.tiles + 1) / 2 * kLeftFloats);
  for (int64_t p = 0; p < product.pairs; p += kGroupPairs) {
    const int64_t count = std::min(kGroupPairs, product.pairs - p);
    WideLeft shape{};
    for (int64_t i = 0; i < cuts.tiles; i += 2) {
      const int64_t r = cuts.first(i);
      shape = widen_left(product.left, r, cuts.first(i + 2) - r, p, count, memory + i / 2 * kLeftFloats);
    }
    for (int64_t c = product.begin; c < product.end; c += kCols) {
      const ColumnCut cut(c, product.end);
      const WideTile* tiles =
          product.scales != nullptr ? kWideTiles<true>[cut.vectors] : kWideTiles<false>[cut.vectors];
      widen_block(product.right + (p * product.right_cols + c) * 2, product.right_cols, count, cut.cols);
      product.right_scales(c, cut.cols, p / kGroupPairs);
      for (int64_t i = 0; i < cuts.tiles; ++i) {
        const int64_t r = cuts.first(i);
        const int64_t n = cuts.first(i + 1) - r;
        WideLeft left = shape;
        left.first = memory + i / 2 * kLeftFloats + (r - cuts.first(i / 2 * 2)) * shape.row;
        tiles[n](product.tile_rows(r, n, p, c, p / kGroupPairs), left, right_block.scales, count, cut.mask,
                 product.accumulate || p > 0);
      }
    }
  }
}

void multiply(const PairedLeft& left, const PairedScales* scales, int64_t rows, const uint16_t* right,
              int64_t right_cols, int64_t pairs, int64_t begin, int64_t end, float* y, int64_t y_stride,
              const int32_t* y_index, bool accumulate) {
  const Product product{left, scales, rows, right, right_cols, pairs, begin, end, y, y_stride, y_index, accumulate};
  active_bf16_dot() == Bf16Dot::fma ? multiply_widened(product) : multiply_by_instruction(product);
}

void pair(DType from, const void* x, int64_t x_stride, const int32_t* index, int64_t rows, int64_t cols,
          int64_t pair_begin, int64_t pair_end, uint16_t* out) {
  if (from == DType::bf16) {
    pair_rows_of<FromBf16>(x, x_stride, index, rows, cols, pair_begin, pair_end, out);
  } else {
    pair_rows_of<FromF32>(x, x_stride, index, rows, cols, pair_begin, pair_end, out);
  }
}

void narrow(const float* x, int64_t x_stride, int64_t rows, int64_t cols, uint16_t* out, int64_t out_stride) {
  for (int64_t r = 0; r < rows; ++r, x += x_stride, out += out_stride) {
    int64_t c = 0;
    for (; c + 16 <= cols; c += 16) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + c), FromF32::load(x + c, 0xffff));
    }
    if (c < cols) {
      const auto mask = static_cast<__mmask16>((1u << (cols - c)) - 1);
      _mm256_mask_storeu_epi16(out + c, mask, FromF32::load(x + c, mask));
    }
  }
}

}  // namespace

const PairedProductKernels& FATHOM_AVX512(paired_product_kernels)() {
  static const PairedProductKernels kernels = {multiply, pair, narrow};
  return kernels;
}

}  // namespace fathom
#endif
