#pragma once
// Products with float32 operands, written once over a vector type V and compiled once per instruction set. Everything
// here has internal linkage: a copy compiled for AVX-512 must never be the one that the linker keeps for another set.
//
// V has: width; F (the register); zero, set1, load, load_n (first n, rest 0), add, mul, fma(a,b,c) = a·b+c, sum,
// round_bf16; store, store_n; load_bf16/_n, load_f16/_n, load_e4m3/_n (the codes' values as float32).

#include <algorithm>
#include <cstdint>

#include "kernels/linear.h"

namespace fathom {
namespace {

enum class WeightKind { f32, bf16, f16, e4m3 };

inline WeightKind weight_kind(const Weight& w) {
  switch (w.dtype) {
    case DType::bf16:
      return WeightKind::bf16;
    case DType::f16:
      return WeightKind::f16;
    case DType::f8_e4m3:
      return WeightKind::e4m3;
    default:
      return WeightKind::f32;
  }
}

template <class V, WeightKind kind>
struct WeightRow;

template <class V>
struct WeightRow<V, WeightKind::f32> {
  const float* p;
  explicit WeightRow(const std::byte* data) : p(reinterpret_cast<const float*>(data)) {}
  typename V::F load(int64_t k) const { return V::load(p + k); }
  typename V::F load_n(int64_t k, int n) const { return V::load_n(p + k, n); }
};
template <class V>
struct WeightRow<V, WeightKind::bf16> {
  const uint16_t* p;
  explicit WeightRow(const std::byte* data) : p(reinterpret_cast<const uint16_t*>(data)) {}
  typename V::F load(int64_t k) const { return V::load_bf16(p + k); }
  typename V::F load_n(int64_t k, int n) const { return V::load_bf16_n(p + k, n); }
};
template <class V>
struct WeightRow<V, WeightKind::f16> {
  const uint16_t* p;
  explicit WeightRow(const std::byte* data) : p(reinterpret_cast<const uint16_t*>(data)) {}
  typename V::F load(int64_t k) const { return V::load_f16(p + k); }
  typename V::F load_n(int64_t k, int n) const { return V::load_f16_n(p + k, n); }
};
template <class V>
struct WeightRow<V, WeightKind::e4m3> {
  const uint8_t* p;
  explicit WeightRow(const std::byte* data) : p(reinterpret_cast<const uint8_t*>(data)) {}
  typename V::F load(int64_t k) const { return V::load_e4m3(p + k); }
  typename V::F load_n(int64_t k, int n) const { return V::load_e4m3_n(p + k, n); }
};

// How far ahead of each run of rows the next bytes are asked for (see bf16_product_avx512.cc).
constexpr int64_t kAheadBytes = 2048;

// R rows times T tokens. FP8 in two flavours: cast (each value = round_bf16(code · scale), one running sum) and block
// (sum of codes per segment, times the scales, into a total). One sum per (row, token), in the order of k: the same for
// every R and T.
// The tile's rows are `spacing` apart. `streamed`: they come from memory and are used once.
template <class V, WeightKind kind, bool cast, int R, int T, bool streamed>
void linear_tile(const float* const* x, const float* const* x_scale, const Weight& w, int64_t row, int64_t spacing,
                 float* const* y) {
  using F = typename V::F;
  constexpr bool fp8 = kind == WeightKind::e4m3;
  constexpr bool block = fp8 && !cast;
  constexpr int64_t element = fp8 ? 1 : kind == WeightKind::f32 ? 4 : 2;
  const int64_t K = w.cols;
  F total[R][T];
  F sum[R][T];
  const std::byte* rows[R];
  for (int r = 0; r < R; ++r) {
    rows[r] = w.row(row + r * spacing);
    for (int t = 0; t < T; ++t) sum[r][t] = total[r][t] = V::zero();
  }
  int64_t k = 0;
  while (k < K) {
    int64_t end = K;
    F scale[R];
    if constexpr (fp8) {
      end = std::min(end, (k / w.block_cols + 1) * w.block_cols);
      if (block && x_scale[0] != nullptr) end = std::min(end, (k / 128 + 1) * 128);
      for (int r = 0; r < R; ++r) {
        scale[r] = V::set1(w.scale_inv[(row + r * spacing) / w.block_rows * w.scale_cols() + k / w.block_cols]);
        if constexpr (block) {
          for (int t = 0; t < T; ++t) sum[r][t] = V::zero();
        }
      }
    }
    const int64_t segment_begin = k;
    for (; k + V::width <= end; k += V::width) {
      F xs[T];
      for (int t = 0; t < T; ++t) xs[t] = V::load(x[t] + k);
      for (int r = 0; r < R; ++r) {
        if constexpr (streamed) {
          // Once per cache line.
          if (k * element % 64 < V::width * element) __builtin_prefetch(rows[r] + k * element + kAheadBytes);
        }
        F value = WeightRow<V, kind>(rows[r]).load(k);
        if constexpr (fp8 && cast) value = V::round_bf16(V::mul(value, scale[r]));
        for (int t = 0; t < T; ++t) sum[r][t] = V::fma(value, xs[t], sum[r][t]);
      }
    }
    if (k < end) {
      const int n = static_cast<int>(end - k);
      for (int r = 0; r < R; ++r) {
        F value = WeightRow<V, kind>(rows[r]).load_n(k, n);
        if constexpr (fp8 && cast) value = V::round_bf16(V::mul(value, scale[r]));
        for (int t = 0; t < T; ++t) sum[r][t] = V::fma(value, V::load_n(x[t] + k, n), sum[r][t]);
      }
      k = end;
    }
    if constexpr (block) {
      for (int t = 0; t < T; ++t) {
        const F sx = V::set1(x_scale[t] != nullptr ? x_scale[t][segment_begin / 128] : 1.0f);
        for (int r = 0; r < R; ++r) total[r][t] = V::fma(sum[r][t], V::mul(scale[r], sx), total[r][t]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) y[t][r * spacing] = V::sum(block ? total[r][t] : sum[r][t]);
  }
}

template <class V, WeightKind kind, bool cast>
void linear_rows_kind(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                      int64_t row_end, float* y, int64_t y_stride) {
  constexpr int kTokens = V::max_tokens;
  for (int64_t t0 = 0; t0 < T; t0 += kTokens) {
    const int n = static_cast<int>(std::min<int64_t>(kTokens, T - t0));
    const float* xs[kTokens];
    const float* scales[kTokens];
    float* ys[kTokens];
    for (int t = 0; t < n; ++t) {
      const int64_t source = row_index != nullptr ? row_index[t0 + t] : t0 + t;
      xs[t] = x.f32_row(source);
      scales[t] = x.row_scales(source);
      ys[t] = y + (t0 + t) * y_stride;
    }
    int64_t r = row_begin;
    const auto step = [&](auto tile, int rows) {
      tile(xs, scales, w, r, 1, ys);
      for (int t = 0; t < n; ++t) ys[t] += rows;
      r += rows;
    };
    if (n == kTokens) {
      while (r + 2 <= row_end) step(linear_tile<V, kind, cast, 2, kTokens, false>, 2);
      while (r < row_end) step(linear_tile<V, kind, cast, 1, kTokens, false>, 1);
      continue;
    }
    // One token at a time. Four runs of rows are read side by side, which keeps the memory busier than one.
    const int64_t length = (row_end - row_begin) / 4;
    for (int t = 0; t < n; ++t) {
      for (int64_t i = 0; i < length; ++i) {
        float* out = ys[t] + i;
        linear_tile<V, kind, cast, 4, 1, true>(xs + t, scales + t, w, row_begin + i, length, &out);
      }
      for (int64_t row = row_begin + 4 * length; row < row_end; ++row) {
        float* out = ys[t] + (row - row_begin);
        linear_tile<V, kind, cast, 1, 1, false>(xs + t, scales + t, w, row, 1, &out);
      }
    }
  }
}

template <class V>
void linear_rows_generic(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                         int64_t row_end, float* y, int64_t y_stride) {
  switch (weight_kind(w)) {
    case WeightKind::f32:
      return linear_rows_kind<V, WeightKind::f32, false>(x, row_index, T, w, row_begin, row_end, y, y_stride);
    case WeightKind::bf16:
      return linear_rows_kind<V, WeightKind::bf16, false>(x, row_index, T, w, row_begin, row_end, y, y_stride);
    case WeightKind::f16:
      return linear_rows_kind<V, WeightKind::f16, false>(x, row_index, T, w, row_begin, row_end, y, y_stride);
    case WeightKind::e4m3:
      if (x.scales == nullptr) {
        return linear_rows_kind<V, WeightKind::e4m3, true>(x, row_index, T, w, row_begin, row_end, y, y_stride);
      }
      return linear_rows_kind<V, WeightKind::e4m3, false>(x, row_index, T, w, row_begin, row_end, y, y_stride);
  }
}

// T tokens times C vectors of columns starting at k (the last of n elements if n > 0), over all rows in order.
template <class V, WeightKind kind, bool cast, int T, int C>
void transposed_tile(const float* x, int64_t x_stride, const Weight& w, int64_t row_begin, int64_t row_end, int64_t k,
                     int n, bool accumulate, float* y, int64_t y_stride) {
  using F = typename V::F;
  F sum[T][C];
  for (int t = 0; t < T; ++t) {
    for (int c = 0; c < C; ++c) {
      float* out = y + t * y_stride + k + c * V::width;
      sum[t][c] = !accumulate ? V::zero() : n > 0 ? V::load_n(out, n) : V::load(out);
    }
  }
  for (int64_t row = row_begin; row < row_end; ++row) {
    F values[C];
    const WeightRow<V, kind> source(w.row(row));
    for (int c = 0; c < C; ++c) values[c] = n > 0 ? source.load_n(k, n) : source.load(k + c * V::width);
    if constexpr (kind == WeightKind::e4m3) {
      const F scale = V::set1(w.scale_inv[row / w.block_rows * w.scale_cols() + k / w.block_cols]);
      for (int c = 0; c < C; ++c) {
        values[c] = V::mul(values[c], scale);
        if constexpr (cast) values[c] = V::round_bf16(values[c]);
      }
    }
    for (int t = 0; t < T; ++t) {
      const F factor = V::set1(x[t * x_stride + row - row_begin]);
      for (int c = 0; c < C; ++c) sum[t][c] = V::fma(factor, values[c], sum[t][c]);
    }
  }
  for (int t = 0; t < T; ++t) {
    for (int c = 0; c < C; ++c) {
      float* out = y + t * y_stride + k + c * V::width;
      n > 0 ? V::store_n(out, sum[t][c], n) : V::store(out, sum[t][c]);
    }
  }
}

template <class V, WeightKind kind, bool cast, int T>
void transposed_tokens(const float* x, int64_t x_stride, const Weight& w, int64_t row_begin, int64_t row_end,
                       bool accumulate, float* y, int64_t y_stride) {
  int64_t k = 0;
  while (k < w.cols) {
    int64_t end = w.cols;
    if constexpr (kind == WeightKind::e4m3) end = std::min(end, (k / w.block_cols + 1) * w.block_cols);
    for (; k + 4 * V::width <= end; k += 4 * V::width) {
      transposed_tile<V, kind, cast, T, 4>(x, x_stride, w, row_begin, row_end, k, 0, accumulate, y, y_stride);
    }
    for (; k + V::width <= end; k += V::width) {
      transposed_tile<V, kind, cast, T, 1>(x, x_stride, w, row_begin, row_end, k, 0, accumulate, y, y_stride);
    }
    if (k < end) {
      transposed_tile<V, kind, cast, T, 1>(x, x_stride, w, row_begin, row_end, k, static_cast<int>(end - k), accumulate,
                                           y, y_stride);
      k = end;
    }
  }
}

template <class V, WeightKind kind, bool cast>
void transposed_kind(const float* x, int64_t x_stride, int64_t T, const Weight& w, int64_t row_begin, int64_t row_end,
                     bool accumulate, float* y, int64_t y_stride) {
  int64_t t = 0;
  for (; t + 4 <= T; t += 4) {
    transposed_tokens<V, kind, cast, 4>(x + t * x_stride, x_stride, w, row_begin, row_end, accumulate, y + t * y_stride,
                                        y_stride);
  }
  for (; t < T; ++t) {
    transposed_tokens<V, kind, cast, 1>(x + t * x_stride, x_stride, w, row_begin, row_end, accumulate, y + t * y_stride,
                                        y_stride);
  }
}

template <class V>
void linear_transposed_rows_generic(const float* x, int64_t x_stride, int64_t T, const Weight& w, int64_t row_begin,
                                    int64_t row_end, bool cast_bf16, bool accumulate, float* y, int64_t y_stride) {
  switch (weight_kind(w)) {
    case WeightKind::f32:
      return transposed_kind<V, WeightKind::f32, false>(x, x_stride, T, w, row_begin, row_end, accumulate, y, y_stride);
    case WeightKind::bf16:
      return transposed_kind<V, WeightKind::bf16, false>(x, x_stride, T, w, row_begin, row_end, accumulate, y,
                                                         y_stride);
    case WeightKind::f16:
      return transposed_kind<V, WeightKind::f16, false>(x, x_stride, T, w, row_begin, row_end, accumulate, y, y_stride);
    case WeightKind::e4m3:
      if (cast_bf16) {
        return transposed_kind<V, WeightKind::e4m3, true>(x, x_stride, T, w, row_begin, row_end, accumulate, y,
                                                          y_stride);
      }
      return transposed_kind<V, WeightKind::e4m3, false>(x, x_stride, T, w, row_begin, row_end, accumulate, y,
                                                         y_stride);
  }
}

}  // namespace
}  // namespace fathom
