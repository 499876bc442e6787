#include "kernels/cpu/bf16_product_avx2.h"
#include "kernels/cpu/linear_generic.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/vectors.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace fathom {
namespace {

struct Avx2Vec : Avx2Vector {
  static constexpr int max_tokens = 4;
  static float sum(F a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
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

void linear_rows_avx2(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                      int64_t row_end, float* y, int64_t y_stride, const NextRows& next) {
  ask_for_heads(next);
  const auto rows = x.form == OperandForm::f32_pairs ? bf16_rows_avx2 : linear_rows_generic<Avx2Vec>;
  rows(x, row_index, T, w, row_begin, row_end, y, y_stride);
}

OperandForm operand_form(const Weight& w, OperandRounding rounding) {
  if (rounding != OperandRounding::none && rounding != OperandRounding::bf16) return OperandForm::f32;
  // 32 codes that are decoded together must lie in one block of scales.
  const bool cast = w.dtype == DType::f8_e4m3 && w.block_cols % 32 == 0;
  return cast || w.dtype == DType::bf16 ? OperandForm::f32_pairs : OperandForm::f32;
}

}  // namespace

const LinearKernels& linear_kernels_avx2() {
  static const LinearKernels kernels = {linear_rows_avx2, linear_transposed_rows_generic<Avx2Vec>, operand_form};
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
