#include "train/attention_gradient.h"

#include <algorithm>
#include <cstring>

#include "kernels/gradients.h"
#include "kernels/norm.h"

namespace fathom {
namespace {

// Queries of a block: the contraction of the keys' and values' gradients.
constexpr int64_t kQueryBlock = 128;

int64_t padded(int64_t n) {
  return (n + 63) / 64 * 64;
}

template <typename T>
T* reserve(Buffer& buffer, int64_t count) {
  buffer.reserve(static_cast<size_t>(count) * sizeof(T));
  return buffer.as<T>();
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

}  // namespace

void attention_core_gradient(const LoadedModel& model, int64_t layer, std::span<const Span> spans, const KeptRows& q,
                             const float* d_attended, float* d_q, float* d_kv, float* d_k_pe,
                             AttentionGradientWorkspace& ws, ThreadTeam& team) {
  const ModelConfig& c = model.config;
  const Weight& kv_b = model.weights.layers[static_cast<size_t>(layer)].attention.kv_b_proj;
  const int64_t H = c.num_attention_heads;
  const int64_t nope = c.qk_nope_head_dim;
  const int64_t rope = c.qk_rope_head_dim;
  const int64_t dv = c.v_head_dim;
  const int64_t dq = nope + rope;
  const int64_t width = c.kv_lora_rank + rope;
  const bool bf16 = model.cache_dtype() == DType::bf16;
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

  team.parallel_for(static_cast<int64_t>(spans.size()) * H, [&](int64_t item, int thread) {
    const Span& span = spans[static_cast<size_t>(item / H)];
    const int64_t h = item % H;
    const int64_t S = span.length;
    AttentionGradientWorkspace::Thread& scratch = ws.threads[static_cast<size_t>(thread)];
    auto* queries = reserve<float>(scratch.q, S * dq);
    auto* d_out = reserve<float>(scratch.d_out, S * dv);
    auto* keys = reserve<float>(scratch.keys, S * dq);
    auto* values = reserve<float>(scratch.values, S * dv);
    const int64_t rows = h * (nope + dv);
    const OperandView view = ws.latent_operand.view(span.first);
    linear_rows(view, nullptr, S, kv_b, rows, rows + nope, keys, dq);
    linear_rows(view, nullptr, S, kv_b, rows + nope, rows + nope + dv, values, dv);
    for (int64_t i = 0; i < S; ++i) {
      const int64_t t = span.first + i;
      std::memcpy(keys + i * dq + nope, latents + t * width + c.kv_lora_rank,
                  static_cast<size_t>(rope) * sizeof(float));
      q.get(t, h * dq, queries + i * dq, dq);
      std::memcpy(d_out + i * dv, d_attended + (t * H + h) * dv, static_cast<size_t>(dv) * sizeof(float));
    }
    HeadGradient head{model, scratch, bf16, S, dq, dv};
    head.run(queries, keys, values, d_out, d_q + (span.first * H + h) * dq, H * dq);
    const auto* dk = scratch.dk.as<float>();
    const auto* dvalues = scratch.dv.as<float>();
    for (int64_t i = 0; i < S; ++i) {
      const int64_t t = span.first + i;
      float* up = d_kv + t * H * (nope + dv) + rows;
      std::copy_n(dk + i * dq, nope, up);
      std::copy_n(dvalues + i * dv, dv, up + nope);
      std::copy_n(dk + i * dq + nope, rope, d_k_pe + (t * H + h) * rope);
    }
  });
}

}  // namespace fathom
