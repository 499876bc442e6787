#pragma once
#include <cstdint>

#include "base/tensor.h"

namespace fathom {

/// y = x / sqrt(mean(x²) + eps) · gain for one row; float32 with the sum of squares in float64. y may be x.
///
/// Shapes:  x, y [n] f32; gain [n] f32, bf16 or f16.
/// Source:  RMSNorm as in the published modeling_deepseek.py (spec §1.2).
void rms_norm(const float* x, int64_t n, const TensorView& gain, float eps, float* y);

/// h = silu(gate) · up, silu(z) = z · sigmoid(z). Shapes: all [n] f32; h may be gate.
void swiglu(const float* gate, const float* up, int64_t n, float* h);

/// The elements of a small f32, bf16 or f16 tensor as float32.
void convert_to_f32(const TensorView& from, float* to);
/// One row of a matrix [rows, n] (f32, bf16 or f16) as float32.
void convert_row_to_f32(const TensorView& matrix, int64_t row, float* to);

}  // namespace fathom
