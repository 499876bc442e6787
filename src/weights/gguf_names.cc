#include "weights/gguf_names.h"

#include <fmt/core.h>

#include <array>

#include "base/error.h"

namespace fathom {
namespace {

struct Name {
  std::string_view ours;  ///< behind "model.layers.N."
  const char* theirs;     ///< behind "blk.N."
};
constexpr std::array kLayerNames = {
    Name{"input_layernorm.weight", "attn_norm.weight"},
    Name{"self_attn.q_proj.weight", "attn_q.weight"},
    Name{"self_attn.q_a_proj.weight", "attn_q_a.weight"},
    Name{"self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight"},
    Name{"self_attn.q_b_proj.weight", "attn_q_b.weight"},
    Name{"self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight"},
    Name{"self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight"},
    Name{"self_attn.kv_b_proj.weight", "attn_kv_b.weight"},
    Name{"self_attn.o_proj.weight", "attn_output.weight"},
    Name{"post_attention_layernorm.weight", "ffn_norm.weight"},
    Name{"mlp.gate_proj.weight", "ffn_gate.weight"},
    Name{"mlp.up_proj.weight", "ffn_up.weight"},
    Name{"mlp.down_proj.weight", "ffn_down.weight"},
    Name{"mlp.gate.weight", "ffn_gate_inp.weight"},
    Name{"mlp.gate.e_score_correction_bias", "exp_probs_b.bias"},
    Name{"mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight"},
    Name{"mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight"},
    Name{"mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight"},
    Name{"mlp.experts.gate_proj.weight", "ffn_gate_exps.weight"},
    Name{"mlp.experts.up_proj.weight", "ffn_up_exps.weight"},
    Name{"mlp.experts.down_proj.weight", "ffn_down_exps.weight"},
    Name{"embed_tokens.weight", "nextn.embed_tokens.weight"},
    Name{"enorm.weight", "nextn.enorm.weight"},
    Name{"hnorm.weight", "nextn.hnorm.weight"},
    Name{"eh_proj.weight", "nextn.eh_proj.weight"},
    Name{"shared_head.norm.weight", "nextn.shared_head_norm.weight"},
    Name{"shared_head.head.weight", "nextn.shared_head_head.weight"},
};

}  // namespace

std::string gguf_layer_tensor_name(int64_t layer, const char* name) {
  return fmt::format("blk.{}.{}", layer, name);
}

std::string gguf_tensor_name(const TensorSpec& spec) {
  if (spec.name == "model.embed_tokens.weight") return "token_embd.weight";
  if (spec.name == "model.norm.weight") return "output_norm.weight";
  if (spec.name == "lm_head.weight") return "output.weight";
  std::string_view rest = spec.name;
  rest.remove_prefix(std::min(rest.size(), fmt::format("model.layers.{}.", spec.layer).size()));
  std::string inside(rest);
  if (spec.expert >= 0) {
    const std::string number = fmt::format("experts.{}.", spec.expert);
    inside.replace(inside.find(number), number.size(), "experts.");
  }
  for (const Name& name : kLayerNames) {
    if (name.ours == inside) return gguf_layer_tensor_name(spec.layer, name.theirs);
  }
  throw_failure("{}: GGUF has no name for this tensor", spec.name);
}

}  // namespace fathom
