#include "train/layer_gradient.h"

#include <algorithm>
#include <numeric>

#include "kernels/gradients.h"
#include "kernels/norm.h"
#include "model/rope.h"

namespace fathom {
namespace {

// Columns of a norm gain that an item sums over all tokens.
constexpr int64_t kGainCols = 64;
// Rows of an item of a copy.
constexpr int64_t kCopyRows = 32;

TokenRows f32_rows(const float* data, int64_t cols, const int32_t* index = nullptr) {
  return {DType::f32, data, cols, cols, index};
}

// One SwiGLU in the backward: the tokens of an expert, or all.
struct Job {
  const MlpWeights* mlp;
  const int32_t* tokens;
  const float* weights;  // the router's; null for 1
  int64_t count;
  int64_t row;  // first row in its buffers
  const MlpTape* tape;
  float *inner, *gate, *up;  // whole buffers of its kind
  bool routed;

  int64_t inner_size() const { return mlp->gate_proj.rows; }
};

std::vector<Job> jobs_of(const BackwardContext& context, int64_t layer, const LayerTape& tape, const LayerGradients& g,
                         LayerGradientWorkspace& ws) {
  const LayerWeights& weights = context.layer(layer);
  const int64_t T = tape.tokens;
  if (static_cast<int64_t>(ws.identity.size()) < T) {
    ws.identity.resize(static_cast<size_t>(T));
    std::iota(ws.identity.begin(), ws.identity.end(), 0);
  }
  // The buffers are the gradients' own: const is only about who fills them.
  const auto at = [](const Buffer& buffer) { return const_cast<float*>(buffer.as<float>()); };
  std::vector<Job> jobs;
  if (weights.moe) {
    for (size_t e = 0; e < weights.moe->experts.size(); ++e) {
      const int64_t begin = tape.expert_begin[e];
      const int64_t count = tape.expert_begin[e + 1] - begin;
      if (count == 0) continue;
      jobs.push_back({&weights.moe->experts[e], tape.slot_token.data() + begin, tape.slot_weight.data() + begin, count,
                      begin, &tape.routed, at(g.routed_inner), at(g.routed_gate), at(g.routed_up), true});
    }
  }
  const MlpWeights* always = nullptr;
  if (weights.mlp) always = &*weights.mlp;
  if (weights.moe && weights.moe->shared_experts) always = &*weights.moe->shared_experts;
  if (always != nullptr) {
    jobs.push_back({always, ws.identity.data(), nullptr, T, 0, &tape.always, at(g.always_inner), at(g.always_gate),
                    at(g.always_up), false});
  }
  return jobs;
}

// Items of some rows of the jobs' matrices: calls `use(job, begin, end, thread)`.
template <typename Rows, typename Use>
void for_job_rows(const std::vector<Job>& jobs, ThreadTeam& team, Rows rows_of, Use use) {
  int64_t rows = 0;
  for (const Job& job : jobs) rows += rows_of(job);
  const int64_t step = rows_per_item(rows, most_tokens(jobs), team.size());
  std::vector<int64_t> begins(1, 0);
  for (const Job& job : jobs) begins.push_back(begins.back() + (rows_of(job) + step - 1) / step);
  team.parallel_for(begins.back(), [&](int64_t item, int thread) {
    const auto j = std::upper_bound(begins.begin(), begins.end(), item) - begins.begin() - 1;
    const Job& job = jobs[static_cast<size_t>(j)];
    const int64_t begin = (item - begins[static_cast<size_t>(j)]) * step;
    use(job, begin, std::min(begin + step, rows_of(job)), thread);
  });
}

// Gradients of the inputs of down_proj without the router's weights, into `inner`.
void down_gradient(const BackwardContext& context, const std::vector<Job>& jobs, const float* d_out, int64_t T,
                   LayerGradientWorkspace& ws, ThreadTeam& team) {
  const int64_t hidden = context.model.config.hidden_size;
  const Weight like = context.turned(jobs.front().mlp->down_proj).turned;
  ws.down_operand.prepare(d_out, T, hidden, hidden, like, context.down_rounding(), &team, kLeastGradientAmax);
  const OperandView dy = ws.down_operand.view();
  for_job_rows(
      jobs, team, [](const Job& job) { return job.inner_size(); },
      [&](const Job& job, int64_t begin, int64_t end, int thread) {
        input_gradient_rows(dy, job.tokens, job.count, context.turned(job.mlp->down_proj), begin, end, false,
                            job.inner + job.row * job.inner_size() + begin, job.inner_size(), nullptr,
                            ws.scratch[static_cast<size_t>(thread)]);
      });
}

// SwiGLU of one row: `inner` comes in as the gradient of the activations and leaves as these themselves times the
// router's weight; returns the gradient of that weight.
float swiglu_row(const Job& job, int64_t i, float* scratch) {
  const int64_t n = job.inner_size();
  const int64_t row = job.row + i;
  float* gate_value = scratch;
  float* up_value = scratch + n;
  float* h = scratch + 2 * n;
  job.tape->gate.get(row, 0, gate_value, n);
  job.tape->up.get(row, 0, up_value, n);
  float* inner = job.inner + row * n;
  float* gate = job.gate + row * n;
  float* up = job.up + row * n;
  swiglu_gradient(gate_value, up_value, inner, n, h, gate, up);
  const float weight = job.weights != nullptr ? job.weights[i] : 1.0f;
  const float gradient = job.weights != nullptr ? dot(inner, h, n) : 0.0f;
  for (int64_t k = 0; k < n; ++k) {
    inner[k] = weight * h[k];
    gate[k] *= weight;
    up[k] *= weight;
  }
  return gradient;
}

void swiglu_rows(const std::vector<Job>& jobs, float* slot_gradient, LayerGradientWorkspace& ws, ThreadTeam& team) {
  for_job_rows(
      jobs, team, [](const Job& job) { return job.count; },
      [&](const Job& job, int64_t begin, int64_t end, int thread) {
        float* scratch = reserve<float>(ws.scratch[static_cast<size_t>(thread)], 3 * job.inner_size());
        for (int64_t i = begin; i < end; ++i) {
          const float gradient = swiglu_row(job, i, scratch);
          if (job.routed) slot_gradient[job.row + i] = gradient;
        }
      });
}

// d_normed [T, hidden] = Σ over the jobs, in their order, of the gradients through gate_proj and up_proj.
void up_gradient(const BackwardContext& context, const std::vector<Job>& jobs, int64_t T, float* d_normed,
                 LayerGradientWorkspace& ws, ThreadTeam& team) {
  const int64_t hidden = context.model.config.hidden_size;
  const OperandRounding rounding = context.model.linear_rounding();
  const auto prepare = [&](const Job& job, int64_t rows, Operand& gate, Operand& up) {
    const Weight like = context.turned(job.mlp->gate_proj).turned;
    const int64_t n = job.inner_size();
    gate.prepare(job.gate, rows, n, n, like, rounding, &team, kLeastGradientAmax);
    up.prepare(job.up, rows, n, n, like, rounding, &team, kLeastGradientAmax);
  };
  int64_t routed_rows = 0;
  for (const Job& job : jobs) routed_rows += job.routed ? job.count : 0;
  if (jobs.front().routed) prepare(jobs.front(), routed_rows, ws.gate_operand, ws.up_operand);
  if (!jobs.back().routed) prepare(jobs.back(), T, ws.always_gate_operand, ws.always_up_operand);
  const int64_t step = rows_per_item(hidden, most_tokens(jobs), team.size());
  team.parallel_for((hidden + step - 1) / step, [&](int64_t item, int thread) {
    const int64_t begin = item * step;
    const int64_t end = std::min(begin + step, hidden);
    for (int64_t t = 0; t < T; ++t) std::fill(d_normed + t * hidden + begin, d_normed + t * hidden + end, 0.0f);
    for (const Job& job : jobs) {
      const auto add = [&](const Operand& operand, const TurnedWeight& weight) {
        input_gradient_rows(operand.view(job.row), nullptr, job.count, weight, begin, end, true, d_normed + begin,
                            hidden, job.tokens, ws.scratch[static_cast<size_t>(thread)]);
      };
      add(job.routed ? ws.gate_operand : ws.always_gate_operand, context.turned(job.mlp->gate_proj));
      add(job.routed ? ws.up_operand : ws.always_up_operand, context.turned(job.mlp->up_proj));
    }
  });
}

// Gradient of the router's logits of one token from those of its weights and the balance loss (spec §1.6).
void route_gradient(const ModelConfig& config, const float* score, const int32_t* index, const float* d_weight,
                    const double* fraction, double balance_factor, float* d_logits) {
  const int64_t E = config.n_routed_experts;
  const int64_t K = config.num_experts_per_tok;
  const double scale = config.routed_scaling_factor;
  std::vector<double> ds(static_cast<size_t>(E), 0.0);
  if (config.norm_topk_prob) {
    double sum = 1e-20;
    double mean = 0;
    for (int64_t k = 0; k < K; ++k) sum += score[index[k]];
    for (int64_t k = 0; k < K; ++k) mean += static_cast<double>(score[index[k]]) / sum * d_weight[k];
    for (int64_t k = 0; k < K; ++k) ds[static_cast<size_t>(index[k])] = scale * (d_weight[k] - mean) / sum;
  } else {
    for (int64_t k = 0; k < K; ++k) ds[static_cast<size_t>(index[k])] = scale * d_weight[k];
  }
  if (fraction != nullptr) {
    double sum = 0;
    double mixed = 0;
    for (int64_t e = 0; e < E; ++e) {
      sum += score[e];
      mixed += fraction[e] * score[e];
    }
    for (int64_t e = 0; e < E; ++e) ds[static_cast<size_t>(e)] += balance_factor * (fraction[e] - mixed / sum) / sum;
  }
  if (config.scoring_func == ScoringFunc::sigmoid) {
    for (int64_t e = 0; e < E; ++e) {
      const double s = score[e];
      d_logits[e] = static_cast<float>(ds[static_cast<size_t>(e)] * s * (1 - s));
    }
    return;
  }
  double mean = 0;
  for (int64_t e = 0; e < E; ++e) mean += score[e] * ds[static_cast<size_t>(e)];
  for (int64_t e = 0; e < E; ++e) d_logits[e] = static_cast<float>(score[e] * (ds[static_cast<size_t>(e)] - mean));
}

void router_input_gradient(const BackwardContext& context, int64_t layer, const LayerTape& tape,
                           const BalanceTerm& balance, float* d_normed, LayerGradients& g, LayerGradientWorkspace& ws,
                           ThreadTeam& team) {
  const ModelConfig& config = context.model.config;
  const int64_t T = tape.tokens;
  const int64_t E = config.n_routed_experts;
  const int64_t K = config.num_experts_per_tok;
  float* d_logits = reserve<float>(g.logits, T * E);
  // Slots were filled in the order of tokens: walking the choices again finds each one's slot.
  std::vector<float> d_weight(static_cast<size_t>(T * K));
  std::vector<int64_t> next = tape.expert_begin;
  const auto* slot_gradient = ws.slot_gradient.as<float>();
  for (size_t i = 0; i < d_weight.size(); ++i) {
    d_weight[i] = slot_gradient[next[static_cast<size_t>(tape.index[i])]++];
  }
  const int64_t length = balance.sequences > 0 ? T / balance.sequences : 0;
  team.parallel_for(T, [&](int64_t t, int) {
    const double* fraction = balance.sequences > 0 ? balance.fraction.data() + t / length * E : nullptr;
    const double factor = balance.sequences > 0 ? balance.factor / static_cast<double>(length) : 0;
    route_gradient(config, tape.score.f32_row(t), tape.index.data() + t * K, d_weight.data() + t * K, fraction, factor,
                   d_logits + t * E);
  });
  const TurnedWeight gate = context.turned_router(context.layer(layer).moe->gate);
  linear_input_gradient(d_logits, T, gate, OperandRounding::none, true, d_normed, ws.products, team);
}

void feed_forward_input_gradient(const BackwardContext& context, int64_t layer, const LayerTape& tape,
                                 const BalanceTerm& balance, LayerGradients& g, LayerGradientWorkspace& ws,
                                 ThreadTeam& team) {
  const ModelConfig& config = context.model.config;
  const int64_t T = tape.tokens;
  const LayerWeights& weights = context.layer(layer);
  if (weights.moe) {
    const int64_t rows = T * config.num_experts_per_tok;
    for (Buffer* buffer : {&g.routed_inner, &g.routed_gate, &g.routed_up}) {
      reserve<float>(*buffer, rows * config.moe_intermediate_size);
    }
    reserve<float>(ws.slot_gradient, rows);
  }
  for (Buffer* buffer : {&g.always_inner, &g.always_gate, &g.always_up})
    reserve<float>(*buffer, T * tape.always.gate.cols);
  const std::vector<Job> jobs = jobs_of(context, layer, tape, g, ws);
  down_gradient(context, jobs, g.output.as<float>(), T, ws, team);
  swiglu_rows(jobs, ws.slot_gradient.as<float>(), ws, team);
  float* d_normed = reserve<float>(g.feed_forward_normed, T * config.hidden_size);
  up_gradient(context, jobs, T, d_normed, ws, team);
  if (weights.moe) router_input_gradient(context, layer, tape, balance, d_normed, g, ws, team);
}

// The angles that turn positions [0, count) back: (cos, −sin) pairs, [count, d_rope].
const float* backward_angles(const Rope& rope, int64_t d, int64_t count, LayerGradientWorkspace& ws, ThreadTeam& team) {
  if (count <= ws.angle_positions) return ws.angles.as<float>();
  float* out = reserve<float>(ws.angles, count * d);
  team.parallel_for(count, [&](int64_t position, int) {
    float* angles = out + position * d;
    rope_angles(rope, position, angles);
    for (int64_t j = 1; j < d; j += 2) angles[j] = -angles[j];
  });
  ws.angle_positions = count;
  return out;
}

// Turns the rotary parts of the gradients of q back, and sums those of the shared key over the heads.
void rope_input_gradient(const LoadedModel& model, std::span<const Span> spans, float* d_q, const float* d_k_pe,
                         float* d_kv, LayerGradientWorkspace& ws, ThreadTeam& team) {
  const ModelConfig& c = model.config;
  const int64_t H = c.num_attention_heads;
  const int64_t rope = c.qk_rope_head_dim;
  const int64_t dq = c.qk_head_dim();
  const int64_t width = c.kv_lora_rank + rope;
  int64_t positions = 0;
  for (const Span& span : spans) positions = std::max(positions, span.position + span.length);
  const float* table = backward_angles(model.rope, rope, positions, ws, team);
  for (const Span& span : spans) {
    team.parallel_for(span.length, [&](int64_t i, int) {
      const int64_t t = span.first + i;
      const float* angles = table + (span.position + i) * rope;
      for (int64_t h = 0; h < H; ++h) rope_rotate(d_q + (t * H + h) * dq + c.qk_nope_head_dim, angles, rope);
      float* sum = d_kv + t * width + c.kv_lora_rank;
      std::fill_n(sum, rope, 0.0f);
      for (int64_t h = 0; h < H; ++h) add_scaled(d_k_pe + (t * H + h) * rope, 1.0f, rope, sum);
      rope_rotate(sum, angles, rope);
    });
  }
}

void attention_input_gradient(const BackwardContext& context, int64_t layer, std::span<const Span> spans,
                              const LayerTape& tape, LayerGradients& g, LayerGradientWorkspace& ws, ThreadTeam& team) {
  const LoadedModel& model = context.model;
  const ModelConfig& c = model.config;
  const AttentionWeights& w = context.layer(layer).attention;
  const int64_t T = tape.tokens;
  const int64_t H = c.num_attention_heads;
  const int64_t latent = c.kv_lora_rank;
  const int64_t width = latent + c.qk_rope_head_dim;
  const auto eps = static_cast<float>(c.rms_norm_eps);
  const OperandRounding rounding = model.linear_rounding();
  float* d_attended = reserve<float>(g.attended, T * H * c.v_head_dim);
  linear_input_gradient(g.attention_output.as<float>(), T, context.turned(w.o_proj), rounding, false, d_attended,
                        ws.products, team);
  float* d_q = reserve<float>(g.q, T * H * c.qk_head_dim());
  float* d_kv_up = reserve<float>(g.kv_up, T * H * (c.qk_nope_head_dim + c.v_head_dim));
  float* d_k_pe = reserve<float>(g.k_pe, T * H * c.qk_rope_head_dim);
  attention_core_gradient(model, layer, spans, tape.q, d_attended, d_q, d_kv_up, d_k_pe, ws.attention, team);
  float* d_kv = reserve<float>(g.kv, T * width);
  rope_input_gradient(model, spans, d_q, d_k_pe, d_kv, ws, team);

  float* d_kv_normed = reserve<float>(g.kv_normed, T * latent);
  linear_input_gradient(d_kv_up, T, context.turned(w.kv_b_proj), context.other_rounding(), false, d_kv_normed,
                        ws.products, team);
  norm_input_gradient(tape.kv_latent.f32_row(0), width, w.kv_a_layernorm, d_kv_normed, T, latent, eps, false, d_kv,
                      width, team);
  float* d_normed = reserve<float>(g.attention_normed, T * c.hidden_size);
  linear_input_gradient(d_kv, T, context.turned(w.kv_a_proj_with_mqa), rounding, false, d_normed, ws.products, team);
  if (!c.q_lora_rank) {
    linear_input_gradient(d_q, T, context.turned(w.q_proj), rounding, true, d_normed, ws.products, team);
    return;
  }
  const int64_t rank = *c.q_lora_rank;
  float* d_q_normed = reserve<float>(g.q_normed, T * rank);
  float* d_q_latent = reserve<float>(g.q_latent, T * rank);
  linear_input_gradient(d_q, T, context.turned(w.q_b_proj), rounding, false, d_q_normed, ws.products, team);
  norm_input_gradient(tape.q_latent.f32_row(0), rank, w.q_a_layernorm, d_q_normed, T, rank, eps, false, d_q_latent,
                      rank, team);
  linear_input_gradient(d_q_latent, T, context.turned(w.q_a_proj), rounding, true, d_normed, ws.products, team);
}

// rms_norm of T rows again.
const float* normed_again(const float* x, int64_t x_stride, const TensorView& gain, int64_t T, int64_t n, float eps,
                          Buffer& buffer, ThreadTeam& team) {
  float* out = reserve<float>(buffer, T * n);
  team.parallel_for(T, [&](int64_t t, int) { rms_norm(x + t * x_stride, n, gain, eps, out + t * n); });
  return out;
}

void feed_forward_weight_gradient(const BackwardContext& context, int64_t layer, const LayerTape& tape,
                                  const LayerGradients& g, LayerGradientWorkspace& ws, ThreadTeam& team) {
  const ModelConfig& config = context.model.config;
  const LayerWeights& weights = context.layer(layer);
  const int64_t T = tape.tokens;
  const int64_t hidden = config.hidden_size;
  const float* x = normed_again(tape.middle.f32_row(0), hidden, weights.post_attention_layernorm, T, hidden,
                                static_cast<float>(config.rms_norm_eps), ws.normed, team);
  const ProductForm form = context.linear_form();
  std::vector<WeightGradientJob> products;
  for (const Job& job : jobs_of(context, layer, tape, g, ws)) {
    const int64_t n = job.inner_size();
    const int32_t* index = job.routed ? job.tokens : nullptr;
    // In FP8 what the MoE dispatches has power-of-two scales: its inputs, and the gradients of its outputs (spec §4.3).
    TokenRows tokens = f32_rows(x, hidden, index);
    TokenRows d_output = f32_rows(g.output.as<float>(), hidden, index);
    tokens.ue8m0 = d_output.ue8m0 = job.routed;
    products.push_back(
        {f32_rows(job.gate + job.row * n, n), tokens, job.count, context.gradient(job.mlp->gate_proj), form});
    products.push_back(
        {f32_rows(job.up + job.row * n, n), tokens, job.count, context.gradient(job.mlp->up_proj), form});
    products.push_back(
        {d_output, f32_rows(job.inner + job.row * n, n), job.count, context.gradient(job.mlp->down_proj), form});
  }
  if (weights.moe) {
    products.push_back({f32_rows(g.logits.as<float>(), config.n_routed_experts), f32_rows(x, hidden), T,
                        context.gradient(weights.moe->gate), ProductForm::f32});
  }
  linear_weight_gradients(products, ws.products, team);
}

void attention_weight_gradient(const BackwardContext& context, int64_t layer, std::span<const Span> spans,
                               const LayerTape& tape, const LayerGradients& g, LayerGradientWorkspace& ws,
                               ThreadTeam& team) {
  const ModelConfig& c = context.model.config;
  const LayerWeights& weights = context.layer(layer);
  const AttentionWeights& w = weights.attention;
  const int64_t T = tape.tokens;
  const int64_t hidden = c.hidden_size;
  const int64_t width = c.kv_lora_rank + c.qk_rope_head_dim;
  const auto eps = static_cast<float>(c.rms_norm_eps);
  const ProductForm form = context.linear_form();
  const float* x =
      normed_again(tape.input.f32_row(0), hidden, weights.input_layernorm, T, hidden, eps, ws.normed, team);
  // The latents as the keys and values were made from them.
  float* latents = reserve<float>(ws.attention.latents, T * width);
  for (const Span& span : spans) {
    team.parallel_for(span.length, [&](int64_t i, int) {
      span.cache->read(layer, span.position + i, latents + (span.first + i) * width);
    });
  }
  const int64_t kv_up = c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim);
  const int64_t attended = c.num_attention_heads * c.v_head_dim;
  const int64_t q = c.num_attention_heads * c.qk_head_dim();
  std::vector<WeightGradientJob> products = {
      {f32_rows(g.attention_output.as<float>(), hidden),
       {tape.attended.dtype, tape.attended.row(0), attended, attended, nullptr, true},
       T,
       context.gradient(w.o_proj),
       form},
      {f32_rows(g.kv_up.as<float>(), kv_up),
       {DType::f32, latents, c.kv_lora_rank, width},
       T,
       context.gradient(w.kv_b_proj),
       context.other_form()},
      {f32_rows(g.kv.as<float>(), width), f32_rows(x, hidden), T, context.gradient(w.kv_a_proj_with_mqa), form}};
  if (c.q_lora_rank) {
    const int64_t rank = *c.q_lora_rank;
    const float* normed = normed_again(tape.q_latent.f32_row(0), rank, w.q_a_layernorm, T, rank, eps, ws.latent, team);
    products.push_back(
        {f32_rows(g.q_latent.as<float>(), rank), f32_rows(x, hidden), T, context.gradient(w.q_a_proj), form});
    products.push_back({f32_rows(g.q.as<float>(), q), f32_rows(normed, rank), T, context.gradient(w.q_b_proj), form});
  } else {
    products.push_back({f32_rows(g.q.as<float>(), q), f32_rows(x, hidden), T, context.gradient(w.q_proj), form});
  }
  linear_weight_gradients(products, ws.products, team);
}

}  // namespace

