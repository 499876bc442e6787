#include "formats/model_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "support/errors.h"
#include "support/golden.h"

namespace fathom {
namespace {

using nlohmann::json;

json published() {
  return model_config_json(*model_preset("deepseek-v3"));
}

json v2_lite() {
  return model_config_json(*model_preset("deepseek-v2-lite"));
}

/// The published config with one field changed, by JSON pointer; `undefined` removes it.
json changed(json config, const std::string& pointer, const json& value) {
  config[json::json_pointer(pointer)] = value;
  return config;
}
json without(json config, const std::string& name) {
  config.erase(name);
  return config;
}

ModelConfig parse(const json& config) {
  return parse_model_config(config, "dir/config.json");
}

TEST(ModelConfig, ReadsThePublishedFields) {
  const ModelConfig config = parse(published());
  EXPECT_EQ(config.hidden_size, 7168);
  EXPECT_EQ(config.q_lora_rank, 1536);
  EXPECT_EQ(config.total_layers(), 62);
  EXPECT_EQ(config.topk_method, TopkMethod::noaux_tc);
  EXPECT_EQ(config.scoring_func, ScoringFunc::sigmoid);
  ASSERT_TRUE(config.yarn);
  EXPECT_EQ(config.yarn->factor, 40);
  ASSERT_TRUE(config.fp8);
  EXPECT_EQ(config.fp8->block_rows, 128);
  EXPECT_FALSE(config.fp8->ue8m0);
  EXPECT_EQ(config.eos_token_ids, std::vector<int64_t>{1});
  EXPECT_FALSE(config.is_moe_layer(2));
  EXPECT_TRUE(config.is_moe_layer(3));
  EXPECT_TRUE(config.is_moe_layer(61));
  EXPECT_TRUE(config.is_mtp_layer(61));
}

TEST(ModelConfig, PresetsSurviveARoundTrip) {
  for (const std::string& name : model_preset_names()) {
    const std::optional<ModelConfig> preset = model_preset(name);
    ASSERT_TRUE(preset) << name;
    const json written = model_config_json(*preset);
    EXPECT_EQ(model_config_json(parse(written)), written) << name;
  }
  EXPECT_FALSE(model_preset("deepseek-v4"));
}

TEST(ModelConfig, ReadsTheReferenceConfigs) {
  for (const char* name : {"bf16-tiny", "fp8-tiny", "noqlora", "v2-softmax", "v2-grouped", "long-yarn", "train-tiny"}) {
    const std::string directory = golden_dir(name);
    if (directory.empty()) continue;
    const ModelConfig config = read_model_config(directory);
    EXPECT_EQ(model_config_json(parse(model_config_json(config))), model_config_json(config)) << name;
  }
  FATHOM_GOLDEN_OR_SKIP(directory, "v2-grouped");
  const ModelConfig config = read_model_config(directory + "/config.json");
  EXPECT_EQ(config.topk_method, TopkMethod::group_limited_greedy);
  EXPECT_EQ(config.scoring_func, ScoringFunc::softmax);
  EXPECT_EQ(config.yarn->mscale_all_dim, 0.707);
  EXPECT_FALSE(config.norm_topk_prob);
}

TEST(ModelConfig, DefaultsAreThoseOfTheModelType) {
  json v3 = published();
  for (const char* name : {"topk_method", "scoring_func", "norm_topk_prob", "rope_theta", "rms_norm_eps",
                           "num_nextn_predict_layers", "num_key_value_heads", "hidden_act", "tie_word_embeddings",
                           "moe_layer_freq", "quantization_config", "torch_dtype"}) {
    v3.erase(name);
  }
  const ModelConfig config = parse(v3);
  EXPECT_EQ(config.topk_method, TopkMethod::noaux_tc);
  EXPECT_EQ(config.scoring_func, ScoringFunc::sigmoid);
  EXPECT_TRUE(config.norm_topk_prob);
  EXPECT_EQ(config.rope_theta, 10000);
  EXPECT_EQ(config.num_nextn_predict_layers, 0);
  EXPECT_FALSE(config.fp8);

  json v2 = v2_lite();
  for (const char* name : {"topk_method", "scoring_func", "norm_topk_prob", "n_group", "topk_group",
                           "routed_scaling_factor", "first_k_dense_replace"}) {
    v2.erase(name);
  }
  const ModelConfig lite = parse(v2);
  EXPECT_EQ(lite.topk_method, TopkMethod::greedy);
  EXPECT_EQ(lite.scoring_func, ScoringFunc::softmax);
  EXPECT_FALSE(lite.norm_topk_prob);
  EXPECT_EQ(lite.n_group, 1);
  EXPECT_EQ(lite.routed_scaling_factor, 1);
  EXPECT_EQ(lite.first_k_dense_replace, 0);
}

TEST(ModelConfig, AcceptsTheSpellingsInUse) {
  json config = published();
  config["n_group"] = nullptr;
  config["topk_group"] = nullptr;
  config["eos_token_id"] = {1, 2};
  config["n_shared_experts"] = nullptr;
  config["model_type"] = "kimi_k2";
  config["quantization_config"]["scale_fmt"] = "ue8m0";
  config["quantization_config"]["weight_block_size"] = {64, 32};
  ModelConfig read = parse(config);
  EXPECT_EQ(read.n_group, 1);
  EXPECT_EQ(read.topk_group, 1);
  EXPECT_EQ(read.eos_token_ids, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(read.n_shared_experts, 0);
  EXPECT_TRUE(read.fp8->ue8m0);
  EXPECT_EQ(read.fp8->block_cols, 32);

  EXPECT_EQ(parse(without(published(), "model_type")).model_type, "deepseek_v3");
  EXPECT_EQ(parse(without(v2_lite(), "model_type")).model_type, "deepseek_v2");
  EXPECT_EQ(parse(changed(v2_lite(), "/topk_method", "gready")).topk_method, TopkMethod::greedy);
  EXPECT_FALSE(parse(changed(published(), "/rope_scaling", {{"rope_type", "default"}})).yarn);
  EXPECT_EQ(parse(changed(published(), "/moe_layer_freq", 2)).is_moe_layer(5), false);
  EXPECT_EQ(parse(changed(published(), "/moe_layer_freq", 2)).is_moe_layer(61), true);

  for (const json& none : {json(nullptr), json(0)}) {
    const ModelConfig dense = parse(changed(published(), "/n_routed_experts", none));
    EXPECT_FALSE(dense.is_moe_layer(10));
    EXPECT_FALSE(dense.is_moe_layer(61));
  }
}

TEST(ModelConfig, AcceptsRopeParametersOfTransformers5) {
  json config = published();
  config["rope_parameters"] = config["rope_scaling"];
  config["rope_parameters"]["rope_type"] = "yarn";
  config["rope_parameters"].erase("type");
  config["rope_parameters"]["rope_theta"] = 50000;
  config.erase("rope_scaling");
  config.erase("rope_theta");
  const ModelConfig read = parse(config);
  EXPECT_EQ(read.rope_theta, 50000);
  ASSERT_TRUE(read.yarn);
  EXPECT_EQ(read.yarn->factor, 40);

  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
  EXPECT_FALSE(parse(config).yarn);
  config["rope_theta"] = 20000;
  FATHOM_EXPECT_ERROR(parse(config), ErrorKind::bad_input, "rope_parameters.rope_theta", "20000");
  config["rope_scaling"] = {{"type", "yarn"}};
  FATHOM_EXPECT_ERROR(parse(config), ErrorKind::bad_input, "rope_parameters", "contradicts");
}

struct BadField {
  const char* pointer;
  json value;
  std::vector<std::string> parts;
};

TEST(ModelConfig, RefusesWhatItDoesNotCompute) {
  const std::vector<BadField> fields = {
      {"/model_type", "llama", {"model_type", "llama"}},
      {"/model_type", "deepseek_v32", {"model_type", "DeepSeek-V3.2"}},
      {"/architectures", {"DeepseekV32ForCausalLM"}, {"architectures", "DeepSeek-V3.2"}},
      {"/architectures", {"DeepseekV3ForSequenceClassification"}, {"architectures", "SequenceClassification"}},
      {"/architectures", "x", {"architectures"}},
      {"/index_topk", 2048, {"index_topk", "sparse"}},
      {"/vocab_size", nullptr, {"vocab_size", "null"}},
      {"/vocab_size", "many", {"vocab_size", "many"}},
      {"/vocab_size", 0, {"vocab_size", "0"}},
      {"/vocab_size", 1e9, {"vocab_size"}},
      {"/hidden_size", -7168, {"hidden_size", "-7168"}},
      {"/hidden_size", 7168.5, {"hidden_size", "7168.5"}},
      {"/hidden_size", 18446744073709551615u, {"hidden_size"}},
      {"/intermediate_size", true, {"intermediate_size", "true"}},
      {"/moe_intermediate_size", nullptr, {"moe_intermediate_size"}},
      {"/num_hidden_layers", 100000, {"num_hidden_layers", "100000"}},
      {"/num_nextn_predict_layers", -1, {"num_nextn_predict_layers"}},
      {"/num_key_value_heads", 8, {"num_key_value_heads", "128", "8"}},
      {"/q_lora_rank", 0, {"q_lora_rank", "0"}},
      {"/kv_lora_rank", nullptr, {"kv_lora_rank"}},
      {"/qk_rope_head_dim", 63, {"qk_rope_head_dim", "even"}},
      {"/v_head_dim", json::array(), {"v_head_dim"}},
      {"/attention_bias", true, {"attention_bias"}},
      {"/attention_bias", 1, {"attention_bias", "true or false"}},
      {"/mlp_bias", true, {"mlp_bias"}},
      {"/hidden_act", "gelu", {"hidden_act", "gelu"}},
      {"/hidden_activation", "gelu", {"hidden_activation", "gelu"}},
      {"/rms_norm_eps", 0, {"rms_norm_eps"}},
      {"/rms_norm_eps", "1e-6", {"rms_norm_eps"}},
      {"/rope_theta", -1, {"rope_theta"}},
      {"/rope_interleave", false, {"rope_interleave"}},
      {"/rope_scaling", "yarn", {"rope_scaling"}},
      {"/rope_scaling/type", "linear", {"rope_scaling.type", "linear"}},
      {"/rope_scaling/type", "dynamic", {"rope_scaling.type", "dynamic"}},
      {"/rope_scaling/rope_type", "llama3", {"rope_scaling.rope_type", "llama3"}},
      {"/rope_scaling/type", nullptr, {"rope_scaling.type"}},
      {"/rope_scaling/factor", nullptr, {"rope_scaling.factor"}},
      {"/rope_scaling/factor", 0.5, {"rope_scaling.factor", "0.5"}},
      {"/rope_scaling/original_max_position_embeddings", nullptr, {"rope_scaling.original_max_position_embeddings"}},
      {"/rope_scaling/beta_fast", 0.5, {"rope_scaling.beta_fast"}},
      {"/rope_scaling/attention_factor", 1.2, {"rope_scaling.attention_factor", "1.2"}},
      {"/rope_scaling/truncate", false, {"rope_scaling.truncate"}},
      {"/rope_scaling/partial_rotary_factor", 0.5, {"rope_scaling.partial_rotary_factor"}},
      {"/n_routed_experts", 255, {"n_group", "255"}},
      {"/n_routed_experts", 100000, {"n_routed_experts"}},
      {"/n_routed_experts", 8192, {"n_routed_experts", "all layers"}},
      {"/num_experts_per_tok", 257, {"num_experts_per_tok", "256"}},
      {"/num_experts_per_tok", 129, {"num_experts_per_tok", "128 experts"}},
      {"/num_experts_per_tok", nullptr, {"num_experts_per_tok"}},
      {"/n_group", 256, {"n_group", "two best"}},
      {"/topk_group", 9, {"topk_group", "9"}},
      {"/topk_method", "random", {"topk_method", "random"}},
      {"/scoring_func", "tanh", {"scoring_func", "tanh"}},
      {"/norm_topk_prob", "yes", {"norm_topk_prob"}},
      {"/routed_scaling_factor", 0, {"routed_scaling_factor"}},
      {"/moe_layer_freq", 0, {"moe_layer_freq"}},
      {"/first_k_dense_replace", -1, {"first_k_dense_replace"}},
      {"/bos_token_id", 129280, {"bos_token_id", "129280"}},
      {"/eos_token_id", "</s>", {"eos_token_id"}},
      {"/eos_token_id", {1, -1}, {"eos_token_id", "-1"}},
      {"/tie_word_embeddings", 0, {"tie_word_embeddings"}},
      {"/quantization_config", "fp8", {"quantization_config"}},
      {"/quantization_config/quant_method", "awq", {"quantization_config.quant_method", "awq", "compressed-tensors"}},
      {"/quantization_config/quant_method", "compressed-tensors", {"quantization_config.format", "missing"}},
      {"/quantization_config/quant_method", "gptq", {"quant_method", "gptq"}},
      {"/quantization_config/quant_method", "awq", {"quant_method", "awq"}},
      {"/quantization_config/fmt", "e5m2", {"quantization_config.fmt", "e5m2"}},
      {"/quantization_config/activation_scheme", "static", {"activation_scheme", "static"}},
      {"/quantization_config/weight_block_size", nullptr, {"weight_block_size"}},
      {"/quantization_config/weight_block_size", {128}, {"weight_block_size"}},
      {"/quantization_config/weight_block_size", {128, 0}, {"weight_block_size", "0"}},
      {"/quantization_config/scale_fmt", "fp16", {"scale_fmt", "fp16"}},
      {"/compression_config", json::object(), {"compression_config"}},
      {"/torch_dtype", 16, {"torch_dtype"}},
  };
  for (const BadField& field : fields) {
    SCOPED_TRACE(std::string(field.pointer) + " = " + field.value.dump());
    const json config = changed(published(), field.pointer, field.value);
    FATHOM_EXPECT_ERROR(parse(config), ErrorKind::bad_input, "dir/config.json");
    for (const std::string& part : field.parts) FATHOM_EXPECT_ERROR(parse(config), ErrorKind::bad_input, part);
  }
  FATHOM_EXPECT_ERROR(parse(json::array()), ErrorKind::bad_input, "object");
  json normalised = v2_lite();
  normalised["norm_topk_prob"] = true;
  parse(normalised);
  normalised["routed_scaling_factor"] = 16;
  FATHOM_EXPECT_ERROR(parse(normalised), ErrorKind::bad_input, "norm_topk_prob", "16");
}

TEST(ModelConfig, NamesTheMissingField) {
  for (const char* name : {"vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size",
                           "num_hidden_layers", "num_attention_heads", "q_lora_rank", "kv_lora_rank",
                           "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "num_experts_per_tok", "n_group",
                           "topk_group", "routed_scaling_factor", "first_k_dense_replace", "max_position_embeddings"}) {
    FATHOM_EXPECT_ERROR(parse(without(published(), name)), ErrorKind::bad_input, std::string(name) + " is missing");
  }
  json nameless = without(published(), "model_type");
  nameless.erase("architectures");
  FATHOM_EXPECT_ERROR(parse(nameless), ErrorKind::bad_input, "model_type is missing");
}

TEST(ModelConfig, IgnoresFieldsWithoutInfluence) {
  json config = published();
  config["ep_size"] = 7;
  config["aux_loss_alpha"] = "anything";
  config["pretraining_tp"] = nullptr;
  EXPECT_EQ(model_config_json(parse(config)), published());
}

TEST(ModelConfig, NamesTheFile) {
  TemporaryDirectory directory;
  FATHOM_EXPECT_ERROR(read_model_config(directory.path()), ErrorKind::bad_input, directory.file("config.json"),
                      "no such file");
  OutputFile file(directory.file("config.json"));
  file.write("{\"model_type\": ");
  file.commit();
  FATHOM_EXPECT_ERROR(read_model_config(directory.path()), ErrorKind::bad_input, directory.file("config.json"));
}

}  // namespace
}  // namespace fathom
