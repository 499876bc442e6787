#include "model/mla.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/norm.h"

namespace fathom {
namespace {

// Heads of one work item: eight absorbed queries share the reading of a page; four heads share the preparation of its
// latents.
constexpr int64_t kAbsorbedHeads = 8;
constexpr int64_t kExpandedHeads = 4;

// Dimensions of one call, short names for the inner functions.
struct Dims {
  int64_t H, nope, rope, v, latent, q, width;
  explicit Dims(const ModelConfig& c)
      : H(c.num_attention_heads),
        nope(c.qk_nope_head_dim),
        rope(c.qk_rope_head_dim),
        v(c.v_head_dim),
        latent(c.kv_lora_rank),
        q(c.qk_head_dim()),
        width(c.kv_lora_rank + c.qk_rope_head_dim) {}
};

// The two rows that a query's running softmax needs besides its weighted sum.
struct SoftmaxState {
  float greatest;
  float sum;
};

// One block of keys of an online softmax for one query: turns scores [n] into weights relative to the new maximum,
// rescales what was summed before. Keys come in blocks at fixed positions (pages), so the result does not depend on how
// the queries were cut into chunks.
void softmax_block(float* scores, int64_t n, float scale, SoftmaxState& state, float* mixed, int64_t mixed_size) {
  float greatest = state.greatest;
  for (int64_t j = 0; j < n; ++j) {
    scores[j] *= scale;
    greatest = std::max(greatest, scores[j]);
  }
  if (greatest > state.greatest) {
    const float shrink = std::exp(state.greatest - greatest);
    state.sum *= shrink;
    for (int64_t k = 0; k < mixed_size; ++k) mixed[k] *= shrink;
    state.greatest = greatest;
  }
  float sum = 0;
  for (int64_t j = 0; j < n; ++j) {
    scores[j] = std::exp(scores[j] - greatest);
    sum += scores[j];
  }
  state.sum += sum;
}

void project_queries(const LoadedModel& model, const AttentionWeights& w, int64_t T, Workspace& ws, ThreadTeam& team,
                     LayerTape* tape) {
  const ModelConfig& config = model.config;
  const Dims d(config);
  const int64_t hidden = config.hidden_size;
  const auto* x = ws.normed.as<float>();
  auto* kv = ws.kv_latent.as<float>();
  const OperandRounding rounding = model.linear_rounding();
  const Weight& first = config.q_lora_rank ? w.q_a_proj : w.q_proj;
  float* first_out = config.q_lora_rank ? ws.q_latent.as<float>() : ws.q.as<float>();
  ws.operand.prepare(x, T, hidden, hidden, first, rounding, &team);
  if (same_operand_form(first, w.kv_a_proj_with_mqa, rounding)) {
    linear(ws.operand.view(), T, {{&first, first_out, first.rows}, {&w.kv_a_proj_with_mqa, kv, d.width}}, team);
  } else {
    linear(ws.operand.view(), T, {{&first, first_out, first.rows}}, team);
    ws.operand.prepare(x, T, hidden, hidden, w.kv_a_proj_with_mqa, rounding, &team);
    linear(ws.operand.view(), T, {{&w.kv_a_proj_with_mqa, kv, d.width}}, team);
  }
  if (tape != nullptr) tape->kv_latent.put_rows(kv, T, team);
  if (config.q_lora_rank) {
    const int64_t rank = *config.q_lora_rank;
    if (tape != nullptr) tape->q_latent.put_rows(first_out, T, team);
    team.parallel_for(T, [&](int64_t t, int) {
      rms_norm(first_out + t * rank, rank, w.q_a_layernorm, static_cast<float>(config.rms_norm_eps),
               first_out + t * rank);
    });
    ws.operand.prepare(first_out, T, rank, rank, w.q_b_proj, rounding, &team);
    linear(ws.operand.view(), T, {{&w.q_b_proj, ws.q.as<float>(), d.H * d.q}}, team);
  }
}

// Norms and rotations of the new positions, and their entry into the caches.
void append_latents(const LoadedModel& model, int64_t layer, const AttentionWeights& w, const Batch& batch,
                    Workspace& ws, ThreadTeam& team) {
  const Dims d(model.config);
  const auto eps = static_cast<float>(model.config.rms_norm_eps);
  auto* kv = ws.kv_latent.as<float>();
  auto* q = ws.q.as<float>();
  for (const Span& span : batch.spans) {
    team.parallel_for(span.length, [&](int64_t i, int) {
      const int64_t t = span.first + i;
      const float* cos_sin = ws.cos_sin.as<float>() + t * d.rope;
      float* row = kv + t * d.width;
      rms_norm(row, d.latent, w.kv_a_layernorm, eps, row);
      rope_rotate(row + d.latent, cos_sin, d.rope);
      span.cache->write(layer, span.position + i, row);
      for (int64_t h = 0; h < d.H; ++h) rope_rotate(q + (t * d.H + h) * d.q + d.nope, cos_sin, d.rope);
    });
  }
}

// --- Over a float32 cache, in float32: the reference
// -------------------------------------------------------------------

// A few heads over a whole span: keys and values of each page of latents are rebuilt once and met by all queries that
// see the page.
void expanded_heads(const LoadedModel& model, int64_t layer, const Weight& kv_b, const Span& span, int64_t h_begin,
                    int64_t h_end, Workspace& ws, Workspace::Scratch& scratch) {
  const Dims d(model.config);
  constexpr int64_t kPage = LatentCache::kPage;
  const auto scale = static_cast<float>(model.rope.softmax_scale);
  const int64_t G = h_end - h_begin;
  const int64_t S = span.length;
  const int64_t end = span.position + S;
  const int64_t stride = d.H * d.v;  // from one token's head to the next token's
  auto* keys = scratch.reserve<float>(scratch.keys, kPage * d.q);
  auto* values = scratch.reserve<float>(scratch.values, kPage * d.v);
  auto* latents = scratch.reserve<float>(scratch.latents, kPage * d.width);
  auto* scores = scratch.reserve<float>(scratch.scores, S * kPage);
  auto* states = scratch.reserve<SoftmaxState>(scratch.states, G * S);
  const Weight key_block = dense_weight(DType::f32, keys, kPage, d.q, d.q);
  const Weight value_block = dense_weight(DType::f32, values, kPage, d.v, d.v);

  for (int64_t g = 0; g < G; ++g) {
    const float* q = ws.q.as<float>() + (span.first * d.H + h_begin + g) * d.q;
    float* out = ws.attended.as<float>() + (span.first * d.H + h_begin + g) * d.v;
    scratch.queries[g].prepare(q, S, d.q, d.H * d.q, key_block, OperandRounding::none, nullptr);
    for (int64_t t = 0; t < S; ++t) {
      states[g * S + t] = {-std::numeric_limits<float>::infinity(), 0};
      std::fill(out + t * stride, out + t * stride + d.v, 0.0f);
    }
  }
  for (int64_t begin = 0; begin < end; begin += kPage) {
    const int64_t n = std::min(kPage, end - begin);
    for (int64_t j = 0; j < n; ++j) span.cache->read(layer, begin + j, latents + j * d.width);
    scratch.operand.prepare(latents, n, d.latent, d.width, kv_b, model.unquantized_rounding(), nullptr);
    for (int64_t j = 0; j < n; ++j) {
      std::memcpy(keys + j * d.q + d.nope, latents + j * d.width + d.latent,
                  static_cast<size_t>(d.rope) * sizeof(float));
    }
    // Queries from the first that sees this page; query t stands at position span.position + t.
    const int64_t first = std::max<int64_t>(0, begin - span.position);
    const int64_t count = S - first;
    for (int64_t g = 0; g < G; ++g) {
      const int64_t head_rows = (h_begin + g) * (d.nope + d.v);
      float* out = ws.attended.as<float>() + ((span.first + first) * d.H + h_begin + g) * d.v;
      linear_rows(scratch.operand.view(), nullptr, n, kv_b, head_rows, head_rows + d.nope, keys, d.q);
      linear_rows(scratch.operand.view(), nullptr, n, kv_b, head_rows + d.nope, head_rows + d.nope + d.v, values, d.v);
      linear_rows(scratch.queries[g].view(first), nullptr, count, key_block, 0, n, scores, kPage);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t visible = std::min(n, span.position + first + i + 1 - begin);
        softmax_block(scores + i * kPage, visible, scale, states[g * S + first + i], out + i * stride, d.v);
        std::fill(scores + i * kPage + visible, scores + i * kPage + n, 0.0f);
      }
      linear_transposed_rows(scores, kPage, count, value_block, 0, n, false, true, out, stride);
    }
  }
  for (int64_t g = 0; g < G; ++g) {
    float* out = ws.attended.as<float>() + (span.first * d.H + h_begin + g) * d.v;
    for (int64_t t = 0; t < S; ++t) {
      for (int64_t k = 0; k < d.v; ++k) out[t * stride + k] /= states[g * S + t].sum;
    }
  }
}

// A group of heads over a span of few queries: the pages of latents are themselves the keys and the values.
void absorbed_heads(const LoadedModel& model, int64_t layer, const Weight& kv_b, const Span& span, int64_t h_begin,
                    int64_t h_end, Workspace& ws, Workspace::Scratch& scratch) {
  const Dims d(model.config);
  constexpr int64_t kPage = LatentCache::kPage;
  const auto scale = static_cast<float>(model.rope.softmax_scale);
  const int64_t G = h_end - h_begin;
  const int64_t rows = span.length * G;  // query row of token t and head h: t · G + h − h_begin
  auto* queries = scratch.reserve<float>(scratch.keys, rows * d.width);
  auto* mixed = scratch.reserve<float>(scratch.values, rows * d.latent);
  auto* scores = scratch.reserve<float>(scratch.scores, rows * kPage);
  auto* states = scratch.reserve<SoftmaxState>(scratch.states, rows);
  for (int64_t h = h_begin; h < h_end; ++h) {
    const float* q = ws.q.as<float>() + (span.first * d.H + h) * d.q;
    float* row = queries + (h - h_begin) * d.width;
    const int64_t head_rows = h * (d.nope + d.v);
    linear_transposed_rows(q, d.H * d.q, span.length, kv_b, head_rows, head_rows + d.nope, true, false, row,
                           G * d.width);
    for (int64_t t = 0; t < span.length; ++t) {
      std::memcpy(row + t * G * d.width + d.latent, q + t * d.H * d.q + d.nope,
                  static_cast<size_t>(d.rope) * sizeof(float));
    }
  }
  for (int64_t i = 0; i < rows; ++i) states[i] = {-std::numeric_limits<float>::infinity(), 0};
  std::fill(mixed, mixed + rows * d.latent, 0.0f);

  const DType dtype = span.cache->dtype();
  Operand& operand = scratch.queries[0];
  operand.prepare(queries, rows, d.width, d.width, dense_weight(dtype, nullptr, kPage, d.width, d.width),
                  OperandRounding::none, nullptr);
  const int64_t end = span.position + span.length;
  for (int64_t begin = 0; begin < end; begin += kPage) {
    const int64_t n = std::min(kPage, end - begin);
    const std::byte* page = span.cache->page(layer, begin / kPage);
    const Weight keys = dense_weight(dtype, page, kPage, d.width, d.width);
    const Weight values = dense_weight(dtype, page, kPage, d.latent, d.width);
    const int64_t first = std::max<int64_t>(0, begin - span.position);
    const int64_t count = (span.length - first) * G;
    linear_rows(operand.view(first * G), nullptr, count, keys, 0, n, scores, kPage);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t visible = std::min(n, span.position + first + i / G + 1 - begin);
      softmax_block(scores + i * kPage, visible, scale, states[first * G + i], mixed + (first * G + i) * d.latent,
                    d.latent);
      std::fill(scores + i * kPage + visible, scores + i * kPage + n, 0.0f);
    }
    linear_transposed_rows(scores, kPage, count, values, 0, n, false, true, mixed + first * G * d.latent, d.latent);
  }
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < d.latent; ++k) mixed[i * d.latent + k] /= states[i].sum;
  }
  for (int64_t h = h_begin; h < h_end; ++h) {
    const int64_t value_rows = h * (d.nope + d.v) + d.nope;
    scratch.operand.prepare(mixed + (h - h_begin) * d.latent, span.length, d.latent, G * d.latent, kv_b,
                            model.unquantized_rounding(), nullptr);
    linear_rows(scratch.operand.view(), nullptr, span.length, kv_b, value_rows, value_rows + d.v,
                ws.attended.as<float>() + (span.first * d.H + h) * d.v, d.H * d.v);
  }
}

