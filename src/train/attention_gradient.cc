#include "train/attention_gradient.h"

#include <algorithm>
#include <cstring>

#include "kernels/gradients.h"
#include "kernels/norm.h"
#include "kernels/paired_product.h"

namespace fathom {
namespace {

// Queries of a block: the contraction of the keys' and values' gradients.
constexpr int64_t kQueryBlock = 128;
// The same of paired products, and the steps in which the queries of a block see more positions.
constexpr int64_t kPairedQueries = 128;
constexpr int64_t kStep = 64;

int64_t padded(int64_t n) {
  return (n + 63) / 64 * 64;
}

// One head of one sequence of S positions. In BF16 every operand of a product is rounded, sums are float32.
struct HeadGradient {
  const LoadedModel& model;
  AttentionGradientWorkspace::Thread& scratch;
  const bool bf16;
  const int64_t S, dq, dv;
  const int64_t stride = padded(S);
  const DType dtype = bf16 ? DType::bf16 : DType::f32;
  const OperandRounding rounding = bf16 ? OperandRounding::bf16 : OperandRounding::none;
  // Left sides that are turned here are read as BF16 only where the kernels do.
  const OperandForm form = operand_form_for(dense_weight(dtype, nullptr, 1, 1, 1), rounding);
  const bool narrow = form == OperandForm::bf16;

  // Rows [S, cols] as the weight of a product.
  Weight as_weight(const float* rows, int64_t cols, Buffer& buffer) const {
    if (!bf16) return dense_weight(DType::f32, rows, S, cols, cols);
    auto* out = reserve<uint16_t>(buffer, S * cols);
    convert_f32_to_bf16(rows, S * cols, out);
    return dense_weight(DType::bf16, out, S, cols, cols);
  }
  // The same turned around: [cols, S].
  Weight as_turned_weight(const float* rows, int64_t cols, Buffer& buffer) const {
    auto* out = reserve<float>(buffer, cols * stride);
    turn(DType::f32, rows, cols, nullptr, S, cols, bf16 ? TurnedForm::bf16 : TurnedForm::f32, out, stride, stride);
    return dense_weight(dtype, out, cols, S, stride);
  }
  // Columns [begin, begin + count) of a turned weight.
  static Weight columns(Weight weight, int64_t begin, int64_t count) {
    weight.data += static_cast<size_t>(begin) * dtype_bytes(weight.dtype);
    weight.cols = count;
    return weight;
  }
  // out[j, c] += Σ_i left[i, j] right[c, i]: i over `count` queries, j over n positions.
  void add_over_queries(const float* left, int64_t count, int64_t n, const Weight& right, Buffer& buffer, float* out) {
    constexpr int64_t kStride = kQueryBlock;
    auto* turned = reserve<float>(buffer, n * kStride);
    const TurnedForm wide = bf16 ? TurnedForm::f32_rounded : TurnedForm::f32;
    turn(DType::f32, left, stride, nullptr, count, n, narrow ? TurnedForm::bf16 : wide, turned, kStride, padded(count));
    OperandView view;
    for (int64_t j = 0; !narrow && j < n; ++j) order_row(form, turned + j * kStride, padded(count));
    view.form = form;
    view.rounding = rounding;
    view.data = turned;
    view.stride = kStride;
    auto* partial = reserve<float>(scratch.partial, n * right.rows);
    linear_rows(view, nullptr, n, right, 0, right.rows, partial, right.rows);
    add_scaled(partial, 1.0f, n * right.rows, out);
  }

