#include "formats/model_config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "formats/json.h"
#include "formats/safetensors.h"

namespace fathom {
namespace {

using json = nlohmann::json;

// Bounds far above any published model, so low that no product of dimensions, parameter count or byte count of a whole
// model leaves 63 bits, and that the table of its tensors stays a few hundred MB.
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxWidth = int64_t{1} << 17;  // hidden_size and the ranks
constexpr int64_t kMaxInner = int64_t{1} << 20;  // inner sizes of the feed-forward networks
constexpr int64_t kMaxHeads = int64_t{1} << 12;
constexpr int64_t kMaxHeadDim = int64_t{1} << 12;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxMtpLayers = 16;
constexpr int64_t kMaxExperts = int64_t{1} << 14;
constexpr int64_t kMaxSharedExperts = 256;
constexpr int64_t kMaxPositions = int64_t{1} << 30;
constexpr int64_t kMaxBlock = int64_t{1} << 20;
constexpr int64_t kMaxExpertsOfAllLayers = int64_t{1} << 18;

std::string found_text(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  return printable_name(text.size() > 80 ? text.substr(0, 80) + "…" : text);
}

/// One object of the config. A field that is absent and one that is null are told apart only where `is_null` is asked.
struct Fields {
  const json& object;
  std::string_view source;
  std::string prefix;  ///< "rope_scaling." inside it

  const json* find(const char* name) const {
    auto place = object.find(name);
    return place == object.end() || place->is_null() ? nullptr : &*place;
  }
  bool is_null(const char* name) const {
    auto place = object.find(name);
    return place != object.end() && place->is_null();
  }

  template <typename... Args>
  [[noreturn]] void refuse(const char* name, fmt::format_string<Args...> format, Args&&... args) const {
    throw_bad_input("{}: {}{}: {}", source, prefix, name, fmt::format(format, std::forward<Args>(args)...));
  }
  [[noreturn]] void missing(const char* name) const {
    if (is_null(name)) refuse(name, "expected a value, found null");
    throw_bad_input("{}: the field {}{} is missing", source, prefix, name);
  }

  int64_t check_integer(const char* name, const json& value, int64_t least, int64_t greatest) const {
    const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() <= static_cast<uint64_t>(greatest)
                                                 : value.is_number_integer();
    if (!value.is_number_integer() || !fits || value.get<int64_t>() < least || value.get<int64_t>() > greatest) {
      refuse(name, "expected a whole number from {} to {}, found {}", least, greatest, found_text(value));
    }
    return value.get<int64_t>();
  }
  int64_t integer(const char* name, int64_t least, int64_t greatest) const {
    const json* value = find(name);
    if (value == nullptr) missing(name);
    return check_integer(name, *value, least, greatest);
  }
  int64_t integer_or(const char* name, int64_t fallback, int64_t least, int64_t greatest) const {
    const json* value = find(name);
    return value == nullptr ? fallback : check_integer(name, *value, least, greatest);
  }

  double check_number(const char* name, const json& value, double above, double greatest) const {
    const double number = value.is_number() ? value.get<double>() : std::nan("");
    if (!(number > above && number <= greatest)) {  // NaN fails both
      refuse(name, "expected a number above {} and at most {}, found {}", above, greatest, found_text(value));
    }
    return number;
  }
  double number(const char* name, double above, double greatest) const {
    const json* value = find(name);
    if (value == nullptr) missing(name);
    return check_number(name, *value, above, greatest);
  }
  double number_or(const char* name, double fallback, double above, double greatest) const {
    const json* value = find(name);
    return value == nullptr ? fallback : check_number(name, *value, above, greatest);
  }

  bool boolean_or(const char* name, bool fallback) const {
    const json* value = find(name);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) refuse(name, "expected true or false, found {}", found_text(*value));
    return value->get<bool>();
  }
  std::optional<std::string> string(const char* name) const {
    const json* value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) refuse(name, "expected a string, found {}", found_text(*value));
    return value->get<std::string>();
  }
  void refuse_true(const char* name) const {
    if (boolean_or(name, false)) refuse(name, "true is not supported, Fathom computes without biases");
  }
};

