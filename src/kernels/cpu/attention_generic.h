#pragma once
// Attention over BF16 keys and values with float32 arithmetic, over a vector type (vectors.h); internal linkage. The
// softmax is also that of the AVX-512 kernel.

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/vectors.h"

namespace fathom {
namespace {

inline int64_t round_up(int64_t n, int64_t step) {
  return (n + step - 1) / step * step;
}

// Scores [count, lanes] of one vector of lanes become probabilities, rounded to BF16, which `store(pair, first,
// second)` takes two positions at a time (the second is 0 behind the last). Updates the running maximum and sum; the
// result is the factor for what was mixed before. The sum runs over the rounded probabilities: the weights of the mix
// then add up to 1.
template <class V, class Store>
inline typename V::F softmax_column(const float* scores, int64_t lanes, int64_t count, const int32_t* visible,
                                    float scale, float* greatest, float* sum, Store store) {
  using F = typename V::F;
  const F never = V::set1(-std::numeric_limits<float>::infinity());
  const F factor = V::set1(scale);
  const auto score = [&](int64_t j) {
    const F s = V::load(scores + j * lanes);
    return visible != nullptr ? V::less_mask(static_cast<int32_t>(j), visible, s, never) : s;
  };
  F tops[4] = {never, never, never, never};
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) {
    for (int i = 0; i < 4; ++i) tops[i] = V::max(tops[i], score(j + i));
  }
  for (; j < count; ++j) tops[0] = V::max(tops[0], score(j));
  const F top = V::max(V::max(tops[0], tops[1]), V::max(tops[2], tops[3]));
  const F before = V::load(greatest);
  // Where nothing is visible yet, −∞ − (−∞) must not happen: the lowest finite number takes the place of −∞.
  const F now = V::max(V::max(before, V::mul(top, factor)), V::set1(std::numeric_limits<float>::lowest()));
  const F minus_now = V::sub(V::zero(), now);
  const F shrink = vector_exp<V, true>(V::add(before, minus_now));
  F total = V::mul(V::load(sum), shrink);
  const auto probability = [&](int64_t position) {
    return V::round_bf16_quiet(vector_exp<V, true>(V::fma(score(position), factor, minus_now)));
  };
  for (j = 0; j < count; j += 2) {
    const F first = probability(j);
    const F second = j + 1 < count ? probability(j + 1) : V::zero();
    total = V::add(V::add(total, first), second);
    store(j / 2, first, second);
  }
  V::store(greatest, now);
  V::store(sum, total);
  return shrink;
}

inline int64_t query_bytes_generic(const AttentionShape& shape) {
  return shape.key_width * kBlockRows * static_cast<int64_t>(sizeof(float));
}

inline int64_t page_bytes_generic(const AttentionShape& shape) {
  return (shape.key_width + shape.value_width) * kPagePositions * static_cast<int64_t>(sizeof(float));
}

// A page as float32: keys [64, key_width], then values [64, value_width].
template <class V>
PackedPage pack_page_generic(const AttentionShape& shape, const uint16_t* keys, int64_t key_stride,
                             const uint16_t* values, int64_t value_stride, int64_t count, std::byte* memory) {
  const auto widen = [](const uint16_t* from, int64_t n, float* to) {
    int64_t i = 0;
    for (; i + V::width <= n; i += V::width) V::store(to + i, V::load_bf16(from + i));
    for (; i < n; ++i) to[i] = bf16_to_f32(from[i]);
  };
  auto* wide_keys = reinterpret_cast<float*>(memory);
  float* wide_values = wide_keys + kPagePositions * shape.key_width;
  for (int64_t j = 0; j < count; ++j) {
    widen(keys + j * key_stride, shape.key_width, wide_keys + j * shape.key_width);
    widen(values + j * value_stride, shape.value_width, wide_values + j * shape.value_width);
  }
  return {keys, key_stride, memory};
}

// Queries as float32 [key_width, lanes].
inline void pack_queries_generic(const AttentionShape& shape, const uint16_t* queries, int64_t stride,
                                 const QueryBlock& block) {
  auto* out = reinterpret_cast<float*>(block.queries);
  for (int64_t k = 0; k < shape.key_width; ++k) {
    for (int64_t r = 0; r < block.lanes; ++r) {
      out[k * block.lanes + r] = r < block.rows ? bf16_to_f32(queries[r * stride + k]) : 0.0f;
    }
  }
}

// out[i, lanes of two vectors] = Σ_k rows[i, k] · columns[k, lanes], N rows at a time.
template <class V, int N>
inline void scores_tile(const float* const* rows, const float* columns, int64_t lanes, int64_t width, float* out) {
  using F = typename V::F;
  F sums[N][2];
  for (auto& sum : sums) sum[0] = sum[1] = V::zero();
  for (int64_t k = 0; k < width; ++k) {
    const F first = V::load(columns + k * lanes);
    const F second = V::load(columns + k * lanes + V::width);
    for (int i = 0; i < N; ++i) {
      const F value = V::set1(rows[i][k]);
      sums[i][0] = V::fma(value, first, sums[i][0]);
      sums[i][1] = V::fma(value, second, sums[i][1]);
    }
  }
  for (int i = 0; i < N; ++i) {
    V::store(out + i * lanes, sums[i][0]);
    V::store(out + i * lanes + V::width, sums[i][1]);
  }
}

// mixed[d, lanes of two vectors] = mixed · shrink + Σ_j values[j, d] · probabilities[j, lanes] for N values of d.
template <class V, int N>
inline void mix_tile(const float* values, int64_t value_width, const float* probabilities, int64_t lanes, int64_t count,
                     const typename V::F* shrink, float* mixed) {
  using F = typename V::F;
  F sums[N][2];
  for (int i = 0; i < N; ++i) {
    sums[i][0] = V::mul(V::load(mixed + i * lanes), shrink[0]);
    sums[i][1] = V::mul(V::load(mixed + i * lanes + V::width), shrink[1]);
  }
  for (int64_t j = 0; j < count; ++j) {
    const F first = V::load(probabilities + j * lanes);
    const F second = V::load(probabilities + j * lanes + V::width);
    for (int i = 0; i < N; ++i) {
      const F value = V::set1(values[j * value_width + i]);
      sums[i][0] = V::fma(value, first, sums[i][0]);
      sums[i][1] = V::fma(value, second, sums[i][1]);
    }
  }
  for (int i = 0; i < N; ++i) {
    V::store(mixed + i * lanes, sums[i][0]);
    V::store(mixed + i * lanes + V::width, sums[i][1]);
  }
}

template <class V>
void attend_generic(const AttentionShape& shape, const QueryBlock& block, const PackedPage& page, int64_t count,
                    const int32_t* visible) {
  constexpr int kRows = 4;
  alignas(64) float scores[(kPagePositions + kRows) * kBlockRows];
  const auto* keys = reinterpret_cast<const float*>(page.memory);
  const float* values = keys + kPagePositions * shape.key_width;
  const auto* queries = reinterpret_cast<const float*>(block.queries);
  const int64_t lanes = block.lanes;
  for (int64_t lane = 0; lane < lanes; lane += 2 * V::width) {
    for (int64_t j = 0; j < count; j += kRows) {
      const float* rows[kRows];
      for (int i = 0; i < kRows; ++i) rows[i] = keys + std::min(j + i, count - 1) * shape.key_width;
      scores_tile<V, kRows>(rows, queries + lane, lanes, shape.key_width, scores + j * lanes + lane);
    }
    typename V::F shrink[2];
    for (int c = 0; c < 2; ++c) {
      const int64_t at = lane + c * V::width;
      shrink[c] = softmax_column<V>(scores + at, lanes, count, visible != nullptr ? visible + at : nullptr, shape.scale,
                                    block.greatest + at, block.sum + at,
                                    [&](int64_t pair, typename V::F first, typename V::F second) {
                                      V::store(scores + 2 * pair * lanes + at, first);
                                      V::store(scores + (2 * pair + 1) * lanes + at, second);
                                    });
    }
    int64_t d = 0;
    for (; d + kRows <= shape.value_width; d += kRows) {
      mix_tile<V, kRows>(values + d, shape.value_width, scores + lane, lanes, count, shrink,
                         block.mixed + d * lanes + lane);
    }
    for (; d < shape.value_width; ++d) {
      mix_tile<V, 1>(values + d, shape.value_width, scores + lane, lanes, count, shrink,
                     block.mixed + d * lanes + lane);
    }
  }
}

inline void unpack_generic(const AttentionShape& shape, const QueryBlock& block, float* out, int64_t stride) {
  for (int64_t r = 0; r < block.rows; ++r) {
    for (int64_t d = 0; d < shape.value_width; ++d) out[r * stride + d] = block.mixed[d * block.lanes + r];
  }
}

}  // namespace
}  // namespace fathom