  // q, keys [S, dq]; d_out, values [S, dv]; d_q rows `d_q_stride` apart. Leaves scratch.dk [S, dq] and scratch.dv.
  void run(const float* q, const float* keys, const float* values, const float* d_out, float* d_q, int64_t d_q_stride) {
    const auto scale = static_cast<float>(model.rope.softmax_scale);
    const Weight key_rows = as_weight(keys, dq, scratch.key_weights);
    const Weight value_rows = as_weight(values, dv, scratch.value_weights);
    const Weight key_cols = as_turned_weight(keys, dq, scratch.keys_turned);
    const Weight q_cols = as_turned_weight(q, dq, scratch.q_turned);
    const Weight d_out_cols = as_turned_weight(d_out, dv, scratch.d_out_turned);
    scratch.queries.prepare(q, S, dq, dq, key_rows, rounding, nullptr);
    scratch.gradients.prepare(d_out, S, dv, dv, value_rows, rounding, nullptr);
    auto* p = reserve<float>(scratch.p, kQueryBlock * stride);
    auto* dp = reserve<float>(scratch.dp, kQueryBlock * stride);
    auto* dk = reserve<float>(scratch.dk, S * dq);
    auto* dvalues = reserve<float>(scratch.dv, S * dv);
    std::fill_n(dk, S * dq, 0.0f);
    std::fill_n(dvalues, S * dv, 0.0f);
    for (int64_t begin = 0; begin < S; begin += kQueryBlock) {
      const int64_t count = std::min(kQueryBlock, S - begin);
      const int64_t n = begin + count;  // positions that the block sees
      linear_rows(scratch.queries.view(begin), nullptr, count, key_rows, 0, n, p, stride);
      linear_rows(scratch.gradients.view(begin), nullptr, count, value_rows, 0, n, dp, stride);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t visible = begin + i + 1;
        softmax_row(p + i * stride, scale, visible);
        softmax_row_gradient(p + i * stride, scale, visible, dp + i * stride);
        std::fill(p + i * stride + visible, p + i * stride + n, 0.0f);
        std::fill(dp + i * stride + visible, dp + i * stride + n, 0.0f);
      }
      const Weight seen = columns(key_cols, 0, n);
      scratch.scores.prepare(dp, count, n, stride, seen, rounding, nullptr);
      linear_rows(scratch.scores.view(), nullptr, count, seen, 0, dq, d_q + begin * d_q_stride, d_q_stride);
      add_over_queries(p, count, n, columns(d_out_cols, begin, count), scratch.p_turned, dvalues);
      add_over_queries(dp, count, n, columns(q_cols, begin, count), scratch.dp_turned, dk);
    }
  }
};

// The same in BF16 by paired products, a right side [K, N] being [K / 2, N, 2] and sums running over pairs. dq and dv
// are even.
struct PairedHeadGradient {
  AttentionGradientWorkspace::Thread& scratch;
  const float scale;
  const int64_t S, dq, dv;
  // An odd number of cache lines: rows and pairs below each other do not meet in the same places of the cache.
  const int64_t stride = padded(S) + 16;

  // Rows [S, cols] BF16 as a right side with a column for each of them: pairs of elements turned around.
  const uint16_t* pair_elements(const uint16_t* rows, int64_t cols, Buffer& buffer) const {
    auto* out = reserve<uint16_t>(buffer, cols * stride);
    turn(DType::f32, rows, cols / 2, nullptr, S, cols / 2, TurnedForm::f32, out, stride, S);
    return out;
  }
  // Rows [S, cols] BF16, `row_stride` apart, as a right side over positions.
  const uint16_t* pair_positions(const uint16_t* rows, int64_t row_stride, int64_t cols, Buffer& buffer) const {
    const int64_t pairs = (S + 1) / 2;
    auto* out = reserve<uint16_t>(buffer, pairs * cols * 2);
    pair_rows(DType::bf16, rows, row_stride, nullptr, S, cols, 0, pairs, out);
    return out;
  }
  // Scores of queries [begin, begin + count), of rows `left`, for the positions that they see, step by step.
  void scores_of(const PairedLeft& left, const uint16_t* right, int64_t width, int64_t begin, int64_t count,
                 float* out) const {
    for (int64_t first = 0; first < count; first += kStep) {
      const int64_t seen = first == 0 ? 0 : begin + first;
      const int64_t end = begin + std::min(first + kStep, count);
      const PairedLeft rows{left.data + (begin + first) * left.row_stride, left.row_stride};
      paired_product(rows, count - first, right, stride, width / 2, seen, end, out + first * stride + seen, stride,
                     nullptr, false);
    }
  }
  // out[j, c] = or += Σ_i left[i, j] right[i, c] over those of the block's queries that see position j: those before
  // the block have their sums of earlier blocks, those of the block begin here.
  void add_over_queries(const uint16_t* left, const uint16_t* right, int64_t cols, int64_t begin, int64_t count,
                        float* out) const {
    const auto add = [&](int64_t from, int64_t to, int64_t first, bool accumulate) {
      const PairedLeft view{left + first * stride + 2 * from, 2, 2 * stride};
      paired_product(view, to - from, right + (begin + first) * cols, cols, (count - first + 1) / 2, 0, cols,
                     out + from * cols, cols, nullptr, accumulate);
    };
    if (begin > 0) add(0, begin, 0, true);
    for (int64_t first = 0; first < count; first += kStep) {
      add(begin + first, begin + std::min(first + kStep, count), first, false);
    }
  }