/// model_type, or what `architectures` says where it is absent. Both, where given, must be ones that Fathom computes: a
/// sequence classifier or a sparse-attention model has the same fields and other mathematics.
std::string read_model_type(const Fields& fields) {
  std::optional<std::string> type = fields.string("model_type");
  if (type && *type != "deepseek_v3" && *type != "deepseek_v2" && *type != "kimi_k2") {
    fields.refuse("model_type", "expected deepseek_v3, deepseek_v2 or kimi_k2, found \"{}\"{}", printable_name(*type),
                  *type == "deepseek_v32" ? " (the sparse attention of DeepSeek-V3.2 is not supported)" : "");
  }
  const json* architectures = fields.find("architectures");
  if (architectures != nullptr) {
    if (!architectures->is_array() || architectures->empty() || !(*architectures)[0].is_string()) {
      fields.refuse("architectures", "expected a list with one name, found {}", found_text(*architectures));
    }
    const std::string name = (*architectures)[0].get<std::string>();
    if (name != "DeepseekV3ForCausalLM" && name != "DeepseekV2ForCausalLM") {
      fields.refuse(
          "architectures", "expected DeepseekV3ForCausalLM or DeepseekV2ForCausalLM, found \"{}\"{}",
          printable_name(name),
          name == "DeepseekV32ForCausalLM" ? " (the sparse attention of DeepSeek-V3.2 is not supported)" : "");
    }
    if (!type) return name == "DeepseekV3ForCausalLM" ? "deepseek_v3" : "deepseek_v2";
  }
  if (!type) fields.missing("model_type");
  return *type;
}

/// `rope_scaling`, or `rope_parameters` of transformers 5, whose rope_theta moved inside.
std::optional<YarnConfig> read_rope(const Fields& fields, const char* name, const json& object) {
  if (!object.is_object()) fields.refuse(name, "expected an object or null, found {}", found_text(object));
  const Fields rope{object, fields.source, std::string(name) + "."};
  std::optional<std::string> type = rope.string("rope_type");
  std::optional<std::string> old_type = rope.string("type");
  if (type && old_type && *type != *old_type) {
    rope.refuse("rope_type", "contradicts type: \"{}\" and \"{}\"", printable_name(*type), printable_name(*old_type));
  }
  if (!type) type = old_type;
  if (!type) rope.missing("type");
  if (rope.number_or("partial_rotary_factor", 1, 0, 1) != 1) {
    rope.refuse("partial_rotary_factor", "expected 1, found {}", found_text(object["partial_rotary_factor"]));
  }
  if (*type == "default") return std::nullopt;
  if (*type != "yarn") rope.refuse("type", "expected \"yarn\" or \"default\", found \"{}\"", printable_name(*type));

  YarnConfig yarn;
  yarn.factor = rope.number("factor", 0, 1e6);
  if (yarn.factor < 1) rope.refuse("factor", "expected at least 1, found {}", yarn.factor);
  // Libraries disagree about its default (4096, or max_position_embeddings): it must be there.
  yarn.original_max_position_embeddings = rope.integer("original_max_position_embeddings", 1, kMaxPositions);
  // The defaults are those of DeepseekV3YarnRotaryEmbedding in the published modeling_deepseek.py.
  yarn.beta_fast = rope.number_or("beta_fast", 32, 0, 1e6);
  yarn.beta_slow = rope.number_or("beta_slow", 1, 0, 1e6);
  if (yarn.beta_fast < yarn.beta_slow) {
    rope.refuse("beta_fast", "expected at least beta_slow ({}), found {}", yarn.beta_slow, yarn.beta_fast);
  }
  const double below_zero = -1e-300;  // zero is allowed: it means "no factor"
  yarn.mscale = rope.number_or("mscale", 1, below_zero, 1e3);
  yarn.mscale_all_dim = rope.number_or("mscale_all_dim", 0, below_zero, 1e3);
  // Newer libraries know two more settings, which the published formula does not have.
  if (const json* value = rope.find("attention_factor")) {
    rope.refuse("attention_factor", "expected none (mscale and mscale_all_dim decide), found {}", found_text(*value));
  }
  if (!rope.boolean_or("truncate", true)) rope.refuse("truncate", "expected true, found false");
  return yarn;
}

