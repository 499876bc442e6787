#pragma once
#include <cstdint>
#include <vector>

#include "formats/model_config.h"

namespace fathom {

/// Rotary embedding of a model: frequencies and the factors that YaRN brings.
struct Rope {
  std::vector<double> inverse_frequency;  ///< [qk_rope_head_dim / 2], radians per position
  double magnitude = 1;                   ///< cos and sin are multiplied by this: m(mscale) / m(mscale_all_dim)
  double softmax_scale = 1;               ///< (d_nope + d_rope)^(−1/2) · m(mscale_all_dim)²
};

/// Source: YaRN (arXiv 2309.00071) as in the published modeling_deepseek.py; applied at every length (spec §1.5).
Rope make_rope(const ModelConfig& config);

/// cos and sin of one position. Shapes: cos_sin [qk_rope_head_dim] as (cos, sin) pairs.
void rope_angles(const Rope& rope, int64_t position, float* cos_sin);

/// Rotates adjacent pairs in place: (a, b) → (a cos − b sin, a sin + b cos). Shapes: x, cos_sin [d].
void rope_rotate(float* x, const float* cos_sin, int64_t d);

}  // namespace fathom
