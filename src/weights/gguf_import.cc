#include "weights/gguf_import.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/number_formats.h"
#include "formats/tensor_table.h"
#include "weights/gguf_names.h"
#include "weights/gguf_tokens.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxSplits = 65535;

/// Paths of all split files, or the path itself.
std::vector<std::string> split_paths(const std::string& path) {
  // "-00001-of-00003.gguf"
  constexpr std::string_view kEnd = ".gguf";
  constexpr size_t kLength = 20;
  const auto digits = [&](size_t at) {
    return std::all_of(path.begin() + static_cast<ptrdiff_t>(at), path.begin() + static_cast<ptrdiff_t>(at + 5),
                       [](char c) { return c >= '0' && c <= '9'; });
  };
  if (!path.ends_with(kEnd) || path.size() <= kLength) return {path};
  const size_t at = path.size() - kLength;
  if (path[at] != '-' || !digits(at + 1) || path.compare(at + 6, 4, "-of-") != 0 || !digits(at + 10)) return {path};
  const int64_t count = std::atoi(path.substr(at + 10, 5).c_str());
  if (count < 1 || count > kMaxSplits) return {path};
  std::vector<std::string> paths;
  for (int64_t i = 1; i <= count; ++i) {
    paths.push_back(fmt::format("{}-{:05}-of-{:05}.gguf", path.substr(0, at), i, count));
  }
  return paths;
}

/// Keys of the model, checked as they are read.
class Keys {
 public:
  explicit Keys(const GgufFile& file) : file_(file) {}

  std::optional<int64_t> find_whole(const char* key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return std::nullopt;
    const auto* whole = std::get_if<int64_t>(&value->value);
    if (whole == nullptr || value->type == GgufType::boolean || *whole < 0) refuse(key, "expected a whole number");
    return *whole;
  }
  int64_t whole(const char* key) const {
    const auto value = find_whole(key);
    if (!value) throw_bad_input("{}: the key deepseek2.{} is missing", file_.path(), key);
    return *value;
  }
  /// float32 numbers as the decimal number that they are the nearest of: 1e-6, not 9.99999997e-7.
  std::optional<double> find_number(const char* key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return std::nullopt;
    const auto* number = std::get_if<double>(&value->value);
    if (number == nullptr || !std::isfinite(*number)) refuse(key, "expected a finite number");
    if (value->type != GgufType::f32) return *number;
    return std::strtod(fmt::format("{}", static_cast<float>(*number)).c_str(), nullptr);
  }
  bool flag(const char* key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return false;
    if (value->type != GgufType::boolean) refuse(key, "expected true or false");
    return std::get<int64_t>(value->value) != 0;
  }
  std::optional<std::string> find_text(const char* key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return std::nullopt;
    const auto* text = std::get_if<std::string>(&value->value);
    if (text == nullptr) refuse(key, "expected a text");
    return *text;
  }
  [[noreturn]] void refuse(const char* key, const std::string& why) const {
    throw_bad_input("{}: deepseek2.{}: {}", file_.path(), key, why);
  }

 private:
  const GgufValue* find(const char* key) const { return file_.find(std::string("deepseek2.") + key); }

  const GgufFile& file_;
};

void check_architecture(const GgufFile& file) {
  const GgufValue* value = file.find("general.architecture");
  const auto* text = value == nullptr ? nullptr : std::get_if<std::string>(&value->value);
  if (text == nullptr) throw_bad_input("{}: the key general.architecture is missing", file.path());
  if (*text != "deepseek2") {
    throw_bad_input("{}: general.architecture: expected deepseek2, found {}", file.path(), printable_name(*text));
  }
}

void read_attention(const Keys& keys, ModelConfig& config) {
  config.num_attention_heads = keys.whole("attention.head_count");
  config.q_lora_rank = keys.find_whole("attention.q_lora_rank");
  if (config.q_lora_rank == 0) config.q_lora_rank.reset();
  config.kv_lora_rank = keys.whole("attention.kv_lora_rank");
  config.qk_rope_head_dim = keys.whole("rope.dimension_count");
  // Files with the whole kv_b_proj have the sizes of a head under these names; newer ones those of the latent.
  const auto key_length = keys.find_whole("attention.key_length_mla");
  const auto value_length = keys.find_whole("attention.value_length_mla");
  const int64_t head = key_length ? *key_length : keys.whole("attention.key_length");
  if (head <= config.qk_rope_head_dim) {
    keys.refuse(key_length ? "attention.key_length_mla" : "attention.key_length",
                fmt::format("expected more than rope.dimension_count ({}), found {}", config.qk_rope_head_dim, head));
  }
  config.qk_nope_head_dim = head - config.qk_rope_head_dim;
  config.v_head_dim = value_length ? *value_length : keys.whole("attention.value_length");
  if (keys.find_number("attention.temperature_scale").value_or(0) != 0) {
    keys.refuse("attention.temperature_scale", "a temperature of attention is not supported");
  }
}

