#include "kernels/cpu/fp8_product_avx512.h"

#include <algorithm>
#include <array>
#include <bit>

#if defined(__x86_64__)
#include <immintrin.h>

#include "base/buffer.h"
#include "kernels/cpu/e4m3_avx512.h"
#include "kernels/cpu/isa.h"

namespace fathom {
namespace {

// The table of the codes themselves.
alignas(64) constexpr auto kTable = [] {
  std::array<uint8_t, kE4m3TableBytes> table{};
  for (size_t code = 0; code < 128; ++code) {
    const auto bits = std::bit_cast<uint32_t>(kE4m3Magnitudes.values[code]);
    table[code] = static_cast<uint8_t>(bits >> 16);
    table[128 + code] = static_cast<uint8_t>(bits >> 24);
  }
  return table;
}();

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
        __m512i first;
        __m512i last;
        decoder.decode(codes, &first, &last);
        for (int t = 0; t < T; ++t) {
          sum[r][t] = dot(sum[r][t], pairs_of(first), pairs_of(_mm512_loadu_si512(x[t] + k)));
          sum[r][t] = dot(sum[r][t], pairs_of(last), pairs_of(_mm512_loadu_si512(x[t] + k + 32)));
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

void fp8_rows_by_instruction(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w,
                             int64_t row_begin, int64_t row_end, float* y, int64_t y_stride) {
  const DotScope scope;
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

// ---- Bf16Dot::fma ----
//
// Both sides are widened to float32 first (see bf16_avx512.h), the tokens with their operand. Four rows and three
// tokens have their sums and their totals in registers.

constexpr int kWideRows = 4;
constexpr int kWideTokens = 3;
// Floats of widened tokens that pass at a time, row after row: half of a second-level cache of 1 MB.
constexpr int64_t kWideFloats = 128 << 10;

struct WideRows {
  const float* rows[kWideRows];        // widened codes
  const float* row_scales[kWideRows];  // one per block of columns
  const float* tokens[kWideTokens];    // widened codes
  const float* token_scales[kWideTokens];
};

// `segment` columns (128 or 64) share the scales of both sides.
template <int R, int T>
void wide_tile(const WideRows& in, int64_t cols, int64_t segment, int64_t block_cols, float* const* y, int64_t y_row) {
  __m512 total[R][T];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int t = 0; t < T; ++t) total[r][t] = _mm512_setzero_ps();
  }
  for (int64_t begin = 0; begin < cols; begin += segment) {
    const int64_t end = std::min(cols, begin + segment);
    __m512 sum[R][T];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
      for (int t = 0; t < T; ++t) sum[r][t] = _mm512_setzero_ps();
    }
    for (int64_t k = begin; k < end; k += 16) {
      __m512 xs[T];
#pragma GCC unroll 3
      for (int t = 0; t < T; ++t) xs[t] = _mm512_load_ps(in.tokens[t] + k);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m512 value = _mm512_load_ps(in.rows[r] + k);
#pragma GCC unroll 3
        for (int t = 0; t < T; ++t) sum[r][t] = _mm512_fmadd_ps(value, xs[t], sum[r][t]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m512 row_scale = _mm512_set1_ps(in.row_scales[r][begin / block_cols]);
#pragma GCC unroll 3
      for (int t = 0; t < T; ++t) {
        const __m512 scale = _mm512_mul_ps(row_scale, _mm512_set1_ps(in.token_scales[t][begin / 128]));
        total[r][t] = _mm512_fmadd_ps(sum[r][t], scale, total[r][t]);
      }
    }
  }
#pragma GCC unroll 3
  for (int t = 0; t < T; ++t) {
    alignas(16) float sums[4];
    _mm_store_ps(sums, sum4(total[0][t], total[1 % R][t], total[2 % R][t], total[3 % R][t]));
    for (int r = 0; r < R; ++r) y[t][y_row + r] = sums[r];
  }
}

using WideTile = void (*)(const WideRows& in, int64_t cols, int64_t segment, int64_t block_cols, float* const* y,
                          int64_t y_row);
constexpr WideTile kWideTiles[2][kWideTokens + 1] = {{nullptr, wide_tile<1, 1>, wide_tile<1, 2>, wide_tile<1, 3>},
                                                     {nullptr, wide_tile<4, 1>, wide_tile<4, 2>, wide_tile<4, 3>}};

// Codes of a row, as `widen` leaves them; behind the last column zeros up to a multiple of 64.
void widen_codes(const E4m3Decoder& decoder, const std::byte* codes, int64_t cols, float* out) {
  for (int64_t k = 0; k < cols; k += 64) {
    const __mmask64 mask = cols - k >= 64 ? ~__mmask64{0} : (__mmask64{1} << (cols - k)) - 1;
    __m512i first;
    __m512i last;
    decoder.decode(_mm512_maskz_loadu_epi8(mask, codes + k), &first, &last);
    _mm512_store_ps(out + k, odd_values(first));
    _mm512_store_ps(out + k + 16, even_values(first));
    _mm512_store_ps(out + k + 32, odd_values(last));
    _mm512_store_ps(out + k + 48, even_values(last));
  }
}

thread_local Buffer wide_rows;

void fp8_rows_widened(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                      int64_t row_end, float* y, int64_t y_stride) {
  const FlushSubnormals flush;
  const E4m3Decoder decoder(kTable.data());
  const int64_t segment = w.block_cols % 128 == 0 ? 128 : 64;
  // Not a multiple of 4 KB, so that rows fall on different sets of the cache.
  const int64_t cols = (w.cols + 63) / 64 * 64;
  const int64_t stride = cols + 16;
  const int64_t most = std::max<int64_t>(1, kWideFloats / stride / kWideTokens) * kWideTokens;
  float* rows = reserve<float>(wide_rows, kWideRows * stride);
  for (int64_t first = 0; first < T; first += most) {
    const int64_t count = std::min(most, T - first);
    const auto source = [&](int64_t t) { return row_index != nullptr ? row_index[first + t] : first + t; };
    for (int64_t row = row_begin; row < row_end;) {
      const int64_t n = row_end - row >= kWideRows ? kWideRows : 1;
      WideRows in;
      for (int64_t r = 0; r < n; ++r) {
        widen_codes(decoder, w.row(row + r), w.cols, rows + r * stride);
        in.rows[r] = rows + r * stride;
        in.row_scales[r] = w.scale_inv + (row + r) / w.block_rows * w.scale_cols();
      }
      for (int64_t t = 0; t < count; t += kWideTokens) {
        const int64_t group = std::min<int64_t>(kWideTokens, count - t);
        float* out[kWideTokens];
        for (int64_t i = 0; i < group; ++i) {
          in.tokens[i] = x.wide_row(source(t + i));
          in.token_scales[i] = x.row_scales(source(t + i));
          out[i] = y + (first + t + i) * y_stride;
        }
        kWideTiles[n == kWideRows][group](in, cols, segment, w.block_cols, out, row - row_begin);
      }
      row += n;
    }
  }
}

}  // namespace

void FATHOM_AVX512(fp8_rows)(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w,
                             int64_t row_begin, int64_t row_end, float* y, int64_t y_stride) {
  const bool widened = T >= kWideTokens && x.wide != nullptr;
  widened ? fp8_rows_widened(x, row_index, T, w, row_begin, row_end, y, y_stride)
          : fp8_rows_by_instruction(x, row_index, T, w, row_begin, row_end, y, y_stride);
}

}  // namespace fathom
#endif
