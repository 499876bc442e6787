#pragma once
#include <cstdint>

#include "base/tensor.h"

namespace fathom {

/// y = x / sqrt(mean(x²) + eps) · gain for one row; float32 with the sum of squares in float64, in an order that is the
/// same on every instruction set. y may be x.
///
/// Shapes:  x, y [n] f32; gain [n] f32, bf16 or f16.
/// Source:  RMSNorm as in the published modeling_deepseek.py (spec §1.2).
void rms_norm(const float* x, int64_t n, const TensorView& gain, float eps, float* y);

/// h = silu(gate) · up, silu(z) = z · sigmoid(z). Shapes: all [n] f32; h may be gate.
void swiglu(const float* gate, const float* up, int64_t n, float* h);

/// y = e^x, within two units of the last place; exactly 0 below −104. Shapes: x, y [n] f32; y may be x.
void exponentials(const float* x, int64_t n, float* y);

/// Rotates adjacent pairs in place: (a, b) → (a cos − b sin, a sin + b cos), without fused sums. Shapes: x [d]; cos_sin
/// [d] as (cos, sin) pairs; d even.
void rotate_pairs(float* x, const float* cos_sin, int64_t d);

/// The elements of a small f32, bf16 or f16 tensor as float32.
void convert_to_f32(const TensorView& from, float* to);
/// One row of a matrix [rows, n] (f32, bf16 or f16) as float32.
void convert_row_to_f32(const TensorView& matrix, int64_t row, float* to);

/// n values between float32 and BF16 (to nearest, ties to even; subnormals kept).
void convert_f32_to_bf16(const float* from, int64_t n, uint16_t* to);
void convert_bf16_to_f32(const uint16_t* from, int64_t n, float* to);

}  // namespace fathom