void attend_f32(const LoadedModel& model, int64_t layer, const Weight& kv_b, const Batch& batch, Workspace& ws,
                ThreadTeam& team) {
  const Dims d(model.config);
  // An item is a few heads, which share the reading of the latents, but small enough that every thread has some.
  for (const Span& span : batch.spans) {
    const bool expanded = span.form == AttentionForm::expanded;
    const int64_t group = std::clamp<int64_t>(d.H / (4 * team.size()), 1, expanded ? kExpandedHeads : kAbsorbedHeads);
    team.parallel_for((d.H + group - 1) / group, [&](int64_t item, int thread) {
      const int64_t h_begin = item * group;
      const int64_t h_end = std::min(d.H, h_begin + group);
      Workspace::Scratch& scratch = ws.scratch[static_cast<size_t>(thread)];
      if (expanded) {
        expanded_heads(model, layer, kv_b, span, h_begin, h_end, ws, scratch);
      } else {
        absorbed_heads(model, layer, kv_b, span, h_begin, h_end, ws, scratch);
      }
    });
  }
}

// --- Over a BF16 or FP8 cache: kernels/attention.h
// ----------------------------------------------------------------------------

void attend_bf16(const LoadedModel& model, int64_t layer, const Weight& kv_b, const Batch& batch, Workspace& ws,
                 ThreadTeam& team) {
  const Dims d(model.config);
  const LatentDims dims{d.H, d.nope, d.rope, d.v, d.latent, static_cast<float>(model.rope.softmax_scale)};
  std::vector<LatentSpan> absorbed;
  std::vector<LatentSpan> expanded;
  for (const Span& span : batch.spans) {
    (span.form == AttentionForm::absorbed ? absorbed : expanded)
        .push_back({span.cache->pages(), span.cache->layer_offset(layer), span.position, span.first, span.length,
                    span.cache->dtype()});
  }
  const auto* q = ws.q.as<float>();
  auto* attended = ws.attended.as<float>();
  if (!absorbed.empty()) absorbed_attention(dims, kv_b, absorbed, q, attended, ws.attention, team);
  if (!expanded.empty()) expanded_attention(dims, kv_b, expanded, q, attended, ws.attention, team);
}

}  // namespace