void read_position_encoding(const Fields& fields, ModelConfig& config) {
  const json* scaling = fields.find("rope_scaling");
  const json* parameters = fields.find("rope_parameters");
  if (scaling != nullptr && parameters != nullptr && *scaling != *parameters) {
    fields.refuse("rope_parameters", "contradicts rope_scaling, expected only one of them");
  }
  // 10000 is the default of the configuration classes of both generations.
  config.rope_theta = fields.number_or("rope_theta", 10000, 1, 1e12);
  if (parameters != nullptr) {
    config.yarn = read_rope(fields, "rope_parameters", *parameters);
    const Fields rope{*parameters, fields.source, "rope_parameters."};
    if (rope.find("rope_theta") != nullptr) {
      const double theta = rope.number("rope_theta", 1, 1e12);
      if (fields.find("rope_theta") != nullptr && theta != config.rope_theta) {
        rope.refuse("rope_theta", "{} contradicts rope_theta {}", theta, config.rope_theta);
      }
      config.rope_theta = theta;
    }
  } else if (scaling != nullptr) {
    config.yarn = read_rope(fields, "rope_scaling", *scaling);
  }
  // Absent in all published files; the classes that know it default to true. False pairs elements d/2 apart.
  if (!fields.boolean_or("rope_interleave", true)) {
    fields.refuse("rope_interleave", "expected true (pairs are adjacent elements), found false");
  }
}

Fp8Config read_fp8(const Fields& quantization) {
  const std::string fmt = quantization.string("fmt").value_or("e4m3");
  if (fmt != "e4m3") quantization.refuse("fmt", "expected \"e4m3\", found \"{}\"", printable_name(fmt));
  const std::string scheme = quantization.string("activation_scheme").value_or("dynamic");
  if (scheme != "dynamic") {
    quantization.refuse("activation_scheme", "expected \"dynamic\", found \"{}\"", printable_name(scheme));
  }
  const json* block = quantization.find("weight_block_size");
  if (block == nullptr) quantization.missing("weight_block_size");
  if (!block->is_array() || block->size() != 2) {
    quantization.refuse("weight_block_size", "expected two whole numbers, found {}", found_text(*block));
  }
  Fp8Config fp8;
  fp8.block_rows = quantization.check_integer("weight_block_size", (*block)[0], 1, kMaxBlock);
  fp8.block_cols = quantization.check_integer("weight_block_size", (*block)[1], 1, kMaxBlock);
  if (std::optional<std::string> scale = quantization.string("scale_fmt")) {
    if (*scale != "ue8m0") {
      quantization.refuse("scale_fmt", "expected null or \"ue8m0\", found \"{}\"", printable_name(*scale));
    }
    fp8.ue8m0 = true;
  }
  return fp8;
}

// Modules of a list of names.
std::vector<std::string> read_names(const Fields& fields, const char* name) {
  const json* list = fields.find(name);
  if (list == nullptr) return {};
  const bool strings =
      list->is_array() && std::all_of(list->begin(), list->end(), [](const json& entry) { return entry.is_string(); });
  if (!strings) fields.refuse(name, "expected a list of names, found {}", found_text(*list));
  return list->get<std::vector<std::string>>();
}

void expect_none(const Fields& fields, const char* name, std::string_view why) {
  const json* value = fields.find(name);
  if (value != nullptr && !(value->is_structured() && value->empty())) {
    fields.refuse(name, "expected null ({}), found {}", why, found_text(*value));
  }
}

void expect_string(const Fields& fields, const char* name, std::string_view expected) {
  const std::optional<std::string> value = fields.string(name);
  if (!value) fields.missing(name);
  if (*value != expected) fields.refuse(name, "expected \"{}\", found \"{}\"", expected, printable_name(*value));
}

IntegerFormat read_integer_format(const Fields& weights) {
  IntegerFormat format;
  format.bits = static_cast<int>(weights.integer("num_bits", 1, 64));
  if (format.bits != 4 && format.bits != 8) weights.refuse("num_bits", "expected 4 or 8, found {}", format.bits);
  expect_string(weights, "type", "int");
  expect_string(weights, "strategy", "group");
  format.group = weights.integer("group_size", -1, kMaxWidth);
  if (format.group != 32 && format.group != 128) {
    weights.refuse("group_size", "expected 32 or 128, found {}", format.group);
  }
  format.zero_point = !weights.boolean_or("symmetric", true);
  if (const json* dynamic = weights.find("dynamic"); dynamic != nullptr && *dynamic != false) {
    weights.refuse("dynamic", "expected false, found {}", found_text(*dynamic));
  }
  expect_none(weights, "actorder", "columns stay in their order");
  expect_none(weights, "block_structure", "scales belong to groups of a row");
  return format;
}