void read_positions(const Keys& keys, ModelConfig& config) {
  config.rope_theta = keys.find_number("rope.freq_base").value_or(10000);
  const std::string type = keys.find_text("rope.scaling.type").value_or("none");
  if (type == "none") {
    if (keys.find_number("rope.scaling.factor").value_or(1) != 1) {
      keys.refuse("rope.scaling.factor", "a factor without rope.scaling.type \"yarn\" is not supported");
    }
    return;
  }
  if (type != "yarn") {
    keys.refuse("rope.scaling.type", fmt::format("expected none or yarn, found {}", printable_name(type)));
  }
  YarnConfig yarn;
  const auto factor = keys.find_number("rope.scaling.factor");
  if (!factor) keys.refuse("rope.scaling.factor", "the key is missing");
  yarn.factor = *factor;
  yarn.original_max_position_embeddings = keys.whole("rope.scaling.original_context_length");
  yarn.beta_fast = keys.find_number("rope.scaling.yarn_beta_fast").value_or(32);
  yarn.beta_slow = keys.find_number("rope.scaling.yarn_beta_slow").value_or(1);
  // The file holds 0.1 · mscale_all_dim in float32: seven digits are what it knows.
  const double times_ten = 10 * keys.find_number("rope.scaling.yarn_log_multiplier").value_or(0);
  yarn.mscale_all_dim = std::strtod(fmt::format("{:.6g}", times_ten).c_str(), nullptr);
  yarn.mscale = yarn.mscale_all_dim;
  config.yarn = yarn;
}

void read_groups(const Keys& keys, ModelConfig& config, std::vector<std::string>& notes) {
  const auto count = keys.find_whole("expert_group_count");
  const auto used = keys.find_whole("expert_group_used_count");
  if (count && used && *count > 0) {
    config.n_group = *count;
    config.topk_group = *used;
    return;
  }
  const bool v3 = config.n_routed_experts == 256 && config.hidden_size == 7168 && config.num_hidden_layers == 61;
  const bool v2 = config.n_routed_experts == 160 && config.hidden_size == 5120 && config.num_hidden_layers == 60;
  if (v3 || v2) {
    config.n_group = 8;
    config.topk_group = v3 ? 4 : 3;
  }
  notes.push_back(
      fmt::format("the file says nothing of groups of experts: {}", v3   ? "8, of which 4 are kept, as DeepSeek-V3 has"
                                                                    : v2 ? "8, of which 3 are kept, as DeepSeek-V2 has"
                                                                         : "none"));
}

bool has_router_bias(const GgufModel& model, const ModelConfig& config) {
  return model.find(gguf_layer_tensor_name(config.first_k_dense_replace, "exp_probs_b.bias")) != nullptr;
}

void read_experts(const GgufModel& model, const Keys& keys, ModelConfig& config, std::vector<std::string>& notes) {
  config.n_routed_experts = keys.find_whole("expert_count").value_or(0);
  if (config.n_routed_experts == 0) {
    config.topk_method = TopkMethod::greedy;
    return;
  }
  config.first_k_dense_replace = keys.find_whole("leading_dense_block_count").value_or(0);
  config.moe_intermediate_size = keys.whole("expert_feed_forward_length");
  config.n_shared_experts = keys.whole("expert_shared_count");
  config.num_experts_per_tok = keys.whole("expert_used_count");
  config.routed_scaling_factor = keys.find_number("expert_weights_scale").value_or(1);
  if (config.routed_scaling_factor == 0) config.routed_scaling_factor = 1;  // "no scale"
  config.norm_topk_prob = keys.flag("expert_weights_norm");
  const int64_t gating = keys.find_whole("expert_gating_func").value_or(0);
  if (gating > 2) keys.refuse("expert_gating_func", fmt::format("expected 1 or 2, found {}", gating));
  config.scoring_func = gating == 2 ? ScoringFunc::sigmoid : ScoringFunc::softmax;
  read_groups(keys, config, notes);
  config.topk_method = has_router_bias(model, config) ? TopkMethod::noaux_tc
                       : config.n_group > 1           ? TopkMethod::group_limited_greedy
                                                      : TopkMethod::greedy;
  // The two generations differ where a config leaves something out, which this one does not.
  const bool v2 = config.scoring_func == ScoringFunc::softmax && config.topk_method != TopkMethod::noaux_tc &&
                  !(config.norm_topk_prob && config.routed_scaling_factor != 1);
  config.model_type = v2 ? "deepseek_v2" : "deepseek_v3";
}

