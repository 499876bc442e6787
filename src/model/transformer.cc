#include "model/transformer.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "kernels/norm.h"
#include "model/mla.h"
#include "model/moe.h"

namespace fathom {
namespace {

void reserve_floats(Buffer& buffer, int64_t count) {
  buffer.reserve(static_cast<size_t>(count) * sizeof(float));
}

void report_latents(const LoadedModel& model, int64_t layer, const Batch& batch, ForwardProbe& probe) {
  const ModelConfig& config = model.config;
  const auto T = static_cast<int64_t>(batch.tokens.size());
  const int64_t width = config.kv_lora_rank + config.qk_rope_head_dim;
  std::vector<float> row(static_cast<size_t>(width));
  std::vector<float> c_kv;
  std::vector<float> k_pe;
  for (const Span& span : batch.spans) {
    for (int64_t i = 0; i < span.length; ++i) {
      span.cache->read(layer, span.position + i, row.data());
      c_kv.insert(c_kv.end(), row.begin(), row.begin() + config.kv_lora_rank);
      k_pe.insert(k_pe.end(), row.begin() + config.kv_lora_rank, row.end());
    }
  }
  probe.values(layer, "c_kv", c_kv.data(), T, config.kv_lora_rank);
  probe.values(layer, "k_pe", k_pe.data(), T, config.qk_rope_head_dim);
}

// The buffers of the attention still hold what its products met.
void report_attention_inputs(const LoadedModel& model, int64_t layer, int64_t T, const Workspace& ws,
                             ForwardProbe& probe) {
  const ModelConfig& c = model.config;
  probe.input(layer, "attention", -1, ws.normed.as<float>(), nullptr, T, c.hidden_size);
  if (c.q_lora_rank) probe.input(layer, "q_b_proj", -1, ws.q_latent.as<float>(), nullptr, T, *c.q_lora_rank);
  probe.input(layer, "o_proj", -1, ws.attended.as<float>(), nullptr, T, c.num_attention_heads * c.v_head_dim);
}

// Likewise those of the feed-forward. Experts from an ExpertStore leave theirs in another order, and are not reported.
void report_feed_forward_inputs(const LoadedModel& model, int64_t layer, int64_t T, const Workspace& ws,
                                ForwardProbe& probe) {
  const ModelConfig& c = model.config;
  const LayerWeights& weights = model.weights.layers[static_cast<size_t>(layer)];
  const auto* x = ws.normed.as<float>();
  const auto* inner = ws.inner.as<float>();
  if (weights.mlp) {
    probe.input(layer, "gate_up", -1, x, nullptr, T, c.hidden_size);
    probe.input(layer, "down_proj", -1, inner, nullptr, T, c.intermediate_size);
    return;
  }
  if (model.experts) return;
  const int64_t size = c.moe_intermediate_size;
  for (int64_t e = 0; e < c.n_routed_experts; ++e) {
    const int64_t begin = ws.expert_begin[static_cast<size_t>(e)];
    const int64_t rows = ws.expert_begin[static_cast<size_t>(e) + 1] - begin;
    if (rows == 0) continue;
    probe.input(layer, "gate_up", e, x, ws.slot_token.data() + begin, rows, c.hidden_size);
    probe.input(layer, "down_proj", e, inner + begin * size, nullptr, rows, size);
  }
  if (!weights.moe->shared_experts) return;
  probe.input(layer, "gate_up", -1, x, nullptr, T, c.hidden_size);
  probe.input(layer, "down_proj", -1, inner + T * c.num_experts_per_tok * size, nullptr, T, c.n_shared_experts * size);
}

void add(float* to, const float* what, int64_t T, int64_t n, ThreadTeam& team) {
  team.parallel_for(T, [&](int64_t t, int) {
    for (int64_t k = t * n; k < (t + 1) * n; ++k) to[k] += what[k];
  });
}

void normalise(const float* x, const TensorView& gain, const LoadedModel& model, int64_t T, float* y,
               ThreadTeam& team) {
  const int64_t n = model.config.hidden_size;
  team.parallel_for(T, [&](int64_t t, int) {
    rms_norm(x + t * n, n, gain, static_cast<float>(model.config.rms_norm_eps), y + t * n);
  });
}

// x = x + Attn(norm(x)); x = x + FFN(norm(x)), on workspace.hidden.
void transformer_layer(const LoadedModel& model, int64_t layer, const Batch& batch, Workspace& ws, ThreadTeam& team,
                       ForwardProbe* probe, LayerTape* tape) {
  const LayerWeights& weights = model.weights.layers[static_cast<size_t>(layer)];
  const auto T = static_cast<int64_t>(batch.tokens.size());
  const int64_t hidden = model.config.hidden_size;
  auto* x = ws.hidden.as<float>();

  if (tape != nullptr) tape->input.put_rows(x, T, team);
  normalise(x, weights.input_layernorm, model, T, ws.normed.as<float>(), team);
  latent_attention(model, layer, batch, ws, team, tape);
  if (probe != nullptr) report_attention_inputs(model, layer, T, ws, *probe);
  add(x, ws.branch.as<float>(), T, hidden, team);
  if (tape != nullptr) tape->middle.put_rows(x, T, team);

  normalise(x, weights.post_attention_layernorm, model, T, ws.normed.as<float>(), team);
  if (weights.moe) {
    mixture_of_experts(model, layer, *weights.moe, T, ws, team, tape);
  } else {
    dense_feed_forward(model, *weights.mlp, T, ws, team, tape);
  }
  add(x, ws.branch.as<float>(), T, hidden, team);

  if (probe == nullptr) return;
  report_feed_forward_inputs(model, layer, T, ws, *probe);
  report_latents(model, layer, batch, *probe);
  probe->values(layer, "hidden", x, T, hidden);
  if (weights.moe) {
    probe->indices(layer, "router.index", ws.router_index.as<int32_t>(), T, model.config.num_experts_per_tok);
    probe->values(layer, "router.weight", ws.router_weight.as<float>(), T, model.config.num_experts_per_tok);
    probe->values(layer, "router.score", ws.router_score.as<float>(), T, model.config.n_routed_experts);
  }
}

void compute_angles(const LoadedModel& model, const Batch& batch, Workspace& ws, ThreadTeam& team) {
  const int64_t d = model.config.qk_rope_head_dim;
  for (const Span& span : batch.spans) {
    team.parallel_for(span.length, [&](int64_t i, int) {
      rope_angles(model.rope, span.position + i, ws.cos_sin.as<float>() + (span.first + i) * d);
    });
  }
}

// The tape of a layer whose pass over T tokens begins; null without a tape.
LayerTape* begin_layer(const LoadedModel& model, int64_t layer, int64_t T, Tape* tape) {
  if (tape == nullptr) return nullptr;
  tape->layers.resize(static_cast<size_t>(model.config.total_layers()));
  LayerTape& kept = tape->layers[static_cast<size_t>(layer)];
  reserve_layer_tape(model.config, layer, T, tape->dtype, kept);
  kept.tokens = T;
  return &kept;
}

}  // namespace

OperandRounding LoadedModel::linear_rounding() const {
  switch (compute) {
    case ComputeMode::fp32:
      return OperandRounding::none;
    case ComputeMode::bf16:
      return OperandRounding::bf16;
    case ComputeMode::int8:
      return OperandRounding::int8;
    case ComputeMode::w8a8:
      break;
  }
  return config.fp8 && config.fp8->ue8m0 ? OperandRounding::fp8_ue8m0 : OperandRounding::fp8;
}

OperandRounding LoadedModel::unquantized_rounding() const {
  return compute == ComputeMode::bf16 || compute == ComputeMode::int8 ? OperandRounding::bf16 : OperandRounding::none;
}

OperandRounding LoadedModel::head_rounding(const Weight& weight) const {
  const bool integers = compute == ComputeMode::int8 && weight.bits > 0;
  return integers ? OperandRounding::int8 : unquantized_rounding();
}

std::unique_ptr<LoadedModel> open_model(const std::string& directory, const OpenOptions& options, ThreadTeam& team) {
  auto model = std::make_unique<LoadedModel>();
  model->checkpoint = std::make_unique<Checkpoint>(directory);
  model->config = model->checkpoint->config();
  model->compute = options.compute.value_or(default_compute(options.weights.storage, &model->config));
  model->fp8_cache = options.fp8_cache;
  if (options.fp8_cache && model->cache_dtype() == DType::f32) {
    throw_bad_input("An FP8 cache goes with compute bf16 or int8; {} was asked for, whose cache is float32.",
                    compute_mode_name(model->compute));
  }
  model->held = options_for(model->config, options.weights, model->compute, directory);
  const uint64_t experts_in_memory = options.weights.experts_in_memory;
  model->weights =
      load_weights(*model->checkpoint, model->held.storage == WeightStorage::mapped, experts_in_memory > 0);
  if (experts_in_memory > 0) {
    model->experts = std::make_unique<ExpertStore>(*model->checkpoint, model->weights, experts_in_memory);
  }
  model->rope = make_rope(model->config);
  const WeightPlan plan = plan_weights(*model->checkpoint, model->weights, model->held);
  check_memory(plan, system_memory(), directory);
  if (options.on_plan) options.on_plan(*model, plan);
  take_weights(plan, *model->checkpoint, model->weights, team, options.on_progress);
  return model;
}

std::unique_ptr<LoadedModel> open_model(const std::string& directory, ComputeMode compute, uint64_t experts_in_memory) {
  ThreadTeam alone(1);
  OpenOptions options;
  options.compute = compute;
  options.weights.experts_in_memory = experts_in_memory;
  return open_model(directory, options, alone);
}

Workspace::Workspace(const LoadedModel& model, int64_t most_tokens, int threads)
    : max_tokens(most_tokens), scratch(static_cast<size_t>(threads)) {
  const ModelConfig& c = model.config;
  const int64_t T = most_tokens;
  const int64_t E = std::max<int64_t>(c.n_routed_experts, 1);
  const int64_t K = std::max<int64_t>(c.num_experts_per_tok, 1);
  const int64_t moe_inner = (K + c.n_shared_experts) * c.moe_intermediate_size;
  reserve_floats(hidden, T * c.hidden_size);
  reserve_floats(normed, T * c.hidden_size);
  reserve_floats(branch, T * c.hidden_size);
  if (c.num_nextn_predict_layers > 0) reserve_floats(mtp_input, T * 2 * c.hidden_size);
  reserve_floats(cos_sin, T * c.qk_rope_head_dim);
  if (c.q_lora_rank) reserve_floats(q_latent, T * *c.q_lora_rank);
  reserve_floats(q, T * c.num_attention_heads * c.qk_head_dim());
  reserve_floats(kv_latent, T * (c.kv_lora_rank + c.qk_rope_head_dim));
  reserve_floats(attended, T * c.num_attention_heads * c.v_head_dim);
  reserve_floats(router_logits, T * E);
  reserve_floats(router_score, T * E);
  reserve_floats(router_index, T * K);
  reserve_floats(router_weight, T * K);
  reserve_floats(inner, T * std::max(c.intermediate_size, moe_inner));
  expert_begin.resize(static_cast<size_t>(E) + 1);
  expert_tokens.resize(static_cast<size_t>((c.num_hidden_layers + c.num_nextn_predict_layers) * E));
  slot_token.resize(static_cast<size_t>(T * K));
  slot_weight.resize(static_cast<size_t>(T * K));
  all_tokens.resize(static_cast<size_t>(T * (K + 1)));
  std::iota(all_tokens.begin(), all_tokens.end(), 0);
  apart_begin.resize(static_cast<size_t>(E) + 1);
  jobs.reserve(static_cast<size_t>(E) + 1);
  item_begin.reserve(static_cast<size_t>(E) + 2);
}

void check_tokens(const ModelConfig& config, std::span<const int32_t> tokens) {
  if (tokens.empty()) throw_bad_input("The prompt is empty: it has no tokens.");
  for (int32_t token : tokens) {
    if (token < 0 || token >= config.vocab_size) {
      throw_bad_input("Token id {} is outside the model's vocabulary of {} tokens.", token, config.vocab_size);
    }
  }
}

void forward(const LoadedModel& model, const Batch& batch, Workspace& ws, ThreadTeam& team, ForwardProbe* probe,
             Tape* tape) {
  const auto T = static_cast<int64_t>(batch.tokens.size());
  const int64_t hidden = model.config.hidden_size;
  auto* x = ws.hidden.as<float>();
  team.parallel_for(T, [&](int64_t t, int) {
    convert_row_to_f32(model.weights.embed_tokens, batch.tokens[static_cast<size_t>(t)], x + t * hidden);
  });
  if (probe != nullptr) probe->values(-1, "embedding", x, T, hidden);
  compute_angles(model, batch, ws, team);
  for (int64_t layer = 0; layer < model.config.num_hidden_layers; ++layer) {
    LayerTape* kept = begin_layer(model, layer, T, tape);
    transformer_layer(model, layer, batch, ws, team, probe, kept);
    if (kept != nullptr && layer + 1 == model.config.num_hidden_layers) kept->output.put_rows(x, T, team);
  }
  normalise(x, model.weights.norm, model, T, ws.normed.as<float>(), team);
}

void mtp_forward(const LoadedModel& model, int64_t depth, const Batch& batch, const float* previous_hidden,
                 Workspace& ws, ThreadTeam& team, ForwardProbe* probe, Tape* tape) {
  const int64_t layer = model.config.num_hidden_layers + depth;
  const MtpWeights& mtp = *model.weights.layers[static_cast<size_t>(layer)].mtp;
  const auto T = static_cast<int64_t>(batch.tokens.size());
  const int64_t hidden = model.config.hidden_size;
  const auto eps = static_cast<float>(model.config.rms_norm_eps);
  auto* input = ws.mtp_input.as<float>();
  team.parallel_for(T, [&](int64_t t, int) {
    float* embedding_half = input + t * 2 * hidden;
    float* hidden_half = embedding_half + hidden;
    convert_row_to_f32(mtp.embed_tokens, batch.tokens[static_cast<size_t>(t)], embedding_half);
    rms_norm(embedding_half, hidden, mtp.enorm, eps, embedding_half);
    rms_norm(previous_hidden + t * hidden, hidden, mtp.hnorm, eps, hidden_half);
  });
  ws.operand.prepare(input, T, 2 * hidden, 2 * hidden, mtp.eh_proj, model.head_rounding(mtp.eh_proj), &team);
  linear(ws.operand.view(), T, {{&mtp.eh_proj, ws.hidden.as<float>(), hidden}}, team);
  compute_angles(model, batch, ws, team);
  LayerTape* kept = begin_layer(model, layer, T, tape);
  if (kept != nullptr) kept->previous.put_rows(previous_hidden, T, team);
  transformer_layer(model, layer, batch, ws, team, probe, kept);
  if (kept != nullptr) kept->output.put_rows(ws.hidden.as<float>(), T, team);
  normalise(ws.hidden.as<float>(), mtp.shared_head_norm, model, T, ws.normed.as<float>(), team);
}

void compute_logits(const LoadedModel& model, const Weight& head, std::span<const int32_t> rows, Workspace& ws,
                    ThreadTeam& team, float* logits) {
  const int64_t hidden = model.config.hidden_size;
  const auto count = static_cast<int64_t>(rows.size());
  auto* chosen = ws.branch.as<float>();
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(chosen + i * hidden, ws.normed.as<float>() + rows[static_cast<size_t>(i)] * hidden,
                static_cast<size_t>(hidden) * sizeof(float));
  }
  ws.operand.prepare(chosen, count, hidden, hidden, head, model.head_rounding(head), &team);
  linear(ws.operand.view(), count, {{&head, logits, head.rows}}, team);
}

}  // namespace fathom