ProductForm BackwardContext::linear_form() const {
  if (model.compute == ComputeMode::fp32) return ProductForm::f32;
  return model.compute == ComputeMode::w8a8 ? ProductForm::fp8 : ProductForm::bf16;
}

ProductForm BackwardContext::other_form() const {
  return model.compute == ComputeMode::fp32 ? ProductForm::f32 : ProductForm::bf16;
}

OperandRounding BackwardContext::other_rounding() const {
  return model.compute == ComputeMode::fp32 ? OperandRounding::none : OperandRounding::bf16;
}

OperandRounding BackwardContext::down_rounding() const {
  return model.compute == ComputeMode::w8a8 ? OperandRounding::fp8_ue8m0 : model.linear_rounding();
}

void copy_rows(const float* from, int64_t rows, int64_t cols, float* to, ThreadTeam& team) {
  team.parallel_for((rows + kCopyRows - 1) / kCopyRows, [&](int64_t item, int) {
    const int64_t begin = item * kCopyRows;
    std::copy_n(from + begin * cols, std::min(kCopyRows, rows - begin) * cols, to + begin * cols);
  });
}

void norm_input_gradient(const float* x, int64_t x_stride, const TensorView& gain, const float* dy, int64_t T,
                         int64_t n, float eps, bool accumulate, float* dx, int64_t dx_stride, ThreadTeam& team) {
  team.parallel_for(T, [&](int64_t t, int) {
    const float* row = x + t * x_stride;
    float* out = dx + t * dx_stride;
    if (!accumulate) std::fill_n(out, n, 0.0f);
    rms_norm_input_gradient(row, gain, dy + t * n, rms_factor(row, n, eps), n, out);
  });
}