ModelConfig read_config(const GgufModel& model, std::vector<std::string>& notes) {
  const GgufFile& file = model.keys();
  const Keys keys(file);
  ModelConfig config;
  const GgufTensor* embedding = model.find("token_embd.weight");
  if (embedding == nullptr) throw_bad_input("{}: the tensor token_embd.weight is missing", file.path());
  config.vocab_size = embedding->rows();
  config.hidden_size = keys.whole("embedding_length");
  config.intermediate_size = keys.whole("feed_forward_length");
  config.max_position_embeddings = keys.whole("context_length");
  const auto epsilon = keys.find_number("attention.layer_norm_rms_epsilon");
  if (!epsilon) keys.refuse("attention.layer_norm_rms_epsilon", "the key is missing");
  config.rms_norm_eps = *epsilon;
  const int64_t blocks = keys.whole("block_count");
  const int64_t mtp = keys.find_whole("nextn_predict_layers").value_or(0);
  if (mtp >= blocks) {
    keys.refuse("nextn_predict_layers", fmt::format("expected fewer than block_count ({}), found {}", blocks, mtp));
  }
  config.num_hidden_layers = blocks - mtp;
  // Other writers count the MTP layer and leave its tensors out.
  if (mtp > 0 && model.find(gguf_layer_tensor_name(config.num_hidden_layers, "nextn.eh_proj.weight")) != nullptr) {
    config.num_nextn_predict_layers = mtp;
  }
  config.tie_word_embeddings = model.find("output.weight") == nullptr;
  read_attention(keys, config);
  read_positions(keys, config);
  read_experts(model, keys, config, notes);
  read_gguf_token_ids(file, config);
  // The bounds of a config, and what contradicts what.
  return parse_model_config(model_config_json(config), file.path());
}

// ---- Tensors ----

using MakeRows = std::function<void(int64_t first, int64_t count, float* to)>;

/// Where the values of each tensor of the table come from.
class Sources {
 public:
  Sources(const GgufModel& model, const ModelConfig& config) : model_(model), config_(config) {}

  bool has(const TensorSpec& spec) const { return model_.find(gguf_tensor_name(spec)) != nullptr; }

  MakeRows rows(const TensorSpec& spec) const {
    if (is_kv_b_proj(spec)) return kv_b(spec);
    if (spec.expert >= 0) return expert(spec);
    const GgufTensor& tensor = require(gguf_tensor_name(spec), spec.shape);
    if (spec.shape.size() == 1) {  // one row there, one value a row here
      return [this, &tensor](int64_t first, int64_t count, float* to) {
        std::vector<float> all(static_cast<size_t>(tensor.row_values()));
        model_.read(tensor, 0, 1, all.data());
        std::copy_n(all.begin() + first, count, to);
      };
    }
    return [this, &tensor](int64_t first, int64_t count, float* to) { model_.read(tensor, first, count, to); };
  }

 private:
  const GgufTensor& require(const std::string& name, const Shape& shape) const {
    const GgufTensor* tensor = model_.find(name);
    if (tensor == nullptr) throw_bad_input("{}: the tensor {} is missing", model_.keys().path(), name);
    if (tensor->shape != shape) {
      throw_bad_input("{}: {}: expected the shape {}, found {}", model_.keys().path(), name, shape_text(shape),
                      shape_text(tensor->shape));
    }
    return *tensor;
  }

  MakeRows expert(const TensorSpec& spec) const {
    const int64_t experts = config_.n_routed_experts, rows = spec.shape[0];
    const std::string fused = gguf_layer_tensor_name(spec.layer, "ffn_gate_up_exps.weight");
    const bool up = spec.name.ends_with(".up_proj.weight");
    const bool is_fused = (up || spec.name.ends_with(".gate_proj.weight")) && model_.find(fused) != nullptr;
    const GgufTensor& tensor = is_fused ? require(fused, {experts, 2 * rows, spec.shape[1]})
                                        : require(gguf_tensor_name(spec), {experts, rows, spec.shape[1]});
    const int64_t begin = is_fused ? (2 * spec.expert + (up ? 1 : 0)) * rows : spec.expert * rows;
    return [this, &tensor, begin](int64_t first, int64_t count, float* to) {
      model_.read(tensor, begin + first, count, to);
    };
  }

