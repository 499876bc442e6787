#include "model/cost.h"

#include <algorithm>
#include <utility>

#include "kernels/integer_weight.h"

namespace fathom {
namespace {

double elements(const Weight& weight) {
  return static_cast<double>(weight.rows) * static_cast<double>(weight.cols);
}

// A weight that every token meets.
void add_shared(PassCost& cost, const Weight& weight, double tokens, OperandRounding rounding) {
  if (weight.data == nullptr) return;
  cost.weight_bytes += weight_bytes(weight);
  cost.products.add(product_arithmetic(weight, rounding), 2 * tokens * elements(weight));
}

void add_mlp(PassCost& cost, const MlpWeights& mlp, double tokens, OperandRounding rounding) {
  for (const Weight* weight : {&mlp.gate_proj, &mlp.up_proj, &mlp.down_proj}) {
    add_shared(cost, *weight, tokens, rounding);
  }
}

double mlp_bytes(const MlpWeights& mlp) {
  return weight_bytes(mlp.gate_proj) + weight_bytes(mlp.up_proj) + weight_bytes(mlp.down_proj);
}

}  // namespace

void Operations::add(Arithmetic kind, double count) {
  switch (kind) {
    case Arithmetic::f32:
      f32 += count;
      return;
    case Arithmetic::bf16:
      bf16 += count;
      return;
    case Arithmetic::int8:
      int8 += count;
      return;
  }
}

double Operations::seconds(const MachineLimits& limits) const {
  return f32 / limits.ops_per_s(Arithmetic::f32) + bf16 / limits.ops_per_s(Arithmetic::bf16) +
         int8 / limits.ops_per_s(Arithmetic::int8);
}

PassCost& PassCost::operator+=(const PassCost& other) {
  weight_bytes += other.weight_bytes;
  cache_bytes += other.cache_bytes;
  for (auto [to, from] : {std::pair{&products, &other.products}, std::pair{&attention, &other.attention}}) {
    to->f32 += from->f32;
    to->bf16 += from->bf16;
    to->int8 += from->int8;
  }
  return *this;
}

PassCost PassCost::divided_by(double passes) const {
  const auto divided = [&](const Operations& o) {
    return Operations{o.f32 / passes, o.bf16 / passes, o.int8 / passes};
  };
  return {weight_bytes / passes, cache_bytes / passes, divided(products), divided(attention)};
}

double PassCeiling::seconds() const {
  return std::max(weights_s, products_s) + cache_s + attention_s;
}

PassCeiling pass_ceiling(const PassCost& cost, const MachineLimits& limits) {
  return {cost.weight_bytes / limits.read_bytes_per_s, cost.products.seconds(limits),
          cost.cache_bytes / limits.read_bytes_per_s, cost.attention.seconds(limits)};
}

Arithmetic product_arithmetic(const Weight& weight, OperandRounding rounding) {
  const bool narrow = weight.dtype == DType::bf16 || weight.dtype == DType::f8_e4m3 || weight.bits > 0;
  switch (rounding) {
    case OperandRounding::none:
      return Arithmetic::f32;
    case OperandRounding::bf16:
      return narrow ? Arithmetic::bf16 : Arithmetic::f32;
    case OperandRounding::fp8:
    case OperandRounding::fp8_ue8m0:
      return weight.dtype == DType::f8_e4m3 ? Arithmetic::bf16 : Arithmetic::f32;
    case OperandRounding::int8:
      return Arithmetic::int8;
  }
  return Arithmetic::f32;
}

double weight_bytes(const Weight& weight) {
  if (weight.bits != 0) {
    return static_cast<double>(integer_weight_bytes(integer_format(weight), weight.rows, weight.cols));
  }
  double bytes = elements(weight) * static_cast<double>(dtype_bytes(weight.dtype));
  if (weight.block_rows > 0) {
    const int64_t blocks = (weight.rows + weight.block_rows - 1) / weight.block_rows * weight.scale_cols();
    bytes += 4.0 * static_cast<double>(blocks);
  }
  return bytes;
}

double routed_expert_bytes(const LoadedModel& model) {
  for (const LayerWeights& layer : model.weights.layers) {
    if (layer.moe) return mlp_bytes(layer.moe->experts.front());
  }
  return 0;
}

PassCost forward_cost(const LoadedModel& model, std::span<const Span> spans, int64_t logits_rows,
                      int64_t distinct_experts) {
  const ModelConfig& c = model.config;
  const auto H = static_cast<double>(c.num_attention_heads);
  const double width = static_cast<double>(c.kv_lora_rank + c.qk_rope_head_dim);
  const OperandRounding rounding = model.linear_rounding();
  const OperandRounding unquantized = model.unquantized_rounding();
  const Arithmetic attention = model.cache_dtype() != DType::f32 ? Arithmetic::bf16 : Arithmetic::f32;
  const double position_bytes =
      static_cast<double>(latent_page_bytes(model.cache_dtype(), static_cast<int64_t>(width))) / kPagePositions;
  PassCost cost;
  double tokens = 0;
  for (const Span& span : spans) tokens += static_cast<double>(span.length);

  const MlpWeights* expert = nullptr;  // experts of all layers have the same shape and format
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const LayerWeights& layer = model.weights.layers[static_cast<size_t>(i)];
    const AttentionWeights& a = layer.attention;
    for (const Weight* weight : {&a.q_proj, &a.q_a_proj, &a.q_b_proj, &a.kv_a_proj_with_mqa, &a.o_proj}) {
      add_shared(cost, *weight, tokens, rounding);
    }
    cost.weight_bytes += weight_bytes(a.kv_b_proj);
    for (const Span& span : spans) {
      const auto S = static_cast<double>(span.length);
      const auto P = static_cast<double>(span.position);
      const double pairs = S * P + S * (S + 1) / 2;
      const bool expanded = span.form == AttentionForm::expanded;
      const double per_pair =
          expanded ? static_cast<double>(c.qk_head_dim() + c.v_head_dim) : width + static_cast<double>(c.kv_lora_rank);
      cost.attention.add(product_arithmetic(a.kv_b_proj, unquantized),
                         2 * elements(a.kv_b_proj) * (expanded ? P + S : S));
      cost.attention.add(attention, 2 * H * pairs * per_pair);
      cost.cache_bytes += (P + S) * position_bytes;
    }
    if (layer.moe) {
      expert = &layer.moe->experts.front();
      add_shared(cost, layer.moe->gate, tokens, OperandRounding::none);
      if (layer.moe->shared_experts) add_mlp(cost, *layer.moe->shared_experts, tokens, rounding);
      for (const Weight* weight : {&expert->gate_proj, &expert->up_proj, &expert->down_proj}) {
        cost.products.add(product_arithmetic(*weight, rounding),
                          2 * tokens * static_cast<double>(c.num_experts_per_tok) * elements(*weight));
      }
    } else {
      add_mlp(cost, *layer.mlp, tokens, rounding);
    }
  }
  if (expert != nullptr) cost.weight_bytes += static_cast<double>(distinct_experts) * mlp_bytes(*expert);
  if (logits_rows > 0) {
    const Weight& head = model.weights.lm_head;
    cost.weight_bytes += weight_bytes(head);
    cost.products.add(product_arithmetic(head, model.head_rounding(head)),
                      2 * static_cast<double>(logits_rows) * elements(head));
  }
  return cost;
}

}  // namespace fathom
