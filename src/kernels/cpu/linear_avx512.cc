#include "kernels/cpu/avx512_name.h"
#include "kernels/cpu/bf16_product_avx512.h"
#include "kernels/cpu/fp8_product_avx512.h"
#include "kernels/cpu/linear_generic.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/vectors.h"
#include "kernels/cpu/widened_product_avx512.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace fathom {
namespace {

struct Avx512Vec : Avx512Vector {
  static constexpr int max_tokens = 4;
  static float sum(F a) { return _mm512_reduce_add_ps(a); }

  // As in the AVX2 file: magnitude bits in the float32 fields, exponent rebased
  // by 2^120.
  static F from_e4m3(__m128i codes) {
    const __m512i wide = _mm512_cvtepu8_epi32(codes);
    const __m512i magnitude = _mm512_and_si512(wide, _mm512_set1_epi32(0x7f));
    const __m512i sign = _mm512_slli_epi32(_mm512_andnot_si512(_mm512_set1_epi32(0x7f), wide), 24);
    const F rebased = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(magnitude, 20)), _mm512_set1_ps(0x1p120f));
    const __m512i value = _mm512_or_si512(_mm512_castps_si512(rebased), sign);
    const __mmask16 nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7f));
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(value, nan, _mm512_set1_epi32(0x7fc00000)));
  }
  static F load_e4m3(const uint8_t* p) { return from_e4m3(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static F load_e4m3_n(const uint8_t* p, int n) { return from_e4m3(_mm_maskz_loadu_epi8(mask(n), p)); }
};

void linear_rows_avx512(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                        int64_t row_end, float* y, int64_t y_stride, const NextRows& next) {
  if (x.wide == nullptr || x.scales != nullptr) ask_for_heads(next);
  if (x.form == OperandForm::f32) {
    linear_rows_generic<Avx512Vec>(x, row_index, T, w, row_begin, row_end, y, y_stride);
  } else if (x.scales != nullptr) {
    FATHOM_AVX512(fp8_rows)(x, row_index, T, w, row_begin, row_end, y, y_stride);
  } else if (x.wide != nullptr) {
    FATHOM_AVX512(widened_rows)(x, row_index, T, w, row_begin, row_end, y, y_stride, next);
  } else {
    FATHOM_AVX512(bf16_rows)(x, row_index, T, w, row_begin, row_end, y, y_stride);
  }
}

OperandForm operand_form(const Weight& w, OperandRounding rounding) {
  if (w.dtype == DType::bf16 && rounding == OperandRounding::bf16) return OperandForm::bf16;
  // 64 codes that are decoded together must lie in one block of scales.
  if (w.dtype == DType::f8_e4m3 && rounding != OperandRounding::none && w.block_cols % 64 == 0) {
    return OperandForm::bf16;
  }
  return OperandForm::f32;
}

}  // namespace

const LinearKernels& FATHOM_AVX512(linear_kernels)() {
  static const LinearKernels kernels = {linear_rows_avx512, linear_transposed_rows_generic<Avx512Vec>, operand_form,
                                        FATHOM_AVX512(widen_row)};
  return kernels;
}

}  // namespace fathom
#else
namespace fathom {
const LinearKernels& FATHOM_AVX512(linear_kernels)() {
  return linear_kernels_portable();
}
}  // namespace fathom
#endif
