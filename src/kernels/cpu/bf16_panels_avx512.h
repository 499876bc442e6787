#pragma once
#include "kernels/linear.h"

namespace fathom {

/// `bf16_rows_avx512` for rows [row_begin, row_end) of a weight that has panels (see bf16_panels.h), both multiples of
/// kBf16PanelRows: the same bits.
void bf16_panel_rows_avx512(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& weight,
                            int64_t row_begin, int64_t row_end, float* y, int64_t y_stride);

/// One block of a panel: kBf16PanelRows rows, `cols` (a multiple of 32, at most kBf16BlockCols) columns, laid out as in
/// make_bf16_panels. Shapes: rows `row_stride` elements apart; out [lane 16][cols / 32][row][2].
void make_bf16_panel_block_avx512(const uint16_t* rows, int64_t row_stride, int64_t cols, uint16_t* out);

/// Such a block times T tokens: x[t] points at the block's columns, y[t] at the panel's rows; what comes after the
/// `first` block is added.
void bf16_panel_block_avx512(const uint16_t* block, int64_t cols, const uint16_t* const* x, int64_t T, float* const* y,
                             bool first);

}  // namespace fathom