  /// From attn_kv_b, or keys' rows from attn_k_b, which is transposed per head, and values' rows from attn_v_b.
  MakeRows kv_b(const TensorSpec& spec) const {
    const int64_t heads = config_.num_attention_heads, rank = config_.kv_lora_rank;
    const int64_t nope = config_.qk_nope_head_dim, v = config_.v_head_dim;
    if (has(spec)) {
      const GgufTensor& whole = require(gguf_tensor_name(spec), spec.shape);
      return [this, &whole](int64_t first, int64_t count, float* to) { model_.read(whole, first, count, to); };
    }
    const GgufTensor& keys = require(gguf_layer_tensor_name(spec.layer, "attn_k_b.weight"), {heads, rank, nope});
    const GgufTensor& values = require(gguf_layer_tensor_name(spec.layer, "attn_v_b.weight"), {heads, v, rank});
    return [this, &keys, &values, rank, nope, v](int64_t first, int64_t count, float* to) {
      std::vector<float> head_keys(static_cast<size_t>(rank * nope));
      for (int64_t row = first, end = first + count; row < end;) {
        const int64_t head = row / (nope + v), in_head = row % (nope + v);
        float* out = to + (row - first) * rank;
        if (in_head >= nope) {
          const int64_t here = std::min(nope + v - in_head, end - row);
          model_.read(values, head * v + in_head - nope, here, out);
          row += here;
          continue;
        }
        model_.read(keys, head * rank, rank, head_keys.data());
        const int64_t here = std::min(nope - in_head, end - row);
        for (int64_t i = 0; i < here; ++i) {
          for (int64_t c = 0; c < rank; ++c) *out++ = head_keys[static_cast<size_t>(c * nope + in_head + i)];
        }
        row += here;
      }
    };
  }

  const GgufModel& model_;
  const ModelConfig& config_;
};

OutputTensor output_tensor(const TensorSpec& spec, bool f32, MakeRows rows) {
  OutputTensor tensor{spec.name, f32 ? DType::f32 : DType::bf16, spec.shape, {}};
  const int64_t cols = spec.shape.size() == 1 ? 1 : spec.shape[1];
  tensor.make = [rows = std::move(rows), f32, cols](int64_t first, int64_t count, std::byte* out) {
    std::vector<float> values(static_cast<size_t>(count * cols));
    rows(first, count, values.data());
    ggml_quantize(f32 ? GgmlType::f32 : GgmlType::bf16, values.data(), count * cols, out);
  };
  return tensor;
}

/// Every tensor that the config has no place for is named: it might change the result.
void check_no_others(const GgufModel& model, const std::vector<TensorSpec>& table, const ModelConfig& config) {
  std::vector<std::string> known;
  known.reserve(table.size());
  for (const TensorSpec& spec : table) {
    if (spec.expert <= 0) known.push_back(gguf_tensor_name(spec));
    if (is_kv_b_proj(spec)) {
      known.push_back(gguf_layer_tensor_name(spec.layer, "attn_k_b.weight"));
      known.push_back(gguf_layer_tensor_name(spec.layer, "attn_v_b.weight"));
    }
    if (spec.role == TensorRole::router) known.push_back(gguf_layer_tensor_name(spec.layer, "ffn_gate_up_exps.weight"));
  }
  std::sort(known.begin(), known.end());
  for (const auto& file : model.files()) {
    for (const GgufTensor& tensor : file->header().tensors) {
      if (std::binary_search(known.begin(), known.end(), tensor.name)) continue;
      throw_bad_input("{}: the tensor {} has no place in a model of {} layers of this architecture", file->path(),
                      printable_name(tensor.name), config.total_layers());
    }
  }
}

std::vector<OutputShard> shards_of(std::vector<OutputTensor> tensors, uint64_t limit) {
  std::vector<OutputShard> shards(1);
  uint64_t filled = 0;
  for (OutputTensor& tensor : tensors) {
    const uint64_t bytes = static_cast<uint64_t>(row_count(tensor.shape)) * row_bytes(tensor.dtype, tensor.shape);
    if (filled > 0 && filled + bytes > limit) {
      shards.emplace_back();
      filled = 0;
    }
    filled += bytes;
    shards.back().tensors.push_back(std::move(tensor));
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    // Wide types first: then every tensor is aligned to its type.
    std::stable_sort(
        shards[i].tensors.begin(), shards[i].tensors.end(),
        [](const OutputTensor& a, const OutputTensor& b) { return dtype_bytes(a.dtype) > dtype_bytes(b.dtype); });
  }
  return shards;
}