IntegerConfig read_integers(const Fields& quantization) {
  constexpr size_t kMostGroups = 64;
  expect_string(quantization, "format", "pack-quantized");
  const std::string status = quantization.string("quantization_status").value_or("compressed");
  if (status != "compressed") {
    quantization.refuse("quantization_status", "expected \"compressed\", found \"{}\"", printable_name(status));
  }
  expect_none(quantization, "kv_cache_scheme", "the cache has types of its own");
  expect_none(quantization, "sparsity_config", "no weight is left out");
  expect_none(quantization, "transform_config", "weights are not rotated");
  const json* groups = quantization.find("config_groups");
  if (groups == nullptr) quantization.missing("config_groups");
  if (!groups->is_object() || groups->empty() || groups->size() > kMostGroups) {
    quantization.refuse("config_groups", "expected an object with 1 to {} entries, found {}", kMostGroups,
                        found_text(*groups));
  }
  IntegerConfig config;
  for (const auto& [name, group] : groups->items()) {
    const std::string prefix = quantization.prefix + "config_groups." + printable_name(name);
    const Fields outer{*groups, quantization.source, quantization.prefix + "config_groups."};
    if (!group.is_object()) outer.refuse(name.c_str(), "expected an object, found {}", found_text(group));
    const Fields fields{group, quantization.source, prefix + "."};
    expect_none(fields, "input_activations", "only weights are quantised");
    expect_none(fields, "output_activations", "only weights are quantised");
    if (fields.find("format") != nullptr) expect_string(fields, "format", "pack-quantized");
    const json* weights = fields.find("weights");
    if (weights == nullptr) fields.missing("weights");
    if (!weights->is_object()) fields.refuse("weights", "expected an object, found {}", found_text(*weights));
    config.groups.push_back(
        {read_integer_format({*weights, quantization.source, prefix + ".weights."}), read_names(fields, "targets")});
  }
  config.ignore = read_names(quantization, "ignore");
  return config;
}

void read_quantization(const Fields& fields, const json& object, ModelConfig& config) {
  if (!object.is_object()) fields.refuse("quantization_config", "expected an object, found {}", found_text(object));
  const Fields quantization{object, fields.source, "quantization_config."};
  const std::optional<std::string> method = quantization.string("quant_method");
  if (!method) quantization.missing("quant_method");
  if (*method == "fp8") {
    config.fp8 = read_fp8(quantization);
  } else if (*method == "compressed-tensors") {
    config.integers = read_integers(quantization);
  } else {
    quantization.refuse("quant_method", "expected \"fp8\" or \"compressed-tensors\", found \"{}\"",
                        printable_name(*method));
  }
}

