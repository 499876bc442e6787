#pragma once
// The functions of gradients.h over a vector type (vectors.h), compiled once per instruction set; internal linkage.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/gradient_kernels.h"
#include "kernels/cpu/norm_generic.h"
#include "kernels/cpu/vectors.h"

namespace fathom {
namespace {

// Calls `use(i, count)` for whole vectors of [0, n), then for the rest.
template <class V, typename Use>
inline void for_vectors(int64_t n, Use use) {
  int64_t i = 0;
  for (; i + V::width <= n; i += V::width) use(i, V::width);
  if (i < n) use(i, static_cast<int>(n - i));
}

// The first `count` elements, a whole vector as a rule.
template <class V>
inline typename V::F load_some(const float* p, int count) {
  return count == V::width ? V::load(p) : V::load_n(p, count);
}
template <class V>
inline void store_some(float* p, typename V::F a, int count) {
  count == V::width ? V::store(p, a) : V::store_n(p, a, count);
}

template <class V>
inline float sum_lanes(typename V::F a) {
  float lanes[V::width];
  V::store(lanes, a);
  for (int half = V::width / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

template <class V>
float rms_factor_generic(const float* x, int64_t n, float eps) {
  return rms_factor_of<V>(x, n, eps);
}

template <class V>
void rms_norm_input_gradient_generic(const float* x, const TensorView& gain, const float* dy, float r, int64_t n,
                                     float* dx) {
  with_f32_vectors<V>(gain.dtype, gain.data, [&](auto load, auto load_n) {
    const auto gain_at = [&](int64_t i, int count) { return count == V::width ? load(i) : load_n(i, count); };
    auto sum = V::zero();
    for_vectors<V>(n, [&](int64_t i, int count) {
      const auto u = V::mul(load_some<V>(dy + i, count), gain_at(i, count));
      sum = V::fma(u, load_some<V>(x + i, count), sum);
    });
    const float factor = r * r * r / static_cast<float>(n) * sum_lanes<V>(sum);
    for_vectors<V>(n, [&](int64_t i, int count) {
      const auto u = V::mul(load_some<V>(dy + i, count), gain_at(i, count));
      auto out = V::fma(u, V::set1(r), load_some<V>(dx + i, count));
      out = V::fma(load_some<V>(x + i, count), V::set1(-factor), out);
      store_some<V>(dx + i, out, count);
    });
  });
}

template <class V>
void rms_norm_gain_gradient_generic(const float* x, const float* dy, float r, int64_t n, float* dgain) {
  for_vectors<V>(n, [&](int64_t i, int count) {
    const auto normed = V::mul(load_some<V>(x + i, count), V::set1(r));
    store_some<V>(dgain + i, V::fma(load_some<V>(dy + i, count), normed, load_some<V>(dgain + i, count)), count);
  });
}

template <class V>
void swiglu_gradient_generic(const float* gate, const float* up, const float* dh, int64_t n, float* h, float* dgate,
                             float* dup) {
  const auto one = V::set1(1.0f);
  for_vectors<V>(n, [&](int64_t i, int count) {
    const auto g = load_some<V>(gate + i, count);
    const auto u = load_some<V>(up + i, count);
    const auto d = load_some<V>(dh + i, count);
    const auto e = vector_exp<V>(V::sub(V::zero(), g));
    const auto sigmoid = V::div(one, V::add(one, e));
    const auto silu = V::mul(g, sigmoid);
    // silu' = σ (1 + g (1 − σ))
    const auto slope = V::mul(sigmoid, V::fma(g, V::sub(one, sigmoid), one));
    store_some<V>(h + i, V::mul(V::div(g, V::add(one, e)), u), count);
    store_some<V>(dgate + i, V::mul(V::mul(d, u), slope), count);
    store_some<V>(dup + i, V::mul(d, silu), count);
  });
}

template <class V>
float dot_generic(const float* a, const float* b, int64_t n) {
  auto sum = V::zero();
  for_vectors<V>(
      n, [&](int64_t i, int count) { sum = V::fma(load_some<V>(a + i, count), load_some<V>(b + i, count), sum); });
  return sum_lanes<V>(sum);
}

template <class V>
void add_scaled_generic(const float* x, float factor, int64_t n, float* y) {
  for_vectors<V>(n, [&](int64_t i, int count) {
    store_some<V>(y + i, V::fma(load_some<V>(x + i, count), V::set1(factor), load_some<V>(y + i, count)), count);
  });
}

template <class V>
inline float greatest_of(const float* x, int64_t n) {
  float lanes[V::width];
  auto greatest = V::set1(-std::numeric_limits<float>::infinity());
  auto other = greatest;
  int64_t i = 0;
  for (; i + 2 * V::width <= n; i += 2 * V::width) {
    greatest = V::max(greatest, V::load(x + i));
    other = V::max(other, V::load(x + i + V::width));
  }
  greatest = V::max(greatest, other);
  for (; i + V::width <= n; i += V::width) greatest = V::max(greatest, V::load(x + i));
  V::store(lanes, greatest);
  float result = lanes[0];
  for (int lane = 1; lane < V::width; ++lane) result = std::max(result, lanes[lane]);
  for (; i < n; ++i) result = std::max(result, x[i]);
  return result;
}

// x = e^(x − greatest) and their sum.
template <class V>
inline float exponentials_and_sum(float* x, float greatest, int64_t n) {
  auto sum = V::zero();
  float rest[V::width] = {};
  for_vectors<V>(n, [&](int64_t i, int count) {
    const auto e = vector_exp<V, true>(V::sub(load_some<V>(x + i, count), V::set1(greatest)));
    store_some<V>(x + i, e, count);
    if (count == V::width) {
      sum = V::add(sum, e);
    } else {
      store_some<V>(rest, e, count);
      sum = V::add(sum, V::load(rest));
    }
  });
  return sum_lanes<V>(sum);
}

template <class V>
void scale_generic(float* x, float factor, int64_t n) {
  for_vectors<V>(n, [&](int64_t i, int count) {
    store_some<V>(x + i, V::mul(load_some<V>(x + i, count), V::set1(factor)), count);
  });
}

template <class V>
double cross_entropy_generic(float* logits, int64_t n, int32_t label, float factor) {
  const float greatest = greatest_of<V>(logits, n);
  const double own = static_cast<double>(logits[label]) - greatest;
  const float sum = exponentials_and_sum<V>(logits, greatest, n);
  scale_generic<V>(logits, factor / sum, n);
  logits[label] -= factor;
  return std::log(static_cast<double>(sum)) - own;
}

template <class V>
void softmax_row_generic(float* scores, float scale, int64_t n) {
  scale_generic<V>(scores, scale, n);
  const float sum = exponentials_and_sum<V>(scores, greatest_of<V>(scores, n), n);
  scale_generic<V>(scores, 1.0f / sum, n);
}

template <class V>
void softmax_row_gradient_generic(const float* p, float scale, int64_t n, float* dp) {
  const float mean = dot_generic<V>(p, dp, n);
  for_vectors<V>(n, [&](int64_t i, int count) {
    const auto difference = V::sub(load_some<V>(dp + i, count), V::set1(mean));
    const auto scaled = V::mul(load_some<V>(p + i, count), V::set1(scale));
    store_some<V>(dp + i, V::mul(scaled, difference), count);
  });
}

// What turns e^(scale · (score − greatest)) and dp into p and ds.
struct SoftmaxRow {
  float inverse = 0;  // 1 / Σ e
  float mean = 0;     // Σ p ⊙ dp
};

// scores become e^(scale · (score − greatest)).
template <class V>
inline SoftmaxRow exponentials_of_row(float* scores, const float* dp, float scale, int64_t n) {
  const auto factor = V::set1(scale);
  const auto offset = V::set1(-scale * greatest_of<V>(scores, n));
  auto sum = V::zero();
  auto mixed = V::zero();
  int64_t i = 0;
  for (; i + V::width <= n; i += V::width) {
    const auto e = vector_exp<V, true>(V::fma(V::load(scores + i), factor, offset));
    V::store(scores + i, e);
    sum = V::add(sum, e);
    mixed = V::fma(e, V::load(dp + i), mixed);
  }
  if (i < n) {
    const int count = static_cast<int>(n - i);
    const auto e = vector_exp<V, true>(V::fma(V::load_n(scores + i, count), factor, offset));
    V::store_n(scores + i, e, count);
    sum = V::add(sum, V::load_n(scores + i, count));
    mixed = V::fma(V::load_n(scores + i, count), V::load_n(dp + i, count), mixed);
  }
  const float inverse = 1.0f / sum_lanes<V>(sum);
  return {inverse, inverse * sum_lanes<V>(mixed)};
}

template <class V>
void softmax_pair_gradient_generic(float* scores, float* dp, int64_t stride, int64_t rows, float scale, int64_t visible,
                                   int64_t n, uint16_t* p_pairs, uint16_t* ds_pairs, uint16_t* ds) {
  SoftmaxRow row[2];
  for (int64_t r = 0; r < rows; ++r) {
    row[r] = exponentials_of_row<V>(scores + r * stride, dp + r * stride, scale, visible + r);
  }
  const auto put = [&](int64_t i, int first, int second, int count) {
    const auto p_of = [&](int r, int seen) {
      return V::mul(load_some<V>(scores + r * stride + i, seen), V::set1(row[r].inverse));
    };
    const auto ds_of = [&](int r, int seen, typename V::F p) {
      const auto difference = V::sub(load_some<V>(dp + r * stride + i, seen), V::set1(row[r].mean));
      return V::mul(V::mul(p, V::set1(scale)), difference);
    };
    const auto p0 = p_of(0, first);
    const auto ds0 = ds_of(0, first, p0);
    V::store_bf16_operand(ds + i, ds0, count);
    auto p1 = V::zero();
    auto ds1 = V::zero();
    if (rows == 2) {
      p1 = p_of(1, second);
      ds1 = ds_of(1, second, p1);
      V::store_bf16_operand(ds + stride + i, ds1, count);
    }
    V::store_bf16_pairs(p_pairs + 2 * i, p0, p1, count);
    V::store_bf16_pairs(ds_pairs + 2 * i, ds0, ds1, count);
  };
  constexpr int W = V::width;
  int64_t i = 0;
  for (; i + W <= visible; i += W) put(i, W, W, W);
  for (; i <= visible && i < n; i += W) {
    const auto seen = [&](int64_t r) { return static_cast<int>(std::clamp<int64_t>(visible + r - i, 0, W)); };
    put(i, seen(0), seen(1), static_cast<int>(std::min<int64_t>(W, n - i)));
  }
  for (; i < n; i += W) {
    const int count = static_cast<int>(std::min<int64_t>(W, n - i));
    V::store_bf16_pairs(p_pairs + 2 * i, V::zero(), V::zero(), count);
    V::store_bf16_pairs(ds_pairs + 2 * i, V::zero(), V::zero(), count);
    for (int64_t r = 0; r < rows; ++r) V::store_bf16_operand(ds + r * stride + i, V::zero(), count);
  }
}

template <class V>
void adamw_row_generic(const AdamwStep& step, const float* gradient, int64_t n, DType moments, void* first,
                       void* second, float* p) {
  const auto update = [&](auto load, auto store) {
    for_vectors<V>(n, [&](int64_t i, int count) {
      const auto g = V::mul(load_some<V>(gradient + i, count), V::set1(step.gradient_factor));
      auto m = load(first, i, count);
      auto v = load(second, i, count);
      m = V::add(V::mul(V::set1(step.beta1), m), V::mul(V::set1(1 - step.beta1), g));
      v = V::add(V::mul(V::set1(step.beta2), v), V::mul(V::mul(V::set1(1 - step.beta2), g), g));
      const auto root = V::add(V::sqrt(V::mul(v, V::set1(step.second_correction))), V::set1(step.eps));
      const auto change = V::div(V::mul(V::set1(step.step_size), m), root);
      store_some<V>(p + i, V::sub(V::mul(load_some<V>(p + i, count), V::set1(step.keep)), change), count);
      store(first, i, m, count);
      store(second, i, v, count);
    });
  };
  if (moments == DType::f32) {
    update(
        [](void* at, int64_t i, int count) { return load_some<V>(static_cast<float*>(at) + i, count); },
        [](void* at, int64_t i, auto value, int count) { store_some<V>(static_cast<float*>(at) + i, value, count); });
  } else {
    update(
        [](void* at, int64_t i, int count) {
          const auto* from = static_cast<uint16_t*>(at) + i;
          return count == V::width ? V::load_bf16(from) : V::load_bf16_n(from, count);
        },
        [](void* at, int64_t i, auto value, int count) {
          auto* to = static_cast<uint16_t*>(at) + i;
          count == V::width ? V::store_bf16(to, value) : V::store_bf16_n(to, value, count);
        });
  }
}

// --- Matrices turned around, in tiles of V::width rows and columns ---

template <class V>
inline void turn_tile(typename V::F (&rows)[V::width]) {
#if defined(__AVX512F__)
  __m512 t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
  }
  const auto pairs = [](__m512 a, __m512 b, bool high) {
    const __m512d x = _mm512_castps_pd(a);
    const __m512d y = _mm512_castps_pd(b);
    return _mm512_castpd_ps(high ? _mm512_unpackhi_pd(x, y) : _mm512_unpacklo_pd(x, y));
  };
  __m512 q[16];
  for (int i = 0; i < 16; i += 4) {
    q[i] = pairs(t[i], t[i + 2], false);
    q[i + 1] = pairs(t[i], t[i + 2], true);
    q[i + 2] = pairs(t[i + 1], t[i + 3], false);
    q[i + 3] = pairs(t[i + 1], t[i + 3], true);
  }
  // Lane l of q[4 i + j] holds column 4 l + j of rows 4 i to 4 i + 3.
  for (int j = 0; j < 4; ++j) {
    const __m512 a = _mm512_shuffle_f32x4(q[j], q[4 + j], 0x88);
    const __m512 b = _mm512_shuffle_f32x4(q[j], q[4 + j], 0xdd);
    const __m512 c = _mm512_shuffle_f32x4(q[8 + j], q[12 + j], 0x88);
    const __m512 d = _mm512_shuffle_f32x4(q[8 + j], q[12 + j], 0xdd);
    rows[j] = _mm512_shuffle_f32x4(a, c, 0x88);
    rows[4 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
    rows[8 + j] = _mm512_shuffle_f32x4(a, c, 0xdd);
    rows[12 + j] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
#else
  float tile[V::width][V::width];
  float turned[V::width][V::width];
  for (int i = 0; i < V::width; ++i) V::store(tile[i], rows[i]);
  for (int i = 0; i < V::width; ++i) {
    for (int j = 0; j < V::width; ++j) turned[i][j] = tile[j][i];
  }
  for (int i = 0; i < V::width; ++i) rows[i] = V::load(turned[i]);
#endif
}

template <class V>
void turn_generic(DType from, const void* x, int64_t x_stride, const int32_t* row_index, int64_t rows, int64_t cols,
                  TurnedForm form, void* out, int64_t out_stride, int64_t padded) {
  constexpr int W = V::width;
  const auto load = [&](int64_t r, int64_t c, int count) {
    const int64_t at = (row_index != nullptr ? row_index[r] : r) * x_stride + c;
    if (from == DType::bf16) {
      const uint16_t* p = static_cast<const uint16_t*>(x) + at;
      return count == W ? V::load_bf16(p) : V::load_bf16_n(p, count);
    }
    return load_some<V>(static_cast<const float*>(x) + at, count);
  };
  for (int64_t c = 0; c < cols; c += W) {
    const int width = static_cast<int>(std::min<int64_t>(W, cols - c));
    for (int64_t r = 0; r < padded; r += W) {
      const int height = static_cast<int>(std::min<int64_t>(W, padded - r));
      typename V::F tile[W];
      for (int i = 0; i < W; ++i) tile[i] = r + i < rows ? load(r + i, c, width) : V::zero();
      turn_tile<V>(tile);
      for (int i = 0; i < width; ++i) {
        const int64_t at = (c + i) * out_stride + r;
        if (form == TurnedForm::bf16) {
          uint16_t* p = static_cast<uint16_t*>(out) + at;
          height == W ? V::store_bf16(p, tile[i]) : V::store_bf16_n(p, tile[i], height);
        } else {
          const auto value = form == TurnedForm::f32_rounded ? V::round_bf16(tile[i]) : tile[i];
          store_some<V>(static_cast<float*>(out) + at, value, height);
        }
      }
    }
  }
}

template <class V>
constexpr GradientKernels make_gradient_kernels() {
  return {rms_factor_generic<V>,
          rms_norm_input_gradient_generic<V>,
          rms_norm_gain_gradient_generic<V>,
          swiglu_gradient_generic<V>,
          dot_generic<V>,
          add_scaled_generic<V>,
          cross_entropy_generic<V>,
          softmax_row_generic<V>,
          softmax_row_gradient_generic<V>,
          softmax_pair_gradient_generic<V>,
          adamw_row_generic<V>,
          turn_generic<V>};
}

}  // namespace
}  // namespace fathom
