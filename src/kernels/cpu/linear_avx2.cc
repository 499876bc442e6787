#include "kernels/cpu/linear_generic.h"
#include "kernels/cpu/linear_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace fathom {
namespace {

struct Avx2Vec {
  static constexpr int width = 8;
  static constexpr int max_tokens = 4;
  using F = __m256;

  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float a) { return _mm256_set1_ps(a); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static __m256i mask(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static F load_n(const float* p, int n) { return _mm256_maskload_ps(p, mask(n)); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static float sum(F a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  // Nearest even on the upper half. NaN may lose its payload but not its being NaN: codes × scales have a quiet bit.
  static F round_bf16(F a) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const F finite = _mm256_castsi256_ps(_mm256_and_si256(rounded, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
    return _mm256_blendv_ps(finite, a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  }
  static void store(float* p, F a) { _mm256_storeu_ps(p, a); }
  static void store_n(float* p, F a, int n) { _mm256_maskstore_ps(p, mask(n), a); }

  static F from_bf16(__m128i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16)); }
  static F load_bf16(const uint16_t* p) { return from_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static F load_bf16_n(const uint16_t* p, int n) { return from_bf16(partial16(p, n)); }
  static F load_f16(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static F load_f16_n(const uint16_t* p, int n) { return _mm256_cvtph_ps(partial16(p, n)); }
  static __m128i partial16(const uint16_t* p, int n) {
    alignas(16) uint16_t copy[8] = {};
    std::copy(p, p + n, copy);
    return _mm_load_si128(reinterpret_cast<const __m128i*>(copy));
  }

  // Magnitude bits moved to the float32 fields have an exponent that is 120 too small; the multiplication rebases it,
  // subnormals included.
  static F from_e4m3(__m128i codes) {
    const __m256i wide = _mm256_cvtepu8_epi32(codes);
    const __m256i magnitude = _mm256_and_si256(wide, _mm256_set1_epi32(0x7f));
    const __m256i sign = _mm256_slli_epi32(_mm256_andnot_si256(_mm256_set1_epi32(0x7f), wide), 24);
    const F rebased = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(magnitude, 20)), _mm256_set1_ps(0x1p120f));
    const __m256i nan = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f));
    return _mm256_or_ps(_mm256_or_ps(rebased, _mm256_castsi256_ps(sign)), _mm256_castsi256_ps(nan));
  }
  static F load_e4m3(const uint8_t* p) { return from_e4m3(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
  static F load_e4m3_n(const uint8_t* p, int n) {
    alignas(16) uint8_t copy[16] = {};
    std::copy(p, p + n, copy);
    return from_e4m3(_mm_load_si128(reinterpret_cast<const __m128i*>(copy)));
  }
};

OperandForm operand_form(const Weight&, OperandRounding) {
  return OperandForm::f32;
}

}  // namespace

const LinearKernels& linear_kernels_avx2() {
  static const LinearKernels kernels = {linear_rows_generic<Avx2Vec>, linear_transposed_rows_generic<Avx2Vec>,
                                        operand_form, nullptr};
  return kernels;
}

}  // namespace fathom
#else
namespace fathom {
const LinearKernels& linear_kernels_avx2() {
  return linear_kernels_portable();
}
}  // namespace fathom
#endif
