#pragma once
#include <cstdint>

#include "kernels/cpu/isa.h"
#include "kernels/linear.h"

namespace fathom {

/// The functions that each instruction set provides for products; the contracts are those of linear.h.
struct LinearKernels {
  void (*linear_rows)(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& weight,
                      int64_t row_begin, int64_t row_end, float* y, int64_t y_stride);
  void (*linear_transposed_rows)(const float* x, int64_t x_stride, int64_t T, const Weight& weight, int64_t row_begin,
                                 int64_t row_end, bool cast_bf16, bool accumulate, float* y, int64_t y_stride);
  /// The form in which this set's `linear_rows` reads activations for a weight.
  OperandForm (*operand_form)(const Weight& weight, OperandRounding rounding);
  /// A row of BF16 as float32 in the order in which Bf16Dot::fma multiplies, `cols` a multiple of 64; null for sets
  /// that have no such way.
  void (*widen)(const uint16_t* row, int64_t cols, float* out) = nullptr;
};

const LinearKernels& linear_kernels_portable();
const LinearKernels& linear_kernels_avx2();
const LinearKernels& linear_kernels_avx512();
const LinearKernels& linear_kernels_avx512bf16();
const LinearKernels& linear_kernels();  ///< of the active instruction set

}  // namespace fathom