AttentionForm choose_attention(const ModelConfig& config, int64_t new_tokens, int64_t cached_tokens) {
  // Multiplications per layer and head, counted from the shapes (spec §1.3): what each form pays for S new tokens over
  // P cached ones.
  const Dims d(config);
  const double S = static_cast<double>(new_tokens);
  const double P = static_cast<double>(cached_tokens);
  const double pairs = S * P + S * (S + 1) / 2;
  const double up = static_cast<double>(d.latent * (d.nope + d.v));
  const double expanded = (P + S) * up + pairs * static_cast<double>(d.q + d.v);
  const double absorbed = S * up + pairs * static_cast<double>(d.width + d.latent);
  return absorbed <= expanded ? AttentionForm::absorbed : AttentionForm::expanded;
}

void latent_attention(const LoadedModel& model, int64_t layer, const Batch& batch, Workspace& ws, ThreadTeam& team,
                      LayerTape* tape) {
  const Dims d(model.config);
  const AttentionWeights& w = model.weights.layers[static_cast<size_t>(layer)].attention;
  const auto T = static_cast<int64_t>(batch.tokens.size());
  project_queries(model, w, T, ws, team, tape);
  append_latents(model, layer, w, batch, ws, team);
  if (tape != nullptr) tape->q.put_rows(ws.q.as<float>(), T, team);

  if (model.cache_dtype() != DType::f32) {
    attend_bf16(model, layer, w.kv_b_proj, batch, ws, team);
  } else {
    attend_f32(model, layer, w.kv_b_proj, batch, ws, team);
  }
  if (tape != nullptr) tape->attended.put_rows(ws.attended.as<float>(), T, team);
  ws.operand.prepare(ws.attended.as<float>(), T, d.H * d.v, d.H * d.v, w.o_proj, model.linear_rounding(), &team);
  linear(ws.operand.view(), T, {{&w.o_proj, ws.branch.as<float>(), model.config.hidden_size}}, team);
}

}  // namespace fathom
