#pragma once
#include <cstdint>

#include "base/dtype.h"

namespace fathom {

// Products whose sums may run over pairs one after the other, as those of the backward may: y = L · R with R in
// *paired rows*: [ceil(K / 2), N, 2] BF16, where rows 2p and 2p + 1 of R [K, N] lie interleaved. Each pair of a left
// row meets 16 columns in one instruction, and no sum has to cross lanes.

/// True where these functions exist: on AVX-512 with BF16 dot products.
bool has_paired_product();

/// The left side: pair p of row r is the two BF16 at data[(index ? index[r] : r) · row_stride + p · pair_stride].
struct PairedLeft {
  const uint16_t* data = nullptr;
  int64_t row_stride = 0;
  int64_t pair_stride = 2;
  const int32_t* index = nullptr;
};

/// y[row(r), c − begin] = or += Σ_p left(r, p) · right(p, c) for columns [begin, end), on this thread; the order of a
/// sum depends on `pairs` alone.
///
/// Shapes:  left [rows, pairs, 2]; right [pairs, ·, 2] with `right_cols` columns; y rows `y_stride` floats apart,
/// row(r) = y_index ? y_index[r] : r, each at most once.
void paired_product(const PairedLeft& left, int64_t rows, const uint16_t* right, int64_t right_cols, int64_t pairs,
                    int64_t begin, int64_t end, float* y, int64_t y_stride, const int32_t* y_index, bool accumulate);

/// Scales of both sides of a product of E4M3 values: one for each group of 128 elements of the sum.
struct PairedScales {
  const float* left = nullptr;  ///< of row r and group g: left[(index ? index[r] : r) · row stride + g · group stride]
  int64_t left_row_stride = 0;
  int64_t left_group_stride = 0;
  const float* right = nullptr;  ///< of group g and column c: right[g · group stride + c / cols]
  int64_t right_group_stride = 0;
  int64_t right_cols = 1;  ///< columns that share a scale
};

/// The same of E4M3 values with their scales: y = or += Σ_g (Σ over the 64 pairs of group g, float32) · left scale ·
/// right scale.
///
/// Source:  report §3.3.2.
void scaled_paired_product(const PairedLeft& left, const PairedScales& scales, int64_t rows, const uint16_t* right,
                           int64_t right_cols, int64_t pairs, int64_t begin, int64_t end, float* y, int64_t y_stride,
                           const int32_t* y_index, bool accumulate);

/// Paired rows [pair_begin, pair_end) of a matrix of `rows` rows (row r is x + (index ? index[r] : r) · x_stride
/// elements); what is behind the last row is 0. Shapes: out [pairs, cols, 2], from pair 0 on.
void pair_rows(DType from, const void* x, int64_t x_stride, const int32_t* index, int64_t rows, int64_t cols,
               int64_t pair_begin, int64_t pair_end, uint16_t* out);

/// Rows of float32 rounded to BF16, as left sides; subnormals become 0, as which products read them. Shapes: x, out
/// [rows, cols], rows `x_stride` and `out_stride` elements apart.
void narrow_rows(const float* x, int64_t x_stride, int64_t rows, int64_t cols, uint16_t* out, int64_t out_stride);

}  // namespace fathom
