#include "kernels/gradients.h"

#include "kernels/cpu/gradient_kernels.h"

namespace fathom {
namespace {

const GradientKernels& kernels() {
  switch (active_isa()) {
    case Isa::avx512bf16:
      return gradient_kernels_avx512bf16();
    case Isa::avx512:
      return gradient_kernels_avx512();
    case Isa::avx2:
      return gradient_kernels_avx2();
    case Isa::portable:
      break;
  }
  return gradient_kernels_portable();
}

}  // namespace

float rms_factor(const float* x, int64_t n, float eps) {
  return kernels().rms_factor(x, n, eps);
}

void rms_norm_input_gradient(const float* x, const TensorView& gain, const float* dy, float r, int64_t n, float* dx) {
  kernels().rms_norm_input_gradient(x, gain, dy, r, n, dx);
}

void rms_norm_gain_gradient(const float* x, const float* dy, float r, int64_t n, float* dgain) {
  kernels().rms_norm_gain_gradient(x, dy, r, n, dgain);
}

void swiglu_gradient(const float* gate, const float* up, const float* dh, int64_t n, float* h, float* dgate,
                     float* dup) {
  kernels().swiglu_gradient(gate, up, dh, n, h, dgate, dup);
}

float dot(const float* a, const float* b, int64_t n) {
  return kernels().dot(a, b, n);
}

void add_scaled(const float* x, float factor, int64_t n, float* y) {
  kernels().add_scaled(x, factor, n, y);
}

double cross_entropy(float* logits, int64_t n, int32_t label, float factor) {
  return kernels().cross_entropy(logits, n, label, factor);
}

void softmax_row(float* scores, float scale, int64_t n) {
  kernels().softmax_row(scores, scale, n);
}

void softmax_row_gradient(const float* p, float scale, int64_t n, float* dp) {
  kernels().softmax_row_gradient(p, scale, n, dp);
}

void softmax_pair_gradient(float* scores, float* dp, int64_t stride, int64_t rows, float scale, int64_t visible,
                           int64_t n, uint16_t* p_pairs, uint16_t* ds_pairs, uint16_t* ds) {
  kernels().softmax_pair_gradient(scores, dp, stride, rows, scale, visible, n, p_pairs, ds_pairs, ds);
}

void adamw_row(const AdamwStep& step, const float* gradient, int64_t n, DType moments, void* first, void* second,
               float* p) {
  kernels().adamw_row(step, gradient, n, moments, first, second, p);
}

void turn(DType from, const void* x, int64_t x_stride, const int32_t* row_index, int64_t rows, int64_t cols,
          TurnedForm form, void* out, int64_t out_stride, int64_t padded) {
  kernels().turn(from, x, x_stride, row_index, rows, cols, form, out, out_stride, padded);
}

}  // namespace fathom
