#pragma once
#include "kernels/cpu/avx512_name.h"
#include "kernels/linear.h"

namespace fathom {

/// `bf16_rows` (the same bits, the same weights) for operands that have been widened as well: Bf16Dot::fma.
void FATHOM_AVX512(widened_rows)(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& weight,
                                 int64_t row_begin, int64_t row_end, float* y, int64_t y_stride, const NextRows& next);

/// A row of BF16 as float32 in the order in which `widened_rows` reads it: of each 32 columns the odd ones first; zeros
/// behind the last one up to a multiple of 32.
void FATHOM_AVX512(widen_row)(const uint16_t* row, int64_t cols, float* out);

}  // namespace fathom