  // q rows `q_stride` apart; keys [S, dq]; values, d_out [S, dv], all BF16. d_q rows `d_q_stride` apart. Leaves
  // scratch.dk [S, dq] and scratch.dv.
  void run(const uint16_t* q, int64_t q_stride, const uint16_t* keys, const uint16_t* values, const uint16_t* d_out,
           float* d_q, int64_t d_q_stride) {
    const uint16_t* key_elements = pair_elements(keys, dq, scratch.keys_turned);
    const uint16_t* value_elements = pair_elements(values, dv, scratch.values_turned);
    const uint16_t* key_positions = pair_positions(keys, dq, dq, scratch.key_pairs);
    const uint16_t* q_positions = pair_positions(q, q_stride, dq, scratch.q_turned);
    const uint16_t* d_out_positions = pair_positions(d_out, dv, dv, scratch.d_out_turned);
    auto* p = reserve<float>(scratch.p, kPairedQueries * stride);
    auto* dp = reserve<float>(scratch.dp, kPairedQueries * stride);
    auto* p_pairs = reserve<uint16_t>(scratch.p_turned, kPairedQueries * stride);
    auto* ds_pairs = reserve<uint16_t>(scratch.dp_turned, kPairedQueries * stride);
    auto* ds = reserve<uint16_t>(scratch.ds, kPairedQueries * stride);
    auto* dk = reserve<float>(scratch.dk, S * dq);
    auto* dvalues = reserve<float>(scratch.dv, S * dv);
    for (int64_t begin = 0; begin < S; begin += kPairedQueries) {
      const int64_t count = std::min(kPairedQueries, S - begin);
      scores_of({q, q_stride}, key_elements, dq, begin, count, p);
      scores_of({d_out, dv}, value_elements, dv, begin, count, dp);
      for (int64_t first = 0; first < count; first += kStep) {
        const int64_t last = std::min(first + kStep, count);
        const int64_t pairs = (begin + last + 1) / 2;  // of positions that the step sees
        for (int64_t i = first; i < last; i += 2) {
          softmax_pair_gradient(p + i * stride, dp + i * stride, stride, std::min<int64_t>(2, last - i), scale,
                                begin + i + 1, 2 * pairs, p_pairs + i * stride, ds_pairs + i * stride, ds + i * stride);
        }
        paired_product({ds + first * stride, stride}, last - first, key_positions, dq, pairs, 0, dq,
                       d_q + (begin + first) * d_q_stride, d_q_stride, nullptr, false);
      }
      add_over_queries(p_pairs, d_out_positions, dv, begin, count, dvalues);
      add_over_queries(ds_pairs, q_positions, dq, begin, count, dk);
    }
  }
};

bool takes_paired_products(const LoadedModel& model, const Weight& kv_b, const KeptRows& q) {
  const ModelConfig& c = model.config;
  return model.compute == ComputeMode::bf16 && has_paired_product() && q.dtype == DType::bf16 &&
         kv_b.dtype == DType::bf16 && kv_b.bits == 0 && kv_b.row_stride % 2 == 0 && kv_b.cols % 2 == 0 &&
         c.qk_head_dim() % 2 == 0 && c.v_head_dim % 2 == 0;
}

// kv_b_proj [N, rank] in BF16 as a right side: [rank / 2, N, 2].
const uint16_t* pair_weight(const Weight& weight, Buffer& buffer, ThreadTeam& team) {
  auto* out = reserve<float>(buffer, weight.cols / 2 * weight.rows);
  const int64_t step = rows_per_item(weight.rows, 1, team.size());
  team.parallel_for((weight.rows + step - 1) / step, [&](int64_t item, int) {
    const int64_t begin = item * step;
    const int64_t count = std::min(step, weight.rows - begin);
    turn(DType::f32, weight.row(begin), weight.row_stride / 2, nullptr, count, weight.cols / 2, TurnedForm::f32,
         out + begin, weight.rows, count);
  });
  return buffer.as<uint16_t>();
}

// One layer's attention as its heads see it.
struct Layer {
  const LoadedModel& model;
  const Weight& kv_b;
  const KeptRows& q;
  const float* latents;  // [T, width]
  const Operand& latent_operand;
  const uint16_t* kv_b_pairs;  // null where products are not paired
  const ModelConfig& c = model.config;
  const int64_t H = c.num_attention_heads;
  const int64_t nope = c.qk_nope_head_dim;
  const int64_t rope = c.qk_rope_head_dim;
  const int64_t dv = c.v_head_dim;
  const int64_t dq = nope + rope;
  const int64_t rank = c.kv_lora_rank;
  const int64_t width = rank + rope;

  // First row of kv_b_proj of a head.
  int64_t kv_row(int64_t h) const { return h * (nope + dv); }

