#pragma once
#include <cstdint>

#include "base/dtype.h"
#include "kernels/quantize.h"

namespace fathom {

/// The functions of quantize.h that each instruction set provides; the contracts are those of quantize.h. All sets give
/// the same bits.
struct QuantizeKernels {
  void (*activation)(const float* x, int64_t K, bool ue8m0, uint8_t* codes, float* scales, float least_amax);
  void (*activation_f32)(const float* x, int64_t K, bool ue8m0, float* values, float* scales, float least_amax);
  void (*activation_bf16)(const float* x, int64_t K, bool ue8m0, uint16_t* values, float* scales, float least_amax);
  void (*weight)(const float* w, int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols, bool ue8m0,
                 uint8_t* codes, float* scale_inv);
  void (*pairs)(DType from, const void* x, int64_t x_stride, const int32_t* index, int64_t rows, int64_t cols,
                bool ue8m0, float least_amax, uint16_t* out, float* scales);
  void (*dequantize_bf16)(const uint8_t* codes, const float* scale_inv, int64_t rows, int64_t cols, int64_t block_rows,
                          int64_t block_cols, uint16_t* out);
};

const QuantizeKernels& quantize_kernels_portable();
const QuantizeKernels& quantize_kernels_avx2();
const QuantizeKernels& quantize_kernels_avx512();
const QuantizeKernels& quantize_kernels_avx512bf16();

}  // namespace fathom
