#pragma once
// Vectors of float32 for kernels that are written once and compiled once per instruction set: PortableVector
// everywhere, Avx2Vector and Avx512Vector in the files of those sets. Everything here has internal linkage: a copy
// compiled for AVX-512 must never be the one that the linker keeps for another set.
//
// A vector type V has: width; F (the register); zero, set1, load, load_n (first n, rest 0), store, store_n, load_bf16,
// load_f16 and their _n; add, sub, mul, div, sqrt, max and min (the second where one is not a number), fma(a, b, c) =
// a · b + c; round_bf16, and round_bf16_quiet for what arithmetic made (what is not a number is quiet already); nearest
// (to a whole number); scale(a, k) = a · 2^k for whole k in [−150, 129]; less_mask(i, n, a, b): a where lane i of the
// counts n is greater than i, else b; store_bf16, store_bf16_n (rounded to nearest even); store_bf16_pairs(p, a, b, n):
// the first n of a and of b, interleaved, and store_bf16_operand(p, a, n), for products that read subnormals as 0:
// those may become 0; rotated (pairs turned, as rotate_pairs of norm.h).

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "base/number_formats.h"

#if defined(__AVX512F__)
#include "kernels/cpu/bf16_avx512.h"
#elif defined(__AVX2__)
#include <immintrin.h>
#endif

