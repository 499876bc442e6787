#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "model/tape.h"
#include "model/transformer.h"
#include "train/attention_gradient.h"
#include "train/parameters.h"
#include "train/products.h"

namespace fathom {

/// What a backward works on.
struct BackwardContext {
  const LoadedModel& model;  ///< weights are views that `weights_of` made
  Parameters& parameters;
  const ComputeCopies& copies;

  const LayerWeights& layer(int64_t i) const { return model.weights.layers[static_cast<size_t>(i)]; }
  TurnedWeight turned(const Weight& weight) const { return fathom::turned(weight, parameters, copies); }
  TurnedWeight turned_router(const Weight& weight) const { return fathom::turned(weight, parameters, copies, true); }
  template <typename Tensor>
  float* gradient(const Tensor& tensor) const {
    return gradient_of(tensor, parameters, copies);
  }
  /// How the weight halves of the projections and of everything else are computed.
  ProductForm linear_form() const;
  ProductForm other_form() const;
  /// Rounding of dY of what is not FP8 in w8a8 either: head, eh_proj, kv_b_proj.
  OperandRounding other_rounding() const;
  /// Rounding of dY of the MoE's down projections: with power-of-two scales in FP8 (spec §4.3).
  OperandRounding down_rounding() const;
};

/// The gradients of the outputs of one layer's products and norms: what the input half leaves for the weight half.
/// T tokens; routed rows are tokens sorted by expert. All f32.
struct LayerGradients {
  Buffer output;                  ///< [T, hidden] of the feed-forward's and of the layer's output
  Buffer routed_gate, routed_up;  ///< [T K, moe_intermediate_size]
  Buffer routed_inner;            ///< [T K, moe_intermediate_size] inputs of down_proj, times the router's weights
  Buffer always_gate, always_up, always_inner;  ///< [T, inner] the same of the dense or shared feed-forward
  Buffer logits;                                ///< [T, E] router
  Buffer feed_forward_normed;                   ///< [T, hidden] output of post_attention_layernorm
  Buffer attention_output;                      ///< [T, hidden] output of o_proj
  Buffer attended;                              ///< [T, H d_v]
  Buffer q;                                     ///< [T, H (d_nope + d_rope)]
  Buffer q_normed, q_latent;                    ///< [T, q_lora_rank] output and input of q_a_layernorm
  Buffer kv_up;                                 ///< [T, H (d_nope + d_v)] output of kv_b_proj
  Buffer k_pe;                                  ///< [T, H d_rope]
  Buffer kv_normed;                             ///< [T, kv_lora_rank]
  Buffer kv;                                    ///< [T, kv_lora_rank + d_rope] output of kv_a_proj_with_mqa
  Buffer attention_normed;                      ///< [T, hidden] output of input_layernorm
};

/// The sequence-wise balance loss of one layer as its backward sees it.
struct BalanceTerm {
  int64_t sequences = 0;         ///< 0: no such loss
  std::vector<double> fraction;  ///< [B, E] f_e of each sequence, without gradient
  double factor = 0;             ///< of Σ f P: α · scale / B
};

/// Working memory of the backwards of one model's layers.
struct LayerGradientWorkspace {
  ProductWorkspace products;
  AttentionGradientWorkspace attention;
  Operand down_operand, gate_operand, up_operand, always_gate_operand, always_up_operand;
  std::vector<Buffer> scratch;    ///< [threads]
  std::vector<int32_t> identity;  ///< 0, 1, 2, …
  Buffer slot_gradient;           ///< [T K] of the router's weights
  Buffer normed;                  ///< [T, hidden] recomputed input of products
  Buffer latent;                  ///< [T, latent] recomputed
  Buffer factors;                 ///< [T] of a norm
  Buffer angles;                  ///< [angle_positions, d_rope] of the rotation back; made once
  int64_t angle_positions = 0;
};

/// Input half of one transformer layer: dx [T, hidden] comes in as the gradient of its output and leaves as that of its
/// input. Spans and caches are those of the forward.
void layer_input_gradient(const BackwardContext& context, int64_t layer, std::span<const Span> spans,
                          const LayerTape& tape, const BalanceTerm& balance, float* dx, LayerGradients& gradients,
                          LayerGradientWorkspace& workspace, ThreadTeam& team);

/// Weight half: adds to the gradients of all of the layer's parameters (embedding, head and what an MTP layer has
/// besides its transformer layer aside). Any time after the input half, while `gradients` and the caches last.
void layer_weight_gradient(const BackwardContext& context, int64_t layer, std::span<const Span> spans,
                           const LayerTape& tape, const LayerGradients& gradients, LayerGradientWorkspace& workspace,
                           ThreadTeam& team);

/// Copies a matrix [rows, cols] on the whole team.
void copy_rows(const float* from, int64_t rows, int64_t cols, float* to, ThreadTeam& team);

/// Input half of RMSNorm over T rows: dx = or += gradient; x rows `x_stride`, dx rows `dx_stride` apart, dy [T, n].
void norm_input_gradient(const float* x, int64_t x_stride, const TensorView& gain, const float* dy, int64_t T,
                         int64_t n, float eps, bool accumulate, float* dx, int64_t dx_stride, ThreadTeam& team);

/// Weight half: dgain [n] += Σ_t, tokens in order. `factors` is working memory.
void norm_weight_gradient(const float* x, int64_t x_stride, const float* dy, int64_t T, int64_t n, float eps,
                          float* dgain, Buffer& factors, ThreadTeam& team);

}  // namespace fathom
