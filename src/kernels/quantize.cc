#include "kernels/quantize.h"

#include <algorithm>
#include <cmath>

#include "base/number_formats.h"

namespace fathom {
namespace {

constexpr float kGreatestE4m3 = 448.0f;

// Below `least` the scale stays put, so that a group of zeros does not divide by zero.
float scale_of(float amax, float least, bool ue8m0) {
  const float scale = std::max(amax, least) / kGreatestE4m3;
  return ue8m0 ? next_power_of_two(scale) : scale;
}

}  // namespace

void quantize_activation(const float* x, int64_t K, bool ue8m0, uint8_t* codes, float* scales, float least_amax) {
  for (int64_t begin = 0; begin < K; begin += kActivationGroup) {
    const int64_t end = std::min(K, begin + kActivationGroup);
    float amax = 0;
    for (int64_t k = begin; k < end; ++k) amax = std::max(amax, std::fabs(x[k]));
    const float scale = scale_of(amax, least_amax, ue8m0);
    scales[begin / kActivationGroup] = scale;
    for (int64_t k = begin; k < end; ++k) codes[k] = f32_to_e4m3(x[k] / scale);
  }
}

void quantize_weight(const float* w, int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols, bool ue8m0,
                     uint8_t* codes, float* scale_inv) {
  for (int64_t r0 = 0; r0 < rows; r0 += block_rows) {
    const int64_t r1 = std::min(rows, r0 + block_rows);
    for (int64_t c0 = 0; c0 < cols; c0 += block_cols) {
      const int64_t c1 = std::min(cols, c0 + block_cols);
      float amax = 0;
      for (int64_t r = r0; r < r1; ++r) {
        for (int64_t c = c0; c < c1; ++c) amax = std::max(amax, std::fabs(w[r * cols + c]));
      }
      const float scale = scale_of(amax, kLeastActivationAmax, ue8m0);
      *scale_inv++ = scale;
      for (int64_t r = r0; r < r1; ++r) {
        for (int64_t c = c0; c < c1; ++c) codes[r * cols + c] = f32_to_e4m3(w[r * cols + c] / scale);
      }
    }
  }
}

void dequantize_weight_bf16(const uint8_t* codes, const float* scale_inv, int64_t rows, int64_t cols,
                            int64_t block_rows, int64_t block_cols, uint16_t* out) {
  const int64_t scale_cols = (cols + block_cols - 1) / block_cols;
  for (int64_t r = 0; r < rows; ++r) {
    const float* scales = scale_inv + r / block_rows * scale_cols;
    for (int64_t c = 0; c < cols; ++c) {
      out[r * cols + c] = f32_to_bf16(e4m3_to_f32(codes[r * cols + c]) * scales[c / block_cols]);
    }
  }
}

}  // namespace fathom
