#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/integer_weight.h"
#include "kernels/router.h"

namespace fathom {

/// `rope_scaling` of type "yarn". Source: YaRN (arXiv 2309.00071) as in the published modeling_deepseek.py.
struct YarnConfig {
  double factor = 1;
  int64_t original_max_position_embeddings = 4096;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 1;
  double mscale_all_dim = 0;
};

/// `quantization_config` with quant_method "fp8".
struct Fp8Config {
  int64_t block_rows = 128;  ///< weight_block_size[0]: rows of the weight that share a scale
  int64_t block_cols = 128;  ///< weight_block_size[1]
  bool ue8m0 = false;        ///< scale_fmt "ue8m0": scales are powers of two
};

/// `quantization_config` with quant_method "compressed-tensors" and format "pack-quantized": matrices in integers.
struct IntegerConfig {
  struct Group {
    IntegerFormat format;
    std::vector<std::string> targets;  ///< modules, by name, expression or class ("Linear")
  };
  std::vector<Group> groups;        ///< in the order of their names; at least one
  std::vector<std::string> ignore;  ///< modules that stay as they are
};

/// That object as `fathom quantize` writes it.
nlohmann::ordered_json integer_config_json(const IntegerConfig& config);

/// The fields of `config.json` that change the mathematics, spelled as in the Hugging Face file.
struct ModelConfig {
  std::string model_type = "deepseek_v3";
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t moe_intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_nextn_predict_layers = 0;
  int64_t num_attention_heads = 0;
  std::optional<int64_t> q_lora_rank;  ///< null: queries come from one matrix, q_proj
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;
  int64_t n_routed_experts = 0;  ///< 0: every layer is dense
  int64_t n_shared_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  TopkMethod topk_method = TopkMethod::noaux_tc;
  ScoringFunc scoring_func = ScoringFunc::sigmoid;
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1;
  int64_t first_k_dense_replace = 0;
  int64_t moe_layer_freq = 1;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  std::optional<YarnConfig> yarn;
  int64_t max_position_embeddings = 0;
  bool tie_word_embeddings = false;
  std::optional<int64_t> bos_token_id;
  std::vector<int64_t> eos_token_ids;  ///< `eos_token_id` may be a number or a list
  std::optional<Fp8Config> fp8;
  std::optional<IntegerConfig> integers;  ///< never together with `fp8`
  std::string torch_dtype = "bfloat16";

  int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  /// Main layers, then MTP layers: layer ids run to this.
  int64_t total_layers() const { return num_hidden_layers + num_nextn_predict_layers; }
  /// Layer `layer` has routed experts: layer ≥ first_k_dense_replace and layer a multiple of moe_layer_freq; MTP layers
  /// always.
  bool is_moe_layer(int64_t layer) const;
  RouterConfig router() const {
    return {n_routed_experts, num_experts_per_tok, n_group,        topk_group,
            topk_method,      scoring_func,        norm_topk_prob, static_cast<float>(routed_scaling_factor)};
  }
  bool is_mtp_layer(int64_t layer) const { return layer >= num_hidden_layers; }
};

/// Reads a config. `bad_input` names `source` and the field where one is missing, of the wrong type, out of range,
/// contradicts another, or has a value that Fathom does not compute (attention_bias true, hidden_act other than silu,
/// another rope type, another topk_method, scoring_func or model_type, another quant_method, …). Fields without
/// influence on the result are ignored.
ModelConfig parse_model_config(const nlohmann::json& json, std::string_view source);

/// `DIR/config.json`, or the file itself.
ModelConfig read_model_config(const std::string& directory_or_file);

/// The published spelling, for writing checkpoints.
nlohmann::json model_config_json(const ModelConfig& config);

/// Names and shapes of the presets: "deepseek-v3", "moonlight-16b-a3b", "deepseek-v2-lite", "v3-slice", "tiny".
std::vector<std::string> model_preset_names();
std::optional<ModelConfig> model_preset(std::string_view name);

}  // namespace fathom
