#pragma once
#include "kernels/linear.h"

namespace fathom {

/// `bf16_rows_avx512` for rows [row_begin, row_end) of a weight that has panels (see bf16_panels.h), both multiples of
/// kBf16PanelRows: the same bits.
void bf16_panel_rows_avx512(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& weight,
                            int64_t row_begin, int64_t row_end, float* y, int64_t y_stride);

}  // namespace fathom
