#pragma once
#include <cstdint>

#include "base/tensor.h"

namespace fathom {

// What training adds to the small functions of norm.h: the input-gradient and weight-gradient halves of single rows,
// the loss, the optimizer, and matrices turned around. float32 with float32 sums in a fixed order, unless said
// otherwise.

/// 1 / sqrt(mean(x²) + eps), the factor that rms_norm multiplies by, bit for bit. Shapes: x [n].
float rms_factor(const float* x, int64_t n, float eps);

/// Input half of RMSNorm: dx += r·u − x·(r³/n)·Σ(u⊙x) with u = dy ⊙ gain and r = rms_factor(x).
///
/// Shapes:  x, dy, dx [n] f32; gain [n] f32, bf16 or f16.
/// Source:  spec §1.2.
void rms_norm_input_gradient(const float* x, const TensorView& gain, const float* dy, float r, int64_t n, float* dx);

/// Weight half of RMSNorm for one row: dgain += dy ⊙ x · r. Shapes: all [n].
void rms_norm_gain_gradient(const float* x, const float* dy, float r, int64_t n, float* dgain);

/// Input half of h = silu(gate) · up: h again, dgate and dup from dh. h, dgate, dup may be any of the inputs.
/// Shapes: all [n].
void swiglu_gradient(const float* gate, const float* up, const float* dh, int64_t n, float* h, float* dgate,
                     float* dup);

/// Σ a_i b_i. Shapes: [n].
float dot(const float* a, const float* b, int64_t n);

/// y += factor · x. Shapes: [n].
void add_scaled(const float* x, float factor, int64_t n, float* y);

/// One row of cross-entropy: returns −ln softmax(logits)[label] and turns the logits into factor · (softmax − one-hot),
/// its gradient times `factor`. Shapes: logits [n].
double cross_entropy(float* logits, int64_t n, int32_t label, float factor);

/// p = softmax(scale · scores), in place. Shapes: scores [n].
void softmax_row(float* scores, float scale, int64_t n);

/// Input half of softmax(scale · s): dp becomes scale · p ⊙ (dp − Σ p ⊙ dp). Shapes: [n].
void softmax_row_gradient(const float* p, float scale, int64_t n, float* dp);

/// Two neighbouring rows (or one) of both of the above, for paired products (paired_product.h): row r sees its first
/// visible + r scores. Leaves p and ds as BF16, zeros behind what a row sees up to column `n`; what is subnormal may
/// become 0. p and ds of a second row that is not there are 0.
///
/// Shapes:  scores and dp [rows, n] f32, rows `stride` apart, scores and dp are overwritten; p_pairs, ds_pairs [n, 2]:
/// the two rows interleaved; ds [rows, n] BF16, rows `stride` apart.
void softmax_pair_gradient(float* scores, float* dp, int64_t stride, int64_t rows, float scale, int64_t visible,
                           int64_t n, uint16_t* p_pairs, uint16_t* ds_pairs, uint16_t* ds);

/// The numbers of one AdamW step.
struct AdamwStep {
  float gradient_factor;  ///< of the gradient: clipping
  float beta1, beta2;
  float step_size;          ///< lr / (1 − β1^t)
  float second_correction;  ///< 1 / (1 − β2^t)
  float eps;
  float keep;  ///< 1 − lr · weight decay
};

/// g = gradient_factor · gradient; m = β1 m + (1 − β1) g; v = β2 v + (1 − β2) g²; p = keep · p − step_size · m /
/// (√(second_correction · v) + eps). Moments are f32 or BF16 (rounded to nearest even when they are put back).
///
/// Shapes:  all [n]; first, second of `moments` type.
void adamw_row(const AdamwStep& step, const float* gradient, int64_t n, DType moments, void* first, void* second,
               float* p);

/// What a turned matrix is stored as.
enum class TurnedForm {
  f32,
  bf16,
  f32_rounded,  ///< float32 with the values of BF16
};

/// out[c, r] = x[row_index ? row_index[r] : r, c], then zeros up to column `padded`.
///
/// Shapes:  x [·, cols] f32 or bf16, rows `x_stride` elements apart; out [cols, padded], rows `out_stride` apart.
void turn(DType from, const void* x, int64_t x_stride, const int32_t* row_index, int64_t rows, int64_t cols,
          TurnedForm form, void* out, int64_t out_stride, int64_t padded);

}  // namespace fathom