void norm_weight_gradient(const float* x, int64_t x_stride, const float* dy, int64_t T, int64_t n, float eps,
                          float* dgain, Buffer& factors, ThreadTeam& team) {
  float* r = reserve<float>(factors, T);
  team.parallel_for(T, [&](int64_t t, int) { r[t] = rms_factor(x + t * x_stride, n, eps); });
  team.parallel_for((n + kGainCols - 1) / kGainCols, [&](int64_t item, int) {
    const int64_t begin = item * kGainCols;
    const int64_t count = std::min(kGainCols, n - begin);
    for (int64_t t = 0; t < T; ++t) {
      rms_norm_gain_gradient(x + t * x_stride + begin, dy + t * n + begin, r[t], count, dgain + begin);
    }
  });
}

void layer_input_gradient(const BackwardContext& context, int64_t layer, std::span<const Span> spans,
                          const LayerTape& tape, const BalanceTerm& balance, float* dx, LayerGradients& g,
                          LayerGradientWorkspace& ws, ThreadTeam& team) {
  const ModelConfig& config = context.model.config;
  const LayerWeights& weights = context.layer(layer);
  const int64_t T = tape.tokens;
  const int64_t hidden = config.hidden_size;
  const auto eps = static_cast<float>(config.rms_norm_eps);
  ws.scratch.resize(static_cast<size_t>(team.size()));
  copy_rows(dx, T, hidden, reserve<float>(g.output, T * hidden), team);
  feed_forward_input_gradient(context, layer, tape, balance, g, ws, team);
  norm_input_gradient(tape.middle.f32_row(0), hidden, weights.post_attention_layernorm,
                      g.feed_forward_normed.as<float>(), T, hidden, eps, true, dx, hidden, team);
  copy_rows(dx, T, hidden, reserve<float>(g.attention_output, T * hidden), team);
  attention_input_gradient(context, layer, spans, tape, g, ws, team);
  norm_input_gradient(tape.input.f32_row(0), hidden, weights.input_layernorm, g.attention_normed.as<float>(), T, hidden,
                      eps, true, dx, hidden, team);
}

void layer_weight_gradient(const BackwardContext& context, int64_t layer, std::span<const Span> spans,
                           const LayerTape& tape, const LayerGradients& g, LayerGradientWorkspace& ws,
                           ThreadTeam& team) {
  const ModelConfig& config = context.model.config;
  const LayerWeights& weights = context.layer(layer);
  const AttentionWeights& w = weights.attention;
  const int64_t T = tape.tokens;
  feed_forward_weight_gradient(context, layer, tape, g, ws, team);
  attention_weight_gradient(context, layer, spans, tape, g, ws, team);
  const auto gain = [&](const KeptRows& x, const TensorView& tensor, const Buffer& dy) {
    norm_weight_gradient(x.f32_row(0), x.cols, dy.as<float>(), T, tensor.shape[0],
                         static_cast<float>(config.rms_norm_eps), context.gradient(tensor), ws.factors, team);
  };
  gain(tape.middle, weights.post_attention_layernorm, g.feed_forward_normed);
  gain(tape.input, weights.input_layernorm, g.attention_normed);
  gain(tape.kv_latent, w.kv_a_layernorm, g.kv_normed);
  if (config.q_lora_rank) gain(tape.q_latent, w.q_a_layernorm, g.q_normed);
}

}  // namespace fathom
