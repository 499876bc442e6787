#include "formats/tensor_table.h"

#include <fmt/core.h>

namespace fathom {
namespace {

/// Builds the table; every function below adds the rows of one part.
struct Table {
  const ModelConfig& config;
  std::vector<TensorSpec> rows;

  TensorSpec& add(std::string name, Shape shape, TensorRole role, int64_t layer) {
    rows.push_back(TensorSpec{std::move(name), std::move(shape), role, layer});
    return rows.back();
  }
  void norm(const std::string& name, int64_t size, int64_t layer) {
    add(name + ".weight", {size}, TensorRole::norm, layer);
  }
  void linear(const std::string& name, int64_t out, int64_t in, TensorRole role, int64_t layer, int64_t expert = -1) {
    TensorSpec& row = add(name + ".weight", {out, in}, role, layer);
    row.expert = expert;
    row.quantizable = true;
  }

  void attention(const std::string& at, int64_t layer) {
    const int64_t hidden = config.hidden_size, heads = config.num_attention_heads;
    const auto matrix = [&](const char* name, int64_t out, int64_t in) {
      linear(at + name, out, in, TensorRole::attention, layer);
    };
    const int64_t query_rows = heads * config.qk_head_dim();
    if (config.q_lora_rank) {
      matrix("q_a_proj", *config.q_lora_rank, hidden);
      norm(at + "q_a_layernorm", *config.q_lora_rank, layer);
      matrix("q_b_proj", query_rows, *config.q_lora_rank);
    } else {
      matrix("q_proj", query_rows, hidden);
    }
    matrix("kv_a_proj_with_mqa", config.kv_lora_rank + config.qk_rope_head_dim, hidden);
    norm(at + "kv_a_layernorm", config.kv_lora_rank, layer);
    matrix("kv_b_proj", heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank);
    matrix("o_proj", hidden, heads * config.v_head_dim);
  }

  void mlp(const std::string& at, int64_t inner, TensorRole role, int64_t layer, int64_t expert = -1) {
    linear(at + "gate_proj", inner, config.hidden_size, role, layer, expert);
    linear(at + "up_proj", inner, config.hidden_size, role, layer, expert);
    linear(at + "down_proj", config.hidden_size, inner, role, layer, expert);
  }

  void feed_forward(const std::string& at, int64_t layer) {
    if (!config.is_moe_layer(layer)) {
      mlp(at, config.intermediate_size, TensorRole::dense_mlp, layer);
      return;
    }
    add(at + "gate.weight", {config.n_routed_experts, config.hidden_size}, TensorRole::router, layer);
    if (config.topk_method == TopkMethod::noaux_tc) {
      add(at + "gate.e_score_correction_bias", {config.n_routed_experts}, TensorRole::router_bias, layer);
    }
    if (config.n_shared_experts > 0) {
      mlp(at + "shared_experts.", config.n_shared_experts * config.moe_intermediate_size, TensorRole::shared_expert,
          layer);
    }
    for (int64_t expert = 0; expert < config.n_routed_experts; ++expert) {
      mlp(at + fmt::format("experts.{}.", expert), config.moe_intermediate_size, TensorRole::routed_expert, layer,
          expert);
    }
  }

  void layer(int64_t layer) {
    const int64_t hidden = config.hidden_size;
    const std::string at = fmt::format("model.layers.{}.", layer);
    if (config.is_mtp_layer(layer)) {
      add(at + "embed_tokens.weight", {config.vocab_size, hidden}, TensorRole::mtp_embedding, layer).optional = true;
      norm(at + "enorm", hidden, layer);
      norm(at + "hnorm", hidden, layer);
      add(at + "eh_proj.weight", {hidden, 2 * hidden}, TensorRole::mtp_projection, layer);
    }
    norm(at + "input_layernorm", hidden, layer);
    attention(at + "self_attn.", layer);
    norm(at + "post_attention_layernorm", hidden, layer);
    feed_forward(at + "mlp.", layer);
    if (config.is_mtp_layer(layer)) {
      norm(at + "shared_head.norm", hidden, layer);
      add(at + "shared_head.head.weight", {config.vocab_size, hidden}, TensorRole::mtp_head, layer).optional = true;
    }
  }
};

}  // namespace

std::vector<TensorSpec> tensor_table(const ModelConfig& config) {
  Table table{config, {}};
  const Shape embedding = {config.vocab_size, config.hidden_size};
  table.add("model.embed_tokens.weight", embedding, TensorRole::embedding, -1);
  for (int64_t layer = 0; layer < config.total_layers(); ++layer) table.layer(layer);
  table.norm("model.norm", config.hidden_size, -1);
  // Tied: the head is the embedding; some checkpoints store it all the same.
  table.add("lm_head.weight", embedding, TensorRole::head, -1).optional = config.tie_word_embeddings;
  return std::move(table.rows);
}

Shape scale_shape(const Shape& weight, const Fp8Config& fp8) {
  return {(weight[0] + fp8.block_rows - 1) / fp8.block_rows, (weight[1] + fp8.block_cols - 1) / fp8.block_cols};
}

std::vector<StoredTensor> stored_tensors(const ModelConfig& config) {
  DType plain = DType::bf16;
  if (config.torch_dtype == "float32") plain = DType::f32;
  if (config.torch_dtype == "float16") plain = DType::f16;
  const std::vector<TensorSpec> table = tensor_table(config);
  std::vector<StoredTensor> tensors;
  tensors.reserve(config.fp8 ? 2 * table.size() : table.size());
  for (size_t row = 0; row < table.size(); ++row) {
    const TensorSpec& spec = table[row];
    if (spec.role == TensorRole::head && spec.optional) continue;
    DType dtype = plain;
    if (spec.role == TensorRole::router_bias) dtype = DType::f32;
    if (spec.quantizable && config.fp8) dtype = DType::f8_e4m3;
    tensors.push_back({spec.name, dtype, spec.shape, row});
    if (dtype == DType::f8_e4m3) {
      tensors.push_back({spec.name + "_scale_inv", DType::f32, scale_shape(spec.shape, *config.fp8), row, true});
    }
  }
  return tensors;
}

}  // namespace fathom
