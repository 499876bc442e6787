#pragma once
#include "kernels/cpu/isa.h"
#include "kernels/gradients.h"

namespace fathom {

/// The functions of gradients.h that each instruction set provides; the contracts are those of gradients.h.
struct GradientKernels {
  float (*rms_factor)(const float* x, int64_t n, float eps);
  void (*rms_norm_input_gradient)(const float* x, const TensorView& gain, const float* dy, float r, int64_t n,
                                  float* dx);
  void (*rms_norm_gain_gradient)(const float* x, const float* dy, float r, int64_t n, float* dgain);
  void (*swiglu_gradient)(const float* gate, const float* up, const float* dh, int64_t n, float* h, float* dgate,
                          float* dup);
  float (*dot)(const float* a, const float* b, int64_t n);
  void (*add_scaled)(const float* x, float factor, int64_t n, float* y);
  double (*cross_entropy)(float* logits, int64_t n, int32_t label, float factor);
  void (*softmax_row)(float* scores, float scale, int64_t n);
  void (*softmax_row_gradient)(const float* p, float scale, int64_t n, float* dp);
  void (*softmax_pair_gradient)(float* scores, float* dp, int64_t stride, int64_t rows, float scale, int64_t visible,
                                int64_t n, uint16_t* p_pairs, uint16_t* ds_pairs, uint16_t* ds);
  void (*adamw_row)(const AdamwStep& step, const float* gradient, int64_t n, DType moments, void* first, void* second,
                    float* p);
  void (*turn)(DType from, const void* x, int64_t x_stride, const int32_t* row_index, int64_t rows, int64_t cols,
               TurnedForm form, void* out, int64_t out_stride, int64_t padded);
};

const GradientKernels& gradient_kernels_portable();
const GradientKernels& gradient_kernels_avx2();
const GradientKernels& gradient_kernels_avx512();
const GradientKernels& gradient_kernels_avx512bf16();

}  // namespace fathom
