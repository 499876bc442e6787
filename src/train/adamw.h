#pragma once
#include <cstdint>

#include "base/buffer.h"
#include "base/dtype.h"
#include "base/thread_team.h"
#include "train/parameters.h"

namespace fathom {

/// AdamW as the report trains with (spec §3.2); ε and which tensors decay are not published: 1e-8, matrices.
struct AdamwOptions {
  double learning_rate = 2.2e-4;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.95;
  double adam_eps = 1e-8;
  double weight_decay = 0.1;
};

/// First and second moments, float32 or BF16, [parameters.size] each, in the places of the masters; 0 at first.
struct AdamwMoments {
  DType dtype = DType::bf16;
  Buffer first, second;
};

AdamwMoments make_moments(const Parameters& parameters, DType dtype);

/// Step number `step` (1 = the first) on the masters: p ← p (1 − lr · decay) for matrices, then
/// p ← p − lr · m̂ / (√v̂ + ε), with gradients times `gradient_factor`. An expert without tokens has gradient 0 and
/// still decays.
void adamw_update(Parameters& parameters, AdamwMoments& moments, const AdamwOptions& options, int64_t step,
                  double gradient_factor, ThreadTeam& team);

}  // namespace fathom
