#pragma once
#include <cstdint>

#include "kernels/linear.h"

namespace fathom {

/// `linear_rows` on AVX2 for activations in the form f32_pairs and weights in BF16, or in FP8 that count as their cast
/// to BF16: the same bits as with the cast itself. `w.block_cols` is a multiple of 32.
///
/// Order of a sum: two sums of eight lanes, one of the even and one of the odd columns, in the order of k; they are
/// added to one another, then the lanes as 4 + 4, 2 + 2, 1 + 1.
void bf16_rows_avx2(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                    int64_t row_end, float* y, int64_t y_stride);

}  // namespace fathom
