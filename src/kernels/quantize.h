#pragma once
#include <cstdint>

#include "base/dtype.h"

namespace fathom {

/// Columns of an activation that share a scale (the "1×128" of the report).
constexpr int64_t kActivationGroup = 128;

/// Least amax of an activation's scale, as the official demo has it.
constexpr float kLeastActivationAmax = 1e-4f;
/// The same for gradients, which are small: the report names no floor.
constexpr float kLeastGradientAmax = 1e-30f;

/// Quantises one token's activations to E4M3: per 128 channels, scale = max(amax, least_amax) / 448 (raised to a power
/// of two if `ue8m0`), code = e4m3(x / scale), with IEEE float32 division.
///
/// Shapes:  x [K] f32; codes [K]; scales [ceil(K / 128)].
/// Source:  `act_quant` of the official demo (inference/kernel.py); report §3.3.2.
void quantize_activation(const float* x, int64_t K, bool ue8m0, uint8_t* codes, float* scales,
                         float least_amax = kLeastActivationAmax);

/// The same, but leaves the values of the codes, which BF16 holds exactly, as float32 or BF16 [K].
void quantize_activation_values(const float* x, int64_t K, bool ue8m0, float* values, float* scales, float least_amax);
void quantize_activation_values(const float* x, int64_t K, bool ue8m0, uint16_t* values, float* scales,
                                float least_amax);

/// The same down the columns of a matrix: 128 rows of a column share a scale. Leaves the codes' values as paired rows
/// of BF16 (see paired_product.h); row r is x + (index ? index[r] : r) · x_stride elements, f32 or bf16; what is behind
/// the last row is 0.
///
/// Shapes:  x [·, cols]; out [ceil(rows / 2), cols, 2]; scales [ceil(rows / 128), cols].
void quantize_pairs(DType from, const void* x, int64_t x_stride, const int32_t* index, int64_t rows, int64_t cols,
                    bool ue8m0, float least_amax, uint16_t* out, float* scales);

/// Quantises a matrix to E4M3 in blocks: scale = max(amax, 1e-4) / 448 of each block (cut off at the edges), code =
/// e4m3(w / scale).
///
/// Shapes:  w [rows, cols] f32; codes [rows, cols]; scale_inv [ceil(rows / block_rows), ceil(cols / block_cols)].
void quantize_weight(const float* w, int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols, bool ue8m0,
                     uint8_t* codes, float* scale_inv);

/// bf16(code × scale), the published FP8 → BF16 cast (fp8_cast_bf16.py): product in float32, then nearest even.
void dequantize_weight_bf16(const uint8_t* codes, const float* scale_inv, int64_t rows, int64_t cols,
                            int64_t block_rows, int64_t block_cols, uint16_t* out);

}  // namespace fathom
