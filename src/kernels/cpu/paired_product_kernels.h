#pragma once
#include "kernels/paired_product.h"

namespace fathom {

/// The functions of paired_product.h.
struct PairedProductKernels {
  /// `scales`: null for the product without scales.
  void (*product)(const PairedLeft& left, const PairedScales* scales, int64_t rows, const uint16_t* right,
                  int64_t right_cols, int64_t pairs, int64_t begin, int64_t end, float* y, int64_t y_stride,
                  const int32_t* y_index, bool accumulate);
  void (*pair_rows)(DType from, const void* x, int64_t x_stride, const int32_t* index, int64_t rows, int64_t cols,
                    int64_t pair_begin, int64_t pair_end, uint16_t* out);
  void (*narrow_rows)(const float* x, int64_t x_stride, int64_t rows, int64_t cols, uint16_t* out, int64_t out_stride);
};

const PairedProductKernels& paired_product_kernels_avx512();
const PairedProductKernels& paired_product_kernels_avx512bf16();

}  // namespace fathom
