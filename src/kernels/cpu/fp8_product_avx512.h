#pragma once
#include "kernels/cpu/avx512_name.h"
#include "kernels/linear.h"

namespace fathom {

/// `linear_rows` for FP8 weights and operands rounded to FP8, which lie as codes in BF16 with their scales.
/// `weight.block_cols` is a multiple of 64.
///
/// Order of a sum: in a group of 128 columns lane i of 16 holds the pairs of columns 2 i (mod 32); a group's lanes are
/// added to the lanes of the total, times both scales; at the end lanes as 8 + 8, 4 + 4, 2 + 2, 1 + 1.
void FATHOM_AVX512(fp8_rows)(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& weight,
                             int64_t row_begin, int64_t row_end, float* y, int64_t y_stride);

}  // namespace fathom