/// The mixture of experts. The method of choice, the scores and the normalisation default to what the configuration
/// class of the model_type says, because configs saved by newer libraries leave them out: noaux_tc, sigmoid, true for
/// V3; greedy, softmax, false for V2. Where the two generations differ in a number (groups, factor, dense layers), V2's
/// class says "none"; V3's class says the numbers of the 671B model, which would be wrong for any other, so there the
/// field must be present.
void read_experts(const Fields& fields, ModelConfig& config) {
  const bool v2 = config.model_type == "deepseek_v2";
  config.n_routed_experts = fields.integer_or("n_routed_experts", 0, 0, kMaxExperts);
  if (config.n_routed_experts == 0) {
    config.topk_method = TopkMethod::greedy;  // no router, so no router bias either
    return;
  }
  config.moe_intermediate_size = fields.integer("moe_intermediate_size", 1, kMaxInner);
  config.n_shared_experts = fields.integer_or("n_shared_experts", 0, 0, kMaxSharedExperts);
  config.num_experts_per_tok = fields.integer("num_experts_per_tok", 1, kMaxExperts);
  config.moe_layer_freq = fields.integer_or("moe_layer_freq", 1, 1, kMaxLayers);
  const auto needed_by_v3 = [&](const char* name) {
    if (!v2 && !fields.object.contains(name)) fields.missing(name);
  };
  needed_by_v3("n_group");
  needed_by_v3("topk_group");
  config.n_group = fields.integer_or("n_group", 1, 1, kMaxExperts);
  config.topk_group = fields.integer_or("topk_group", 1, 1, kMaxExperts);
  needed_by_v3("first_k_dense_replace");
  config.first_k_dense_replace = fields.integer_or("first_k_dense_replace", 0, 0, kMaxLayers);
  config.routed_scaling_factor =
      v2 ? fields.number_or("routed_scaling_factor", 1, 0, 1e6) : fields.number("routed_scaling_factor", 0, 1e6);
  config.norm_topk_prob = fields.boolean_or("norm_topk_prob", !v2);

  const std::string method = fields.string("topk_method").value_or(v2 ? "greedy" : "noaux_tc");
  if (method == "noaux_tc") {
    config.topk_method = TopkMethod::noaux_tc;
  } else if (method == "group_limited_greedy") {
    config.topk_method = TopkMethod::group_limited_greedy;
  } else if (method == "greedy" || method == "gready") {  // the default of V2's published class is misspelt
    config.topk_method = TopkMethod::greedy;
  } else {
    fields.refuse("topk_method", "expected noaux_tc, group_limited_greedy or greedy, found \"{}\"",
                  printable_name(method));
  }
  const std::string scoring = fields.string("scoring_func").value_or(v2 ? "softmax" : "sigmoid");
  if (scoring == "sigmoid") {
    config.scoring_func = ScoringFunc::sigmoid;
  } else if (scoring == "softmax") {
    config.scoring_func = ScoringFunc::softmax;
  } else {
    fields.refuse("scoring_func", "expected sigmoid or softmax, found \"{}\"", printable_name(scoring));
  }
  // The published V2 code drops the factor when it normalises, V3's applies both: no V2 model has both, so none is
  // guessed.
  if (v2 && config.norm_topk_prob && config.routed_scaling_factor != 1) {
    fields.refuse("norm_topk_prob", "true together with routed_scaling_factor {} is not defined for deepseek_v2",
                  config.routed_scaling_factor);
  }

  const int64_t experts = config.n_routed_experts;
  if (config.num_experts_per_tok > experts) {
    fields.refuse("num_experts_per_tok", "{} is more than n_routed_experts, {}", config.num_experts_per_tok, experts);
  }
  if (experts % config.n_group != 0) {
    fields.refuse("n_group", "{} does not divide n_routed_experts, {}", config.n_group, experts);
  }
  if (config.topk_group > config.n_group) {
    fields.refuse("topk_group", "{} is more than n_group, {}", config.topk_group, config.n_group);
  }
  const int64_t group_size = experts / config.n_group;
  if (config.topk_method == TopkMethod::noaux_tc && config.n_group > 1 && group_size < 2) {
    fields.refuse("n_group", "noaux_tc ranks groups by their two best experts, found {} expert per group", group_size);
  }
  if (config.topk_method != TopkMethod::greedy && config.num_experts_per_tok > config.topk_group * group_size) {
    fields.refuse("num_experts_per_tok", "{} is more than the {} experts of the topk_group = {} groups that are kept",
                  config.num_experts_per_tok, config.topk_group * group_size, config.topk_group);
  }
}

void read_token_ids(const Fields& fields, ModelConfig& config) {
  // Absent or null means that there is none: the class defaults (0 and 1) hold for one tokenizer only.
  if (fields.find("bos_token_id") != nullptr) {
    config.bos_token_id = fields.integer("bos_token_id", 0, config.vocab_size - 1);
  }
  const json* eos = fields.find("eos_token_id");
  if (eos == nullptr) return;
  if (!eos->is_array()) {
    config.eos_token_ids.push_back(fields.check_integer("eos_token_id", *eos, 0, config.vocab_size - 1));
    return;
  }
  if (eos->size() > 256) fields.refuse("eos_token_id", "expected at most 256 ids, found {}", eos->size());
  for (const json& id : *eos) {
    config.eos_token_ids.push_back(fields.check_integer("eos_token_id", id, 0, config.vocab_size - 1));
  }
}

const char* topk_method_name(TopkMethod method) {
  switch (method) {
    case TopkMethod::noaux_tc:
      return "noaux_tc";
    case TopkMethod::group_limited_greedy:
      return "group_limited_greedy";
    case TopkMethod::greedy:
      return "greedy";
  }
  return "";
}

