#pragma once
// The functions of norm.h over a vector type (vectors.h), compiled once per instruction set; internal linkage.

#include <cmath>
#include <cstring>

#include "kernels/cpu/norm_kernels.h"
#include "kernels/cpu/vectors.h"

namespace fathom {
namespace {

// Calls `use(load, load_n)` with functions that read elements i, i + 1, … of a tensor's data as float32.
template <class V, typename Use>
inline void with_f32_vectors(DType dtype, const void* data, Use use) {
  const auto* half = static_cast<const uint16_t*>(data);
  const auto* single = static_cast<const float*>(data);
  switch (dtype) {
    case DType::bf16:
      return use([half](int64_t i) { return V::load_bf16(half + i); },
                 [half](int64_t i, int n) { return V::load_bf16_n(half + i, n); });
    case DType::f16:
      return use([half](int64_t i) { return V::load_f16(half + i); },
                 [half](int64_t i, int n) { return V::load_f16_n(half + i, n); });
    default:
      return use([single](int64_t i) { return V::load(single + i); },
                 [single](int64_t i, int n) { return V::load_n(single + i, n); });
  }
}

// 1 / sqrt(mean(x²) + eps)
template <class V>
float rms_factor_of(const float* x, int64_t n, float eps) {
  // 32 sums in float64, value i into sum i mod 32, then pairwise: products of two float32 are exact in float64, so the
  // order alone decides, and every instruction set gives the same bits.
  double sums[32] = {};
  int64_t i = n / 32 * 32;
  V::add_squares(x, i, sums);
  for (; i < n; ++i) sums[i % 32] += static_cast<double>(x[i]) * x[i];
  for (int half = 16; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return static_cast<float>(1.0 / std::sqrt(sums[0] / static_cast<double>(n) + eps));
}

template <class V>
void rms_norm_generic(const float* x, int64_t n, const TensorView& gain, float eps, float* y) {
  const auto inverse = V::set1(rms_factor_of<V>(x, n, eps));
  with_f32_vectors<V>(gain.dtype, gain.data, [&](auto load, auto load_n) {
    int64_t k = 0;
    for (; k + V::width <= n; k += V::width) V::store(y + k, V::mul(V::mul(V::load(x + k), inverse), load(k)));
    if (k < n) {
      const int rest = static_cast<int>(n - k);
      V::store_n(y + k, V::mul(V::mul(V::load_n(x + k, rest), inverse), load_n(k, rest)), rest);
    }
  });
}

template <class V>
inline typename V::F swiglu_value(typename V::F gate, typename V::F up) {
  const auto one = V::set1(1.0f);
  return V::mul(V::div(gate, V::add(one, vector_exp<V>(V::sub(V::zero(), gate)))), up);
}

template <class V>
void swiglu_generic(const float* gate, const float* up, int64_t n, float* h) {
  int64_t i = 0;
  for (; i + V::width <= n; i += V::width) V::store(h + i, swiglu_value<V>(V::load(gate + i), V::load(up + i)));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    V::store_n(h + i, swiglu_value<V>(V::load_n(gate + i, rest), V::load_n(up + i, rest)), rest);
  }
}

template <class V>
void exponentials_generic(const float* x, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + V::width <= n; i += V::width) V::store(y + i, vector_exp<V>(V::load(x + i)));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    V::store_n(y + i, vector_exp<V>(V::load_n(x + i, rest)), rest);
  }
}

template <class V>
void rotate_pairs_generic(float* x, const float* cos_sin, int64_t d) {
  int64_t i = 0;
  for (; i + V::width <= d; i += V::width) V::store(x + i, V::rotated(V::load(x + i), V::load(cos_sin + i)));
  if (i < d) {
    const int rest = static_cast<int>(d - i);
    V::store_n(x + i, V::rotated(V::load_n(x + i, rest), V::load_n(cos_sin + i, rest)), rest);
  }
}

template <class V>
void convert_to_f32_generic(DType dtype, const void* from, int64_t n, float* to) {
  with_f32_vectors<V>(dtype, from, [&](auto load, auto load_n) {
    int64_t i = 0;
    for (; i + V::width <= n; i += V::width) V::store(to + i, load(i));
    if (i < n) V::store_n(to + i, load_n(i, static_cast<int>(n - i)), static_cast<int>(n - i));
  });
}

template <class V>
void convert_to_bf16_generic(const float* from, int64_t n, uint16_t* to) {
  int64_t i = 0;
  for (; i + V::width <= n; i += V::width) V::store_bf16(to + i, V::load(from + i));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    V::store_bf16_n(to + i, V::load_n(from + i, rest), rest);
  }
}

template <class V>
constexpr NormKernels make_norm_kernels() {
  return {rms_norm_generic<V>,     swiglu_generic<V>,         exponentials_generic<V>,
          rotate_pairs_generic<V>, convert_to_f32_generic<V>, convert_to_bf16_generic<V>};
}

}  // namespace
}  // namespace fathom