/// Keeps the sources alive as long as the tensors that read from them.
struct Shared {
  Shared(const GgufModel& model, ModelConfig of) : config(std::move(of)), sources(model, config) {}
  ModelConfig config;
  Sources sources;
};

std::string identity_of(const GgufModel& model, bool f32) {
  std::string text = fmt::format("gguf import to {}", f32 ? "f32" : "bf16");
  for (const auto& file : model.files()) {
    std::error_code error;
    const auto written = fs::last_write_time(file->path(), error).time_since_epoch().count();
    text += fmt::format("\n{} {} {}", fs::absolute(file->path()).lexically_normal().string(), file->bytes(), written);
  }
  return text;
}

}  // namespace

GgufModel::GgufModel(const std::string& path) {
  const std::vector<std::string> paths = split_paths(path);
  for (const std::string& one : paths) {
    files_.push_back(std::make_unique<GgufFile>(one));
    readers_.push_back(std::make_unique<PieceReader>(one));
  }
  for (size_t i = 0; i < files_.size(); ++i) {
    const auto number = [&](const char* key) -> std::optional<int64_t> {
      const GgufValue* value = files_[i]->find(key);
      const auto* whole = value == nullptr ? nullptr : std::get_if<int64_t>(&value->value);
      return whole == nullptr ? std::nullopt : std::optional<int64_t>(*whole);
    };
    const int64_t count = number("split.count").value_or(1), no = number("split.no").value_or(0);
    if (count != std::ssize(paths) || no != static_cast<int64_t>(i)) {
      throw_bad_input("{}: expected file {} of {}, and it says that it is {} of {} (split files need their names)",
                      paths[i], i + 1, paths.size(), no + 1, count);
    }
    for (const GgufTensor& tensor : files_[i]->header().tensors) {
      if (find(tensor.name) != &tensor) {
        throw_bad_input("{}: the tensor {} is in another of the split files too", paths[i],
                        printable_name(tensor.name));
      }
    }
  }
}

const GgufTensor* GgufModel::find(std::string_view name) const {
  for (const auto& file : files_) {
    if (const GgufTensor* tensor = file->tensor(name)) return tensor;
  }
  return nullptr;
}

void GgufModel::read(const GgufTensor& tensor, int64_t first, int64_t count, float* to) const {
  size_t file = 0;
  while (files_[file]->tensor(tensor.name) != &tensor) ++file;
  const uint64_t row_bytes = tensor.row_bytes();
  std::vector<std::byte> stored(static_cast<size_t>(count) * row_bytes);
  readers_[file]->read(tensor.begin + static_cast<uint64_t>(first) * row_bytes, stored.data(), stored.size());
  ggml_dequantize(tensor.type, stored.data(), count * tensor.row_values(), to);
}

GgufImportPlan plan_gguf_import(const GgufModel& model, const GgufImportOptions& options) {
  check_architecture(model.keys());
  GgufImportPlan plan;
  ModelConfig config = read_config(model, plan.notes);
  config.torch_dtype = options.f32 ? "float32" : "bfloat16";
  const auto shared = std::make_shared<Shared>(model, config);
  const std::vector<TensorSpec> table = tensor_table(config);
  check_no_others(model, table, config);
  std::vector<OutputTensor> tensors;
  for (const TensorSpec& spec : table) {
    if (spec.optional && !shared->sources.has(spec)) continue;
    const bool f32 = options.f32 || spec.role == TensorRole::router_bias;
    const MakeRows rows = shared->sources.rows(spec);
    tensors.push_back(
        output_tensor(spec, f32, [shared, rows](int64_t first, int64_t count, float* to) { rows(first, count, to); }));
  }
  RewritePlan& rewrite = plan.rewrite;
  rewrite.out = options.out;
  rewrite.identity = identity_of(model, options.f32);
  rewrite.shards = shards_of(std::move(tensors), options.shard_bytes);
  rewrite.texts = {{"config.json", model_config_json(config).dump(2) + "\n"},
                   {"model.safetensors.index.json", index_json(rewrite.shards)}};
  if (auto files = gguf_tokenizer_files(model.keys(), config, plan.notes)) {
    rewrite.texts.emplace_back("tokenizer.json", std::move(files->tokenizer_json));
    rewrite.texts.emplace_back("tokenizer_config.json", std::move(files->tokenizer_config_json));
  }
  return plan;
}

}  // namespace fathom