/// What the presets of the DeepSeek-V3 family share.
ModelConfig v3_preset() {
  ModelConfig config;
  config.vocab_size = 129280;
  config.hidden_size = 7168;
  config.intermediate_size = 18432;
  config.moe_intermediate_size = 2048;
  config.num_hidden_layers = 61;
  config.num_nextn_predict_layers = 1;
  config.num_attention_heads = 128;
  config.q_lora_rank = 1536;
  config.kv_lora_rank = 512;
  config.qk_nope_head_dim = 128;
  config.qk_rope_head_dim = 64;
  config.v_head_dim = 128;
  config.n_routed_experts = 256;
  config.n_shared_experts = 1;
  config.num_experts_per_tok = 8;
  config.n_group = 8;
  config.topk_group = 4;
  config.routed_scaling_factor = 2.5;
  config.first_k_dense_replace = 3;
  config.yarn = YarnConfig{40, 4096, 32, 1, 1, 1};
  config.max_position_embeddings = 163840;
  config.bos_token_id = 0;
  config.eos_token_ids = {1};
  config.fp8 = Fp8Config{};
  return config;
}

}  // namespace

bool ModelConfig::is_moe_layer(int64_t layer) const {
  if (n_routed_experts == 0) return false;
  return is_mtp_layer(layer) || (layer >= first_k_dense_replace && layer % moe_layer_freq == 0);
}

ModelConfig parse_model_config(const json& object, std::string_view source) {
  if (!object.is_object()) throw_bad_input("{}: expected a JSON object, found {}", source, found_text(object));
  const Fields fields{object, source, ""};
  ModelConfig config;
  config.model_type = read_model_type(fields);
  for (const char* name : {"index_topk", "index_n_heads"}) {
    if (fields.find(name) != nullptr) {
      fields.refuse(name, "the sparse attention of DeepSeek-V3.2 is not supported");
    }
  }

  config.vocab_size = fields.integer("vocab_size", 1, kMaxVocab);
  config.hidden_size = fields.integer("hidden_size", 1, kMaxWidth);
  config.intermediate_size = fields.integer("intermediate_size", 1, kMaxInner);
  config.num_hidden_layers = fields.integer("num_hidden_layers", 1, kMaxLayers);
  config.num_nextn_predict_layers = fields.integer_or("num_nextn_predict_layers", 0, 0, kMaxMtpLayers);
  config.max_position_embeddings = fields.integer("max_position_embeddings", 1, kMaxPositions);

  config.num_attention_heads = fields.integer("num_attention_heads", 1, kMaxHeads);
  const int64_t key_heads = fields.integer_or("num_key_value_heads", config.num_attention_heads, 1, kMaxHeads);
  if (key_heads != config.num_attention_heads) {
    fields.refuse("num_key_value_heads", "expected num_attention_heads ({}), as latent attention needs, found {}",
                  config.num_attention_heads, key_heads);
  }
  // Null is a statement (no query compression), absence is not: the class default, 1536, fits one model only.
  if (!object.contains("q_lora_rank")) fields.missing("q_lora_rank");
  if (!fields.is_null("q_lora_rank")) config.q_lora_rank = fields.integer("q_lora_rank", 1, kMaxWidth);
  config.kv_lora_rank = fields.integer("kv_lora_rank", 1, kMaxWidth);
  config.qk_nope_head_dim = fields.integer("qk_nope_head_dim", 1, kMaxHeadDim);
  config.qk_rope_head_dim = fields.integer("qk_rope_head_dim", 2, kMaxHeadDim);
  if (config.qk_rope_head_dim % 2 != 0) {
    fields.refuse("qk_rope_head_dim", "expected an even number, found {}", config.qk_rope_head_dim);
  }
  config.v_head_dim = fields.integer("v_head_dim", 1, kMaxHeadDim);
  fields.refuse_true("attention_bias");
  fields.refuse_true("mlp_bias");
  for (const char* name : {"hidden_act", "hidden_activation"}) {
    const std::string activation = fields.string(name).value_or("silu");
    if (activation != "silu") fields.refuse(name, "expected \"silu\", found \"{}\"", printable_name(activation));
  }
  config.rms_norm_eps = fields.number_or("rms_norm_eps", 1e-6, 0, 1);
  config.tie_word_embeddings = fields.boolean_or("tie_word_embeddings", false);

  read_experts(fields, config);
  if (config.total_layers() * config.n_routed_experts > kMaxExpertsOfAllLayers) {
    fields.refuse("n_routed_experts", "expected at most {} experts in all layers together, found {} in each of {}",
                  kMaxExpertsOfAllLayers, config.n_routed_experts, config.total_layers());
  }
  read_position_encoding(fields, config);
  read_token_ids(fields, config);
  if (const json* quantization = fields.find("quantization_config")) {
    read_quantization(fields, *quantization, config);
  }
  if (fields.find("compression_config") != nullptr) {
    fields.refuse("compression_config", "this quantization is not supported");
  }
  std::optional<std::string> dtype = fields.string("torch_dtype");
  if (!dtype) dtype = fields.string("dtype");  // its name since transformers 4.56
  if (dtype) config.torch_dtype = *dtype;
  return config;
}