namespace fathom {
namespace {

// A "register" of 8 floats that any compiler can turn into what the machine has.
struct PortableVector {
  static constexpr int width = 8;
  struct F {
    float v[width];
  };
  template <class Function>
  static F make(Function function) {
    F out;
    for (int i = 0; i < width; ++i) out.v[i] = function(i);
    return out;
  }
  static F zero() {
    return make([](int) { return 0.0f; });
  }
  static F set1(float a) {
    return make([a](int) { return a; });
  }
  static F load(const float* p) {
    return make([p](int i) { return p[i]; });
  }
  static F load_n(const float* p, int n) {
    return make([p, n](int i) { return i < n ? p[i] : 0.0f; });
  }
  static void store(float* p, F a) { std::copy(a.v, a.v + width, p); }
  static void store_n(float* p, F a, int n) { std::copy(a.v, a.v + n, p); }
  static F load_bf16(const uint16_t* p) {
    return make([p](int i) { return bf16_to_f32(p[i]); });
  }
  static F load_bf16_n(const uint16_t* p, int n) {
    return make([p, n](int i) { return i < n ? bf16_to_f32(p[i]) : 0.0f; });
  }
  static F load_f16(const uint16_t* p) {
    return make([p](int i) { return f16_to_f32(p[i]); });
  }
  static F load_f16_n(const uint16_t* p, int n) {
    return make([p, n](int i) { return i < n ? f16_to_f32(p[i]) : 0.0f; });
  }
  static void store_bf16_n(uint16_t* p, F a, int n) {
    for (int i = 0; i < n; ++i) p[i] = f32_to_bf16(a.v[i]);
  }
  static void store_bf16(uint16_t* p, F a) { store_bf16_n(p, a, width); }
  static void store_bf16_operand(uint16_t* p, F a, int n) { store_bf16_n(p, a, n); }
  static void store_bf16_pairs(uint16_t* p, F a, F b, int n) {
    for (int i = 0; i < n; ++i) {
      p[2 * i] = f32_to_bf16(a.v[i]);
      p[2 * i + 1] = f32_to_bf16(b.v[i]);
    }
  }
  static F add(F a, F b) {
    return make([&](int i) { return a.v[i] + b.v[i]; });
  }
  static F sub(F a, F b) {
    return make([&](int i) { return a.v[i] - b.v[i]; });
  }
  static F mul(F a, F b) {
    return make([&](int i) { return a.v[i] * b.v[i]; });
  }
  static F div(F a, F b) {
    return make([&](int i) { return a.v[i] / b.v[i]; });
  }
  static F sqrt(F a) {
    return make([&](int i) { return std::sqrt(a.v[i]); });
  }
  static F max(F a, F b) {
    return make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F min(F a, F b) {
    return make([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F fma(F a, F b, F c) {
    return make([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  static F round_bf16(F a) {
    return make([&](int i) { return round_to_bf16(a.v[i]); });
  }
  static F round_bf16_quiet(F a) { return round_bf16(a); }
  // 1.5 · 2^23: what is added to it loses its fraction, to nearest even.
  static F nearest(F a) {
    return make([&](int i) { return (a.v[i] + 12582912.0f) - 12582912.0f; });
  }
  // In two factors, so that neither leaves the exponents of normal numbers.
  static F scale(F a, F k) {
    return make([&](int i) {
      const auto whole = static_cast<int32_t>(k.v[i]);
      const int32_t half = whole >> 1;
      const float first = std::bit_cast<float>((half + 127) << 23);
      const float second = std::bit_cast<float>((whole - half + 127) << 23);
      return a.v[i] * first * second;
    });
  }
  static F less_mask(int32_t i, const int32_t* n, F a, F b) {
    return make([&](int lane) { return i < n[lane] ? a.v[lane] : b.v[lane]; });
  }
  static F rotated(F x, F cos_sin) {
    F out;
    for (int i = 0; i < width; i += 2) {
      out.v[i] = x.v[i] * cos_sin.v[i] - x.v[i + 1] * cos_sin.v[i + 1];
      out.v[i + 1] = x.v[i + 1] * cos_sin.v[i] + x.v[i] * cos_sin.v[i + 1];
    }
    return out;
  }
  // Adds the squares of n values, n a multiple of 32, to 32 sums: value i to sum i mod 32.
  static void add_squares(const float* x, int64_t n, double* sums) {
    for (int64_t i = 0; i < n; i += 32) {
      for (int64_t lane = 0; lane < 32; ++lane) sums[lane] += static_cast<double>(x[i + lane]) * x[i + lane];
    }
  }
};

#if defined(__AVX2__) && !defined(__AVX512F__)
struct Avx2Vector {
  static constexpr int width = 8;
  using F = __m256;

  static __m256i mask(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static __m128i partial16(const uint16_t* p, int n) {
    alignas(16) uint16_t copy[8] = {};
    std::copy(p, p + n, copy);
    return _mm_load_si128(reinterpret_cast<const __m128i*>(copy));
  }
  static F from_bf16(__m128i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16)); }
  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float a) { return _mm256_set1_ps(a); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load_n(const float* p, int n) { return _mm256_maskload_ps(p, mask(n)); }
  static void store(float* p, F a) { _mm256_storeu_ps(p, a); }
  static void store_n(float* p, F a, int n) { _mm256_maskstore_ps(p, mask(n), a); }
  static F load_bf16(const uint16_t* p) { return from_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static F load_bf16_n(const uint16_t* p, int n) { return from_bf16(partial16(p, n)); }
  static F load_f16(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static F load_f16_n(const uint16_t* p, int n) { return _mm256_cvtph_ps(partial16(p, n)); }
  static __m128i to_bf16(F a) {
    const __m256i high = _mm256_srli_epi32(_mm256_castps_si256(round_bf16(a)), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  }
  static void store_bf16(uint16_t* p, F a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_bf16(a)); }
  static void store_bf16_n(uint16_t* p, F a, int n) {
    alignas(16) uint16_t copy[8];
    store_bf16(copy, a);
    std::copy(copy, copy + n, p);
  }
  static void store_bf16_operand(uint16_t* p, F a, int n) { n == width ? store_bf16(p, a) : store_bf16_n(p, a, n); }
  static void store_bf16_pairs(uint16_t* p, F a, F b, int n) {
    const __m256i low = _mm256_srli_epi32(_mm256_castps_si256(round_bf16(a)), 16);
    const __m256i pairs = _mm256_or_si256(low, _mm256_castps_si256(round_bf16(b)));
    alignas(32) uint16_t copy[16];
    _mm256_store_si256(reinterpret_cast<__m256i*>(copy), pairs);
    std::copy(copy, copy + 2 * n, p);
  }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F sqrt(F a) { return _mm256_sqrt_ps(a); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F round_bf16(F a) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const F quiet = _mm256_or_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x00400000)));
    const F value = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), quiet, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    return _mm256_and_ps(value, _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static F round_bf16_quiet(F a) { return round_bf16(a); }
  static F nearest(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F scale(F a, F k) {
    const __m256i whole = _mm256_cvtps_epi32(k);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    const __m256i bias = _mm256_set1_epi32(127);
    const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
  }
  static F less_mask(int32_t i, const int32_t* n, F a, F b) {
    const __m256i counts = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(n));
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(counts, _mm256_set1_epi32(i))));
  }
  static F rotated(F x, F cos_sin) {
    const F swapped = _mm256_permute_ps(x, 0xb1);
    return _mm256_addsub_ps(_mm256_mul_ps(x, _mm256_moveldup_ps(cos_sin)),
                            _mm256_mul_ps(swapped, _mm256_movehdup_ps(cos_sin)));
  }
  static void add_squares(const float* x, int64_t n, double* sums) {
    __m256d registers[8];
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) registers[v] = _mm256_loadu_pd(sums + 4 * v);
    for (int64_t i = 0; i < n; i += 32) {
#pragma GCC unroll 8
      for (int v = 0; v < 8; ++v) {
        const __m256d value = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4 * v));
        registers[v] = _mm256_fmadd_pd(value, value, registers[v]);
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) _mm256_storeu_pd(sums + 4 * v, registers[v]);
  }
};
#endif

#if defined(__AVX512F__)
struct Avx512Vector {
  static constexpr int width = 16;
  using F = __m512;

  static __mmask16 mask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static F from_bf16(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }
  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float a) { return _mm512_set1_ps(a); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static void store_n(float* p, F a, int n) { _mm512_mask_storeu_ps(p, mask(n), a); }
  static F load_bf16(const uint16_t* p) { return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static F load_bf16_n(const uint16_t* p, int n) { return from_bf16(_mm256_maskz_loadu_epi16(mask(n), p)); }
  static F load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load_f16_n(const uint16_t* p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(n), p)); }
  // The instruction turns subnormals to zero and writes other NaNs; where there are none it is a third of the work.
  static __m256i to_bf16(F a) {
    constexpr int kNanOrSubnormal = 0x01 | 0x20 | 0x80;
    if (_mm512_fpclass_ps_mask(a, kNanOrSubnormal) == 0) return narrowed(a);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(round_bf16(a)), 16));
  }
  static void store_bf16(uint16_t* p, F a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(a)); }
  static void store_bf16_n(uint16_t* p, F a, int n) { _mm256_mask_storeu_epi16(p, mask(n), to_bf16(a)); }
  static void store_bf16_operand(uint16_t* p, F a, int n) { _mm256_mask_storeu_epi16(p, mask(n), narrowed(a)); }
  static void store_bf16_pairs(uint16_t* p, F a, F b, int n) {
    // Element 2 i is value i of a, 2 i + 1 that of b.
    const __m512i evens =
        _mm512_cvtepu16_epi32(_mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    const __m512i order = _mm512_or_si512(evens, _mm512_slli_epi32(_mm512_add_epi32(evens, _mm512_set1_epi32(16)), 16));
    _mm512_mask_storeu_epi32(p, mask(n), _mm512_permutexvar_epi16(order, narrowed(a, b)));
  }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F sqrt(F a) { return _mm512_sqrt_ps(a); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F round_bf16(F a) {
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i value =
        _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), bits, _mm512_set1_epi32(0x00400000));
    return _mm512_castsi512_ps(_mm512_and_si512(value, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static F round_bf16_quiet(F a) {
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    return _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static F nearest(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F scale(F a, F k) { return _mm512_scalef_ps(a, k); }
  static F less_mask(int32_t i, const int32_t* n, F a, F b) {
    return _mm512_mask_blend_ps(_mm512_cmpgt_epi32_mask(_mm512_loadu_si512(n), _mm512_set1_epi32(i)), b, a);
  }
  static F rotated(F x, F cos_sin) {
    const F direct = _mm512_mul_ps(x, _mm512_moveldup_ps(cos_sin));
    const F crossed = _mm512_mul_ps(_mm512_permute_ps(x, 0xb1), _mm512_movehdup_ps(cos_sin));
    return _mm512_mask_sub_ps(_mm512_add_ps(direct, crossed), 0x5555, direct, crossed);
  }
  static void add_squares(const float* x, int64_t n, double* sums) {
    __m512d registers[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) registers[v] = _mm512_loadu_pd(sums + 8 * v);
    for (int64_t i = 0; i < n; i += 32) {
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const __m512d value = _mm512_cvtps_pd(_mm256_loadu_ps(x + i + 8 * v));
        registers[v] = _mm512_fmadd_pd(value, value, registers[v]);
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) _mm512_storeu_pd(sums + 8 * v, registers[v]);
  }
};
#endif

// e^x, within two units of the last place: x = k ln 2 + r, |r| ≤ ln 2 / 2, e^r = 1 + r + r² q(r) with a polynomial q of
// degree 4 through the five Chebyshev points (1.1e-8 away from e^r at most). Below −104 (−∞ too) exactly 0, above 89 ∞;
// not a number stays so. `at_most_one`: for x that do not lie above 0 by more than roundings; the same bits.
template <class V, bool at_most_one = false>
inline typename V::F vector_exp(typename V::F x) {
  using F = typename V::F;
  x = V::max(V::set1(-104.0f), x);
  if constexpr (!at_most_one) x = V::sub(V::zero(), V::max(V::set1(-89.0f), V::sub(V::zero(), x)));
  const F k = V::nearest(V::mul(x, V::set1(1.44269504f)));
  // ln 2 = 355/512 − 2.1219444e-4; k · 355/512 is exact.
  F r = V::fma(k, V::set1(-0.693359375f), x);
  r = V::fma(k, V::set1(2.12194440e-4f), r);
  F q = V::fma(V::set1(1.392621347e-3f), r, V::set1(8.363202972e-3f));
  q = V::fma(q, r, V::set1(4.166655444e-2f));
  q = V::fma(q, r, V::set1(1.666657685e-1f));
  q = V::fma(q, r, V::set1(0.5f));
  const F e = V::add(V::fma(V::mul(r, r), q, r), V::set1(1.0f));
  return V::scale(e, k);
}

}  // namespace
}  // namespace fathom