  void run_head(const Span& span, int64_t h, const float* d_attended, float* d_q,
                AttentionGradientWorkspace::Thread& scratch) const {
    const int64_t S = span.length;
    auto* queries = reserve<float>(scratch.q, S * dq);
    auto* d_out = reserve<float>(scratch.d_out, S * dv);
    auto* keys = reserve<float>(scratch.keys, S * dq);
    auto* values = reserve<float>(scratch.values, S * dv);
    const int64_t rows = kv_row(h);
    const OperandView view = latent_operand.view(span.first);
    linear_rows(view, nullptr, S, kv_b, rows, rows + nope, keys, dq);
    linear_rows(view, nullptr, S, kv_b, rows + nope, rows + nope + dv, values, dv);
    for (int64_t i = 0; i < S; ++i) {
      const int64_t t = span.first + i;
      std::memcpy(keys + i * dq + nope, latents + t * width + rank, static_cast<size_t>(rope) * sizeof(float));
      q.get(t, h * dq, queries + i * dq, dq);
      std::memcpy(d_out + i * dv, d_attended + (t * H + h) * dv, static_cast<size_t>(dv) * sizeof(float));
    }
    HeadGradient head{model, scratch, model.cache_dtype() == DType::bf16, S, dq, dv};
    head.run(queries, keys, values, d_out, d_q + (span.first * H + h) * dq, H * dq);
  }

  void run_paired_head(const Span& span, int64_t h, const float* d_attended, float* d_q,
                       AttentionGradientWorkspace::Thread& scratch) const {
    const int64_t S = span.length;
    auto* keys = reserve<uint16_t>(scratch.key_weights, S * dq);
    auto* values = reserve<uint16_t>(scratch.value_weights, S * dv);
    auto* d_out = reserve<uint16_t>(scratch.d_out, S * dv);
    auto* up = reserve<float>(scratch.keys, S * (nope + dv));
    const int64_t rows = kv_row(h);
    const OperandView view = latent_operand.view(span.first);
    const PairedLeft left{view.bf16_row(0), view.stride};
    paired_product(left, S, kv_b_pairs, kv_b.rows, rank / 2, rows, rows + nope + dv, up, nope + dv, nullptr, false);
    narrow_rows(up, nope + dv, S, nope, keys, dq);
    narrow_rows(latents + span.first * width + rank, width, S, rope, keys + nope, dq);
    narrow_rows(up + nope, nope + dv, S, dv, values, dv);
    narrow_rows(d_attended + (span.first * H + h) * dv, H * dv, S, dv, d_out, dv);
    PairedHeadGradient head{scratch, static_cast<float>(model.rope.softmax_scale), S, dq, dv};
    head.run(reinterpret_cast<const uint16_t*>(q.row(span.first)) + h * dq, q.cols, keys, values, d_out,
             d_q + (span.first * H + h) * dq, H * dq);
  }
};

}  // namespace

void attention_core_gradient(const LoadedModel& model, int64_t layer, std::span<const Span> spans, const KeptRows& q,
                             const float* d_attended, float* d_q, float* d_kv, float* d_k_pe,
                             AttentionGradientWorkspace& ws, ThreadTeam& team) {
  const ModelConfig& c = model.config;
  const Weight& kv_b = model.weights.layers[static_cast<size_t>(layer)].attention.kv_b_proj;
  const int64_t width = c.kv_lora_rank + c.qk_rope_head_dim;
  int64_t T = 0;
  for (const Span& span : spans) T += span.length;
  ws.threads.resize(static_cast<size_t>(team.size()));
  auto* latents = reserve<float>(ws.latents, T * width);
  for (const Span& span : spans) {
    team.parallel_for(span.length, [&](int64_t i, int) {
      span.cache->read(layer, span.position + i, latents + (span.first + i) * width);
    });
  }
  ws.latent_operand.prepare(latents, T, c.kv_lora_rank, width, kv_b, model.unquantized_rounding(), &team);
  const uint16_t* kv_b_pairs = takes_paired_products(model, kv_b, q) ? pair_weight(kv_b, ws.kv_b_pairs, team) : nullptr;
  const Layer core{model, kv_b, q, latents, ws.latent_operand, kv_b_pairs};
  const int64_t H = core.H;

  team.parallel_for(static_cast<int64_t>(spans.size()) * H, [&](int64_t item, int thread) {
    const Span& span = spans[static_cast<size_t>(item / H)];
    const int64_t h = item % H;
    AttentionGradientWorkspace::Thread& scratch = ws.threads[static_cast<size_t>(thread)];
    if (kv_b_pairs != nullptr) {
      core.run_paired_head(span, h, d_attended, d_q, scratch);
    } else {
      core.run_head(span, h, d_attended, d_q, scratch);
    }
    const auto* dk = scratch.dk.as<float>();
    const auto* dvalues = scratch.dv.as<float>();
    for (int64_t i = 0; i < span.length; ++i) {
      const int64_t t = span.first + i;
      float* up = d_kv + t * kv_b.rows + core.kv_row(h);
      std::copy_n(dk + i * core.dq, core.nope, up);
      std::copy_n(dvalues + i * core.dv, core.dv, up + core.nope);
      std::copy_n(dk + i * core.dq + core.nope, core.rope, d_k_pe + (t * H + h) * core.rope);
    }
  });
}

}  // namespace fathom