ModelConfig read_model_config(const std::string& directory_or_file) {
  std::error_code error;
  std::string path = directory_or_file;
  if (std::filesystem::is_directory(path, error)) path = (std::filesystem::path(path) / "config.json").string();
  if (!file_exists(path)) throw_bad_input("{}: no such file, expected the config of a model", path);
  return parse_model_config(read_json_file(path), path);
}

json model_config_json(const ModelConfig& config) {
  const bool v2 = config.model_type == "deepseek_v2";
  json object = {
      {"architectures", {v2 ? "DeepseekV2ForCausalLM" : "DeepseekV3ForCausalLM"}},
      {"model_type", config.model_type},
      {"attention_bias", false},
      {"attention_dropout", 0.0},
      {"hidden_act", "silu"},
      {"vocab_size", config.vocab_size},
      {"hidden_size", config.hidden_size},
      {"intermediate_size", config.intermediate_size},
      {"num_hidden_layers", config.num_hidden_layers},
      {"num_nextn_predict_layers", config.num_nextn_predict_layers},
      {"num_attention_heads", config.num_attention_heads},
      {"num_key_value_heads", config.num_attention_heads},
      {"q_lora_rank", config.q_lora_rank ? json(*config.q_lora_rank) : json(nullptr)},
      {"kv_lora_rank", config.kv_lora_rank},
      {"qk_nope_head_dim", config.qk_nope_head_dim},
      {"qk_rope_head_dim", config.qk_rope_head_dim},
      {"v_head_dim", config.v_head_dim},
      {"rms_norm_eps", config.rms_norm_eps},
      {"rope_theta", config.rope_theta},
      {"rope_scaling", nullptr},
      {"max_position_embeddings", config.max_position_embeddings},
      {"tie_word_embeddings", config.tie_word_embeddings},
      {"bos_token_id", config.bos_token_id ? json(*config.bos_token_id) : json(nullptr)},
      {"eos_token_id", nullptr},
      {"torch_dtype", config.torch_dtype},
      {"use_cache", true},
      {"n_routed_experts", nullptr},
      {"first_k_dense_replace", config.first_k_dense_replace},
  };
  if (config.eos_token_ids.size() == 1) object["eos_token_id"] = config.eos_token_ids[0];
  if (config.eos_token_ids.size() > 1) object["eos_token_id"] = config.eos_token_ids;
  if (config.n_routed_experts > 0) {
    object["n_routed_experts"] = config.n_routed_experts;
    object["n_shared_experts"] = config.n_shared_experts > 0 ? json(config.n_shared_experts) : json(nullptr);
    object["moe_intermediate_size"] = config.moe_intermediate_size;
    object["num_experts_per_tok"] = config.num_experts_per_tok;
    object["n_group"] = config.n_group;
    object["topk_group"] = config.topk_group;
    object["topk_method"] = topk_method_name(config.topk_method);
    object["scoring_func"] = config.scoring_func == ScoringFunc::sigmoid ? "sigmoid" : "softmax";
    object["norm_topk_prob"] = config.norm_topk_prob;
    object["routed_scaling_factor"] = config.routed_scaling_factor;
    object["moe_layer_freq"] = config.moe_layer_freq;
  }
  if (config.yarn) {
    object["rope_scaling"] = {
        {"type", "yarn"},
        {"factor", config.yarn->factor},
        {"original_max_position_embeddings", config.yarn->original_max_position_embeddings},
        {"beta_fast", config.yarn->beta_fast},
        {"beta_slow", config.yarn->beta_slow},
        {"mscale", config.yarn->mscale},
        {"mscale_all_dim", config.yarn->mscale_all_dim},
    };
  }
  if (config.fp8) {
    object["quantization_config"] = {
        {"quant_method", "fp8"},
        {"fmt", "e4m3"},
        {"activation_scheme", "dynamic"},
        {"weight_block_size", {config.fp8->block_rows, config.fp8->block_cols}},
    };
    if (config.fp8->ue8m0) object["quantization_config"]["scale_fmt"] = "ue8m0";
  }
  if (config.integers) object["quantization_config"] = integer_config_json(*config.integers);
  return object;
}

