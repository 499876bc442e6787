#include "model/cost.h"

#include <algorithm>

namespace fathom {
namespace {

double elements(const Weight& weight) {
  return static_cast<double>(weight.rows) * static_cast<double>(weight.cols);
}

// A weight that every token meets.
void add_shared(PassCost& cost, const Weight& weight, double tokens) {
  if (weight.data == nullptr) return;
  cost.weight_bytes += weight_bytes(weight);
  cost.operations += 2 * tokens * elements(weight);
}

void add_mlp(PassCost& cost, const MlpWeights& mlp, double tokens) {
  add_shared(cost, mlp.gate_proj, tokens);
  add_shared(cost, mlp.up_proj, tokens);
  add_shared(cost, mlp.down_proj, tokens);
}

double mlp_bytes(const MlpWeights& mlp) {
  return weight_bytes(mlp.gate_proj) + weight_bytes(mlp.up_proj) + weight_bytes(mlp.down_proj);
}

double mlp_elements(const MlpWeights& mlp) {
  return elements(mlp.gate_proj) + elements(mlp.up_proj) + elements(mlp.down_proj);
}

}  // namespace

double weight_bytes(const Weight& weight) {
  double bytes = elements(weight) * static_cast<double>(dtype_bytes(weight.dtype));
  if (weight.block_rows > 0) {
    const int64_t blocks = (weight.rows + weight.block_rows - 1) / weight.block_rows * weight.scale_cols();
    bytes += 4.0 * static_cast<double>(blocks);
  }
  return bytes;
}

PassCost forward_cost(const LoadedModel& model, std::span<const Span> spans, int64_t logits_rows,
                      int64_t distinct_experts) {
  const ModelConfig& c = model.config;
  const auto H = static_cast<double>(c.num_attention_heads);
  const double width = static_cast<double>(c.kv_lora_rank + c.qk_rope_head_dim);
  PassCost cost;
  double tokens = 0;
  for (const Span& span : spans) tokens += static_cast<double>(span.length);

  int64_t moe_layers = 0;
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const LayerWeights& layer = model.weights.layers[static_cast<size_t>(i)];
    const AttentionWeights& a = layer.attention;
    for (const Weight* weight : {&a.q_proj, &a.q_a_proj, &a.q_b_proj, &a.kv_a_proj_with_mqa, &a.o_proj}) {
      add_shared(cost, *weight, tokens);
    }
    cost.weight_bytes += weight_bytes(a.kv_b_proj);
    for (const Span& span : spans) {
      const auto S = static_cast<double>(span.length);
      const auto P = static_cast<double>(span.position);
      const double pairs = S * P + S * (S + 1) / 2;
      const bool expanded = span.form == AttentionForm::expanded;
      const double per_pair =
          expanded ? static_cast<double>(c.qk_head_dim() + c.v_head_dim) : width + static_cast<double>(c.kv_lora_rank);
      cost.operations += 2 * elements(a.kv_b_proj) * (expanded ? P + S : S) + 2 * H * pairs * per_pair;
      cost.cache_bytes += (P + S) * width * static_cast<double>(dtype_bytes(model.cache_dtype()));
    }
    if (layer.moe) {
      ++moe_layers;
      add_shared(cost, layer.moe->gate, tokens);
      if (layer.moe->shared_experts) add_mlp(cost, *layer.moe->shared_experts, tokens);
      cost.operations +=
          2 * tokens * static_cast<double>(c.num_experts_per_tok) * mlp_elements(layer.moe->experts.front());
    } else {
      add_mlp(cost, *layer.mlp, tokens);
    }
  }
  if (moe_layers > 0) {
    for (const LayerWeights& layer : model.weights.layers) {
      if (!layer.moe) continue;
      // Experts of all layers have the same shape and format.
      cost.weight_bytes += static_cast<double>(distinct_experts) * mlp_bytes(layer.moe->experts.front());
      break;
    }
  }
  if (logits_rows > 0) {
    cost.weight_bytes += weight_bytes(model.weights.lm_head);
    cost.operations += 2 * static_cast<double>(logits_rows) * elements(model.weights.lm_head);
  }
  return cost;
}

}  // namespace fathom
