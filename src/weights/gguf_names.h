#pragma once
#include <string>

#include "formats/tensor_table.h"

namespace fathom {

/// What GGUF files of the architecture "deepseek2" call a tensor of the table. All routed experts of a layer share a
/// name: they are one tensor, [experts, out, in]. For `kv_b_proj` the name that old files have for the whole matrix,
/// "attn_kv_b"; newer ones hold it as "attn_k_b", [heads, kv_lora_rank, qk_nope_head_dim] (transposed per head), and
/// "attn_v_b", [heads, v_head_dim, kv_lora_rank]. Source: llama.cpp's table of tensor names.
std::string gguf_tensor_name(const TensorSpec& spec);

/// "blk.3.attn_k_b.weight".
std::string gguf_layer_tensor_name(int64_t layer, const char* name);

inline bool is_kv_b_proj(const TensorSpec& spec) {
  return spec.name.ends_with(".kv_b_proj.weight");
}

}  // namespace fathom