nlohmann::ordered_json integer_config_json(const IntegerConfig& config) {
  using nlohmann::ordered_json;
  ordered_json groups = ordered_json::object();
  for (const IntegerConfig::Group& group : config.groups) {
    const ordered_json weights = {{"num_bits", group.format.bits},
                                  {"type", "int"},
                                  {"symmetric", !group.format.zero_point},
                                  {"strategy", "group"},
                                  {"group_size", group.format.group},
                                  {"dynamic", false},
                                  {"actorder", nullptr},
                                  {"block_structure", nullptr},
                                  {"observer", "minmax"},
                                  {"observer_kwargs", ordered_json::object()}};
    // The readers' names sort as numbers do: a name of one digit behind one of two would change places.
    groups[fmt::format("group_{:0{}}", groups.size(), config.groups.size() > 10 ? 2 : 1)] = {
        {"targets", group.targets},
        {"weights", weights},
        {"input_activations", nullptr},
        {"output_activations", nullptr}};
  }
  return {{"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"quantization_status", "compressed"},
          {"config_groups", groups},
          {"ignore", config.ignore},
          {"kv_cache_scheme", nullptr}};
}

std::vector<std::string> model_preset_names() {
  return {"deepseek-v3", "moonlight-16b-a3b", "deepseek-v2-lite", "v3-slice", "tiny"};
}

std::optional<ModelConfig> model_preset(std::string_view name) {
  ModelConfig config = v3_preset();
  if (name == "deepseek-v3") return config;
  if (name == "v3-slice") {
    // The true widths, so that every kernel meets the shapes of the 671B model, in 13.5 GB of FP8. No MTP layer: it
    // would add 7 GB, half of them copies of embedding and head.
    config.num_hidden_layers = 4;
    config.first_k_dense_replace = 1;
    config.num_nextn_predict_layers = 0;
    config.n_routed_experts = 64;
    return config;
  }
  config.fp8.reset();
  if (name == "tiny") {
    config.vocab_size = 512;
    config.hidden_size = 128;
    config.intermediate_size = 384;
    config.moe_intermediate_size = 64;
    config.num_hidden_layers = 3;
    config.first_k_dense_replace = 1;
    config.num_attention_heads = 4;
    config.q_lora_rank = 64;
    config.kv_lora_rank = 64;
    config.qk_nope_head_dim = 32;
    config.qk_rope_head_dim = 16;
    config.v_head_dim = 32;
    config.n_routed_experts = 16;
    config.num_experts_per_tok = 4;
    config.n_group = 4;
    config.topk_group = 2;
    config.yarn.reset();
    config.max_position_embeddings = 4096;
    return config;
  }
  // The two 16B models share their skeleton: no query compression, 64 experts in one group.
  config.hidden_size = 2048;
  config.moe_intermediate_size = 1408;
  config.num_hidden_layers = 27;
  config.num_nextn_predict_layers = 0;
  config.first_k_dense_replace = 1;
  config.num_attention_heads = 16;
  config.q_lora_rank.reset();
  config.n_routed_experts = 64;
  config.n_shared_experts = 2;
  config.num_experts_per_tok = 6;
  config.n_group = 1;
  config.topk_group = 1;
  if (name == "moonlight-16b-a3b") {
    config.vocab_size = 163840;
    config.intermediate_size = 11264;
    config.routed_scaling_factor = 2.446;
    config.rms_norm_eps = 1e-5;
    config.rope_theta = 50000;
    config.yarn.reset();
    config.max_position_embeddings = 8192;
    config.bos_token_id = 163584;
    config.eos_token_ids = {163585};
    return config;
  }
  if (name == "deepseek-v2-lite") {
    config.model_type = "deepseek_v2";
    config.vocab_size = 102400;
    config.intermediate_size = 10944;
    config.topk_method = TopkMethod::greedy;
    config.scoring_func = ScoringFunc::softmax;
    config.norm_topk_prob = false;
    config.routed_scaling_factor = 1;
    config.yarn = YarnConfig{40, 4096, 32, 1, 0.707, 0.707};
    config.bos_token_id = 100000;
    config.eos_token_ids = {100001};
    return config;
  }
  return std::nullopt;
}

}  // namespace fathom
