#pragma once
#include <cstdint>

#include "kernels/cpu/isa.h"
#include "kernels/norm.h"

namespace fathom {

/// The small functions of norm.h that each instruction set provides; the contracts are those of norm.h.
struct NormKernels {
  void (*rms_norm)(const float* x, int64_t n, const TensorView& gain, float eps, float* y);
  void (*swiglu)(const float* gate, const float* up, int64_t n, float* h);
  void (*exponentials)(const float* x, int64_t n, float* y);
  void (*rotate_pairs)(float* x, const float* cos_sin, int64_t d);
  void (*convert_to_f32)(DType dtype, const void* from, int64_t n, float* to);
  void (*convert_to_bf16)(const float* from, int64_t n, uint16_t* to);
};

const NormKernels& norm_kernels_portable();
const NormKernels& norm_kernels_avx2();
const NormKernels& norm_kernels_avx512();
const NormKernels& norm_kernels_avx512bf16();

}  // namespace fathom
