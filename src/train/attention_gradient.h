#pragma once
#include <cstdint>
#include <vector>

#include "model/transformer.h"
#include "train/products.h"

namespace fathom {

/// Working memory of the attention core's backward; grows to its greatest use.
struct AttentionGradientWorkspace {
  struct Thread {
    Operand queries, gradients, scores;
    Buffer q, d_out, keys, values, key_weights, value_weights, keys_turned, q_turned, d_out_turned;
    Buffer values_turned, key_pairs, ds;  // paired products only
    Buffer p, dp, p_turned, dp_turned, dk, dv, partial;
  };
  std::vector<Thread> threads;
  Buffer latents;  ///< [T, kv_lora_rank + d_rope] f32, as the cache holds them
  Operand latent_operand;
  Buffer kv_b_pairs;  ///< [kv_lora_rank / 2, H (d_nope + d_v), 2] BF16, where products are paired
};

/// Input half of causal attention over whole sequences, in the expanded form: keys and values are rebuilt from the
/// latents in the caches, probabilities from scores, head by head.
///
/// Shapes:  q [T, H (d_nope + d_rope)] as kept, rotated; d_attended [T, H d_v]; d_q like q; d_kv [T, H (d_nope + d_v)],
///          gradient of kv_b_proj's output; d_k_pe [T, H d_rope], of the rotated shared key, head by head. All f32
///          but q. Spans begin at position 0.
/// Source:  spec §1.3, backward notes.
void attention_core_gradient(const LoadedModel& model, int64_t layer, std::span<const Span> spans, const KeptRows& q,
                             const float* d_attended, float* d_q, float* d_kv, float* d_k_pe,
                             AttentionGradientWorkspace& workspace, ThreadTeam& team);

}  // namespace fathom
