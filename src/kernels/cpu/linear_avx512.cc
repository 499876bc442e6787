#include <array>
#include <bit>

#include "kernels/cpu/bf16_product_avx512.h"
#include "kernels/cpu/linear_generic.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/vectors.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/cpu/e4m3_avx512.h"

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

// FP8 weights times FP8 activations (as BF16 values, exact): per 128 columns an exact sum of codes, then the scales of
// both sides. Rows of a tile are `spacing` apart.
template <int R, int T>
void fp8_tile(const uint16_t* const* x, const float* const* x_scale, const Weight& w, const E4m3Decoder& decoder,
              int64_t row, int64_t spacing, int64_t segment, float* const* y) {
  const std::byte* rows[R];
  const float* scales[R];
  __m512 total[R][T];
  for (int r = 0; r < R; ++r) {
    rows[r] = w.row(row + r * spacing);
    scales[r] = w.scale_inv + (row + r * spacing) / w.block_rows * w.scale_cols();
    for (int t = 0; t < T; ++t) total[r][t] = _mm512_setzero_ps();
  }
  for (int64_t begin = 0; begin < w.cols; begin += segment) {
    const int64_t end = std::min(w.cols, begin + segment);
    __m512 sum[R][T];
    for (int r = 0; r < R; ++r) {
      for (int t = 0; t < T; ++t) sum[r][t] = _mm512_setzero_ps();
    }
    for (int64_t k = begin; k < end; k += 64) {
      for (int r = 0; r < R; ++r) {
        const __m512i codes = end - k >= 64 ? _mm512_loadu_si512(rows[r] + k)
                                            : _mm512_maskz_loadu_epi8((__mmask64{1} << (end - k)) - 1, rows[r] + k);
        __m512bh first;
        __m512bh last;
        decoder.decode(codes, &first, &last);
        for (int t = 0; t < T; ++t) {
          sum[r][t] = _mm512_dpbf16_ps(sum[r][t], first, as_bf16(_mm512_loadu_si512(x[t] + k)));
          sum[r][t] = _mm512_dpbf16_ps(sum[r][t], last, as_bf16(_mm512_loadu_si512(x[t] + k + 32)));
        }
      }
    }
    for (int t = 0; t < T; ++t) {
      for (int r = 0; r < R; ++r) {
        const __m512 scale = _mm512_set1_ps(scales[r][begin / w.block_cols] * x_scale[t][begin / 128]);
        total[r][t] = _mm512_fmadd_ps(sum[r][t], scale, total[r][t]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) y[t][r * spacing] = _mm512_reduce_add_ps(total[r][t]);
  }
}

// Two neighbouring rows at a time; for one token four rows from as many runs, which keeps the memory busier.
template <int T>
void fp8_rows(const uint16_t* const* x, const float* const* x_scale, const Weight& w, int64_t row_begin,
              int64_t row_end, float* const* y_rows) {
  alignas(64) static constexpr auto kTable = [] {
    std::array<uint8_t, kE4m3TableBytes> table{};
    for (size_t code = 0; code < 128; ++code) {
      const auto bits = std::bit_cast<uint32_t>(kE4m3Magnitudes.values[code]);
      table[code] = static_cast<uint8_t>(bits >> 16);
      table[128 + code] = static_cast<uint8_t>(bits >> 24);
    }
    return table;
  }();
  const E4m3Decoder decoder(kTable.data());
  const int64_t segment = w.block_cols % 128 == 0 ? 128 : 64;
  constexpr int kRows = T == 1 ? 4 : 2;
  const int64_t spacing = T == 1 ? (row_end - row_begin) / kRows : 1;
  const int64_t step = T == 1 ? 1 : kRows;
  float* y[T];
  int64_t row = row_begin;
  const int64_t last = T == 1 ? row_begin + spacing - 1 : row_end - kRows;
  for (; row <= last; row += step) {
    for (int t = 0; t < T; ++t) y[t] = y_rows[t] + (row - row_begin);
    fp8_tile<kRows, T>(x, x_scale, w, decoder, row, spacing, segment, y);
  }
  for (row = T == 1 ? row_begin + kRows * spacing : row; row < row_end; ++row) {
    for (int t = 0; t < T; ++t) y[t] = y_rows[t] + (row - row_begin);
    fp8_tile<1, T>(x, x_scale, w, decoder, row, 1, segment, y);
  }
}

void fp8_rows_of(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                 int64_t row_end, float* y, int64_t y_stride) {
  constexpr int kTokens = 6;
  for (int64_t t0 = 0; t0 < T;) {
    const int64_t n = T - t0 >= kTokens ? kTokens : 1;
    const uint16_t* xs[kTokens];
    const float* scales[kTokens];
    float* ys[kTokens];
    for (int64_t t = 0; t < n; ++t) {
      const int64_t source = row_index != nullptr ? row_index[t0 + t] : t0 + t;
      xs[t] = x.bf16_row(source);
      scales[t] = x.row_scales(source);
      ys[t] = y + (t0 + t) * y_stride;
    }
    n == kTokens ? fp8_rows<kTokens>(xs, scales, w, row_begin, row_end, ys)
                 : fp8_rows<1>(xs, scales, w, row_begin, row_end, ys);
    t0 += n;
  }
}

void linear_rows_avx512(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                        int64_t row_end, float* y, int64_t y_stride) {
  if (x.form == OperandForm::f32) {
    linear_rows_generic<Avx512Vec>(x, row_index, T, w, row_begin, row_end, y, y_stride);
  } else if (x.scales != nullptr) {
    fp8_rows_of(x, row_index, T, w, row_begin, row_end, y, y_stride);
  } else {
    bf16_rows_avx512(x, row_index, T, w, row_begin, row_end, y, y_stride);
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

const LinearKernels& linear_kernels_avx512() {
  static const LinearKernels kernels = {linear_rows_avx512, linear_transposed_rows_generic<Avx512Vec>, operand_form};
  return kernels;
}

}  // namespace fathom
#else
namespace fathom {
const LinearKernels& linear_kernels_avx512() {
  return linear_kernels_portable();
}
}  // namespace fathom
#endif
