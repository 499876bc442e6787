#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "formats/model_config.h"

namespace fathom {

/// What a tensor is for; `inspect` counts by it, `synth` and the converters choose precision by it.
enum class TensorRole {
  embedding,       ///< model.embed_tokens
  head,            ///< lm_head
  norm,            ///< any RMSNorm gain, 1-D
  attention,       ///< projections of the attention
  dense_mlp,       ///< gate/up/down of a dense layer
  router,          ///< mlp.gate.weight
  router_bias,     ///< mlp.gate.e_score_correction_bias
  shared_expert,   ///< gate/up/down of the shared experts
  routed_expert,   ///< gate/up/down of one routed expert
  mtp_projection,  ///< eh_proj
  mtp_embedding,   ///< the MTP layer's copy of the embedding; may be absent, then the main one is used
  mtp_head,        ///< the MTP layer's copy of the head; may be absent
};

/// One row of the table of a model's tensors.
struct TensorSpec {
  std::string name;  ///< as on the hub
  Shape shape;       ///< [out, in] or [n]
  TensorRole role;
  int64_t layer = -1;   ///< −1 outside the layers
  int64_t expert = -1;  ///< routed expert's id, else −1
  bool quantizable =
      false;  ///< stored in FP8 with `NAME_scale_inv` in FP8 checkpoints (linear layers but gate, head, eh_proj)
  bool optional = false;  ///< a checkpoint may leave it out
};

/// Every tensor of a model with this config, in checkpoint order; scales (`weight_scale_inv`) are not listed apart.
/// Source: shared names of the published checkpoint (DeepSeek-V3 README_WEIGHTS, model.safetensors.index.json).
std::vector<TensorSpec> tensor_table(const ModelConfig& config);

/// Shape of `NAME_scale_inv` for a quantized matrix [out, in]: one scale per block, cut-off blocks at the edges
/// included.
Shape scale_shape(const Shape& weight, const Fp8Config& fp8);

/// One tensor as a checkpoint stores it.
struct StoredTensor {
  std::string name;
  DType dtype;
  Shape shape;
  size_t row = 0;         ///< the row of `tensor_table` that it belongs to
  bool is_scale = false;  ///< the `weight_scale_inv` of that row
};

/// Everything that a published checkpoint of this config holds, in order: with `config.fp8` the quantizable matrices in
/// FP8, each followed by its F32 scales; all else in `config.torch_dtype` (BF16 unless it is float32 or float16), the
/// router bias in F32. The MTP layer's copies of embedding and head are there; a tied head is not.
std::vector<StoredTensor> stored_tensors(const ModelConfig& config);

}  // namespace fathom
