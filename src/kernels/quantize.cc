#include "kernels/quantize.h"

#include "kernels/cpu/isa.h"
#include "kernels/cpu/quantize_kernels.h"

namespace fathom {
namespace {

const QuantizeKernels& kernels() {
  switch (active_isa()) {
    case Isa::avx512bf16:
      return quantize_kernels_avx512bf16();
    case Isa::avx512:
      return quantize_kernels_avx512();
    case Isa::avx2:
      return quantize_kernels_avx2();
    case Isa::portable:
      break;
  }
  return quantize_kernels_portable();
}

}  // namespace

void quantize_activation(const float* x, int64_t K, bool ue8m0, uint8_t* codes, float* scales, float least_amax) {
  kernels().activation(x, K, ue8m0, codes, scales, least_amax);
}

void quantize_activation_values(const float* x, int64_t K, bool ue8m0, float* values, float* scales, float least_amax) {
  kernels().activation_f32(x, K, ue8m0, values, scales, least_amax);
}

void quantize_activation_values(const float* x, int64_t K, bool ue8m0, uint16_t* values, float* scales,
                                float least_amax) {
  kernels().activation_bf16(x, K, ue8m0, values, scales, least_amax);
}

void quantize_weight(const float* w, int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols, bool ue8m0,
                     uint8_t* codes, float* scale_inv) {
  kernels().weight(w, rows, cols, block_rows, block_cols, ue8m0, codes, scale_inv);
}

void quantize_pairs(DType from, const void* x, int64_t x_stride, const int32_t* index, int64_t rows, int64_t cols,
                    bool ue8m0, float least_amax, uint16_t* out, float* scales) {
  kernels().pairs(from, x, x_stride, index, rows, cols, ue8m0, least_amax, out, scales);
}

void dequantize_weight_bf16(const uint8_t* codes, const float* scale_inv, int64_t rows, int64_t cols,
                            int64_t block_rows, int64_t block_cols, uint16_t* out) {
  kernels().dequantize_bf16(codes, scale_inv, rows, cols, block_rows, block_cols, out);
}

}  // namespace fathom
