#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace fathom {
namespace {  // included by files of one instruction set

// The odd and the even BF16 of a register as float32: what Bf16Dot::fma multiplies, odd ones first.
inline __m512 odd_values(__m512i bits) {
  return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline __m512 even_values(__m512i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

// Reads and writes subnormal float32 as 0, as VDPBF16PS does, while it lives.
class FlushSubnormals {
 public:
  FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  unsigned before_;
};

// Sixteen pairs of BF16 as `dot` takes them, and dot(sum, a, b) = sum + the products of both elements of each pair.
// Without the instruction it is what the instruction does (see Bf16Dot), in a scope of FlushSubnormals.
#if defined(__AVX512BF16__)
using Bf16Pairs = __m512bh;
inline Bf16Pairs pairs_of(__m512i bits) {
  return reinterpret_cast<__m512bh>(bits);
}
inline __m512 dot(__m512 sum, Bf16Pairs a, Bf16Pairs b) {
  return _mm512_dpbf16_ps(sum, a, b);
}
struct DotScope {
  DotScope() {}  // NOLINT(modernize-use-equals-default): as a default one, a scope would be an unused variable
};
#else
struct Bf16Pairs {
  __m512 odd, even;
};
inline Bf16Pairs pairs_of(__m512i bits) {
  return {odd_values(bits), even_values(bits)};
}
inline __m512 dot(__m512 sum, Bf16Pairs a, Bf16Pairs b) {
  return _mm512_fmadd_ps(a.even, b.even, _mm512_fmadd_ps(a.odd, b.odd, sum));
}
using DotScope = FlushSubnormals;
#endif

// The pair of BF16 at p in every lane.
inline Bf16Pairs broadcast_pair(const uint16_t* p) {
  int32_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return pairs_of(_mm512_set1_epi32(bits));
}

// Sixteen float32 rounded to BF16, to nearest even. Subnormal ones may become 0, and of what is not a number only that
// it is none is kept.
inline __m256i narrowed(__m512 values) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values));
#else
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i number =
      _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(number, 16));
#endif
}

// The same of two registers, `first` in the lower half.
inline __m512i narrowed(__m512 first, __m512 last) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(last, first));
#else
  return _mm512_inserti64x4(_mm512_castsi256_si512(narrowed(first)), narrowed(last), 1);
#endif
}

// Columns of a row as float32, of each 32 the odd ones first; behind the last one zeros up to a multiple of 32.
inline void widen(const uint16_t* x, int64_t cols, float* out) {
  const auto put = [&](__m512i bits, int64_t k) {
    _mm512_store_ps(out + k, odd_values(bits));
    _mm512_store_ps(out + k + 16, even_values(bits));
  };
  int64_t k = 0;
  for (; k + 32 <= cols; k += 32) put(_mm512_loadu_si512(x + k), k);
  if (k < cols) put(_mm512_maskz_loadu_epi16((__mmask32{1} << (cols - k)) - 1, x + k), k);
}

// The sums of four registers as 8 + 8, 4 + 4, 2 + 2, 1 + 1 lanes, side by side.
inline __m128 sum4(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
  __m512 all = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  all = _mm512_add_ps(all, _mm512_permute_ps(all, 0x4e));
  all = _mm512_add_ps(all, _mm512_permute_ps(all, 0xb1));
  return _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, all));
}

// The same sums of sixteen registers v[4 j + r], at 4 j + r of the result: fewer instructions than four times four.
inline __m512 sum16(const __m512 (&v)[16]) {
  __m512 halves[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    halves[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x44),
                              _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xee));
  }
  // Lane r of quarters[j]: four partial sums of v[4 j + r].
  __m512 quarters[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    quarters[j] = _mm512_add_ps(_mm512_shuffle_f32x4(halves[2 * j], halves[2 * j + 1], 0x88),
                                _mm512_shuffle_f32x4(halves[2 * j], halves[2 * j + 1], 0xdd));
  }
  const auto pairs = [](__m512 a, __m512 b) {
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
    return _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
  };
  const __m512 first = pairs(quarters[0], quarters[1]);
  const __m512 last = pairs(quarters[2], quarters[3]);
  const __m512 sums = _mm512_add_ps(_mm512_shuffle_ps(first, last, 0x88), _mm512_shuffle_ps(first, last, 0xdd));
  // Lane r, element j → 4 j + r.
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), sums);
}

}  // namespace
}  // namespace fathom
