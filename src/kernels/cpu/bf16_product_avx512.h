#pragma once
#include "kernels/cpu/avx512_name.h"
#include "kernels/linear.h"

namespace fathom {

/// `linear_rows` for operands in BF16 and weights in BF16, or in FP8 that is used as its published BF16 cast: the same
/// bits as with the cast itself. `weight.block_cols` is a multiple of 64.
///
/// Order of a sum: blocks of 1,024 columns one after the other; in a block lane i of 16 holds the pairs of
/// columns 2 i (mod 32), and the lanes are added as 8 + 8, 4 + 4, 2 + 2, 1 + 1.
void FATHOM_AVX512(bf16_rows)(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& weight,
                              int64_t row_begin, int64_t row_end, float* y, int64_t y_stride);

}  // namespace fathom
