#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/memory.h"
#include "formats/checkpoint.h"
#include "kernels/linear.h"

namespace fathom {

/// Latent attention of a layer. Shapes as in the config; [out, in].
struct AttentionWeights {
  Weight q_proj;              ///< [H (d_nope + d_rope), hidden], only if q_lora_rank is null
  Weight q_a_proj;            ///< [q_lora_rank, hidden]
  TensorView q_a_layernorm;   ///< [q_lora_rank]
  Weight q_b_proj;            ///< [H (d_nope + d_rope), q_lora_rank]
  Weight kv_a_proj_with_mqa;  ///< [kv_lora_rank + d_rope, hidden]
  TensorView kv_a_layernorm;  ///< [kv_lora_rank]
  Weight kv_b_proj;           ///< [H (d_nope + d_v), kv_lora_rank], per head the key rows, then the value rows
  Weight o_proj;              ///< [hidden, H d_v]
};

/// A SwiGLU feed-forward: a dense layer, a routed expert, or the shared experts taken together.
struct MlpWeights {
  Weight gate_proj;  ///< [inner, hidden]
  Weight up_proj;    ///< [inner, hidden]
  Weight down_proj;  ///< [hidden, inner]
};

struct MoeWeights {
  Weight gate;                                 ///< router [E, hidden]
  std::vector<float> e_score_correction_bias;  ///< [E], empty unless noaux_tc
  std::vector<MlpWeights> experts;             ///< [E]; without data where an ExpertStore holds it
  std::optional<MlpWeights> shared_experts;
};

/// What an MTP layer has besides its transformer layer.
struct MtpWeights {
  TensorView enorm, hnorm;      ///< [hidden]
  Weight eh_proj;               ///< [hidden, 2 hidden]: embedding half first
  TensorView shared_head_norm;  ///< [hidden]
  TensorView embed_tokens;      ///< [vocab, hidden]: its own copy, or the main one
  Weight shared_head;           ///< [vocab, hidden]: its own copy, or the main one
};

struct LayerWeights {
  TensorView input_layernorm, post_attention_layernorm;  ///< [hidden]
  AttentionWeights attention;
  std::optional<MlpWeights> mlp;  ///< a dense layer's
  std::optional<MoeWeights> moe;  ///< an MoE layer's
  std::optional<MtpWeights> mtp;  ///< an MTP layer's
};

/// Every weight of a model: views on the mapped checkpoint, or on `memory` (see weight_storage.h).
struct ModelWeights {
  TensorView embed_tokens;           ///< [vocab, hidden]
  TensorView norm;                   ///< [hidden]
  Weight lm_head;                    ///< [vocab, hidden]
  std::vector<LayerWeights> layers;  ///< main layers, then MTP layers

  /// What cannot be used where it lies in a mapped file: tensors that are not aligned to their element, and scales that
  /// are not float32.
  std::vector<Buffer> copies;
  HugeBuffer memory;  ///< the weights that are held in memory; empty if all are mapped
};

/// Where weights are looked up by the names of the hub: a checkpoint, or the buffers of a trainer.
struct TensorSource {
  std::string name;  ///< for sentences
  std::function<bool(const std::string&)> has;
  std::function<TensorView(const std::string&)> tensor;  ///< throws if there is none
};

/// Looks every tensor of the config up in `source`; the views must outlive the result. `bad_input`: see load_weights.
ModelWeights bind_weights(const ModelConfig& config, const TensorSource& source);

/// Looks every tensor of the config up. `bad_input` names a tensor that is missing, has another shape than the config
/// says, or a type that cannot be computed with. Reads no data but the correction biases and scales that are not
/// float32. Without `aligned`, tensors stay where they lie even if that is not aligned to their element: for
/// `take_weights`, which copies them anyway. With `experts_apart` the routed experts are checked and described, without
/// data and scales: an ExpertStore fetches them. Matrices that are stored in integers become weights of dtype i32,
/// which only `take_weights` can use.
ModelWeights load_weights(const Checkpoint& checkpoint, bool aligned = true, bool experts_apart = false);

}  // namespace fathom
