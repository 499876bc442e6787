#include "kernels/cpu/linear_generic.h"
#include "kernels/cpu/linear_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace fathom {
namespace {

struct Avx512Vec {
  static constexpr int width = 16;
  static constexpr int max_tokens = 4;
  using F = __m512;

  static __mmask16 mask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float a) { return _mm512_set1_ps(a); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static float sum(F a) { return _mm512_reduce_add_ps(a); }
  static F round_bf16(F a) {
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const F finite = _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
    return _mm512_mask_mov_ps(finite, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
  }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static void store_n(float* p, F a, int n) { _mm512_mask_storeu_ps(p, mask(n), a); }

  static F from_bf16(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }
  static F load_bf16(const uint16_t* p) { return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static F load_bf16_n(const uint16_t* p, int n) { return from_bf16(_mm256_maskz_loadu_epi16(mask(n), p)); }
  static F load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load_f16_n(const uint16_t* p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(n), p)); }

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

// --- BF16 dot products
// -------------------------------------------------------------------------------------------------------------------

__m512bh as_bf16(__m512i v) {
  return reinterpret_cast<__m512bh>(v);
}

// E4M3 → BF16 for 64 codes at once. Both bytes of the result come from
// 128-entry tables indexed by the magnitude (vpermi2b), the sign is merged into
// the high byte, and unpacking pairs the bytes up: 64 bytes of weights cost two
// table look-ups, one ternary logic and two unpacks. Tables also give
// subnormals and NaN their right values, which shifting alone would not.
struct E4m3Tables {
  __m512i low[2], high[2];
};

struct alignas(64) E4m3TableBytes {
  uint8_t low[128], high[128];
};

constexpr E4m3TableBytes make_tables() {
  E4m3TableBytes tables{};
  for (unsigned code = 0; code < 128; ++code) {
    const unsigned exponent = code >> 3;
    const unsigned mantissa = code & 7;
    unsigned bits = 0;
    if (code == 0x7f) {
      bits = 0x7fc0;
    } else if (exponent > 0) {
      bits = ((exponent + 120) << 7) | (mantissa << 4);
    } else if (mantissa > 0) {
      unsigned top = mantissa >= 4 ? 2 : mantissa >= 2 ? 1 : 0;  // value = mantissa · 2^-9 = 1.f · 2^(top − 9)
      bits = ((127 - 9 + top) << 7) | ((mantissa << (7 - top)) & 0x7f);
    }
    tables.low[code] = static_cast<uint8_t>(bits & 0xff);
    tables.high[code] = static_cast<uint8_t>(bits >> 8);
  }
  return tables;
}
constexpr E4m3TableBytes kTables = make_tables();

inline E4m3Tables load_tables() {
  return {{_mm512_load_si512(kTables.low), _mm512_load_si512(kTables.low + 64)},
          {_mm512_load_si512(kTables.high), _mm512_load_si512(kTables.high + 64)}};
}

inline void decode(__m512i codes, const E4m3Tables& tables, __m512bh* lanes_low, __m512bh* lanes_high) {
  // vpermi2b reads seven bits of each index: the sign needs no masking away.
  const __m512i low = _mm512_permutex2var_epi8(tables.low[0], codes, tables.low[1]);
  __m512i high = _mm512_permutex2var_epi8(tables.high[0], codes, tables.high[1]);
  high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8(static_cast<char>(0x80)),
                                   0xf8);  // high | (codes & 0x80)
  *lanes_low = as_bf16(_mm512_unpacklo_epi8(low, high));
  *lanes_high = as_bf16(_mm512_unpackhi_epi8(low, high));
}

// How far ahead of a streamed row of weights the next bytes are asked for:
// 4,096 and 8,192 are alike, 1,024 and 16,384 a little worse.
constexpr int64_t kPrefetchBytes = 4096;

// The columns that one call of a tile sums over. Where they are not all, the
// sums wait in `carry` [R][T] as they are in the registers, so that cutting the
// columns changes no bit.
struct Columns {
  int64_t begin;
  int64_t end;
  __m512* carry;
};

template <int R, int T>
inline void load_sums(const Columns& columns, __m512 (&sums)[R][T]) {
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) sums[r][t] = columns.begin > 0 ? columns.carry[r * T + t] : _mm512_setzero_ps();
  }
}

template <int R, int T>
inline void store_sums(const Columns& columns, int64_t K, const __m512 (&sums)[R][T], int64_t spacing,
                       float* const* y) {
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) {
      if (columns.end < K) {
        columns.carry[r * T + t] = sums[r][t];
      } else {
        y[t][r * spacing] = _mm512_reduce_add_ps(sums[r][t]);
      }
    }
  }
}

// FP8 weights, BF16 operand in lane order. Per 64 columns two dot products, per
// segment (of 64 or 128 columns) one scale. The tile's rows are `spacing`
// apart. `streamed`: the weights come from memory and are used once.
template <int R, int T, bool streamed>
void fp8_tile(const uint16_t* const* x, const float* const* x_scale, const Weight& w, int64_t row, int64_t spacing,
              int64_t segment, const Columns& columns, float* const* y) {
  const E4m3Tables tables = load_tables();
  const uint8_t* rows[R];
  const float* scales[R];
  __m512 total[R][T];
  for (int r = 0; r < R; ++r) {
    rows[r] = reinterpret_cast<const uint8_t*>(w.row(row + r * spacing));
    scales[r] = w.scale_inv + (row + r * spacing) / w.block_rows * w.scale_cols();
  }
  load_sums(columns, total);
  for (int64_t begin = columns.begin; begin < columns.end; begin += segment) {
    const int64_t end = std::min(columns.end, begin + segment);
    __m512 sum[R][T];
    for (int r = 0; r < R; ++r) {
      for (int t = 0; t < T; ++t) sum[r][t] = _mm512_setzero_ps();
    }
    for (int64_t k = begin; k < end; k += 64) {
      for (int r = 0; r < R; ++r) {
        // Whole steps load without a mask: the hardware's prefetcher does not
        // follow masked loads (measured: a third of the bandwidth).
        if constexpr (streamed) _mm_prefetch(reinterpret_cast<const char*>(rows[r] + k + kPrefetchBytes), _MM_HINT_T0);
        const __m512i codes = end - k >= 64 ? _mm512_loadu_si512(rows[r] + k)
                                            : _mm512_maskz_loadu_epi8((__mmask64{1} << (end - k)) - 1, rows[r] + k);
        __m512bh low;
        __m512bh high;
        decode(codes, tables, &low, &high);
        for (int t = 0; t < T; ++t) {
          sum[r][t] = _mm512_dpbf16_ps(sum[r][t], low, as_bf16(_mm512_loadu_si512(x[t] + k)));
          sum[r][t] = _mm512_dpbf16_ps(sum[r][t], high, as_bf16(_mm512_loadu_si512(x[t] + k + 32)));
        }
      }
    }
    if (x_scale[0] == nullptr) {
      for (int r = 0; r < R; ++r) {
        const __m512 scale = _mm512_set1_ps(scales[r][begin / w.block_cols]);
        for (int t = 0; t < T; ++t) total[r][t] = _mm512_fmadd_ps(sum[r][t], scale, total[r][t]);
      }
    } else {
      for (int t = 0; t < T; ++t) {
        const float sx = x_scale[t][begin / 128];
        for (int r = 0; r < R; ++r) {
          const __m512 scale = _mm512_set1_ps(scales[r][begin / w.block_cols] * sx);
          total[r][t] = _mm512_fmadd_ps(sum[r][t], scale, total[r][t]);
        }
      }
    }
  }
  store_sums(columns, w.cols, total, spacing, y);
}

// BF16 weights, BF16 operand in natural order; the rest as above.
template <int R, int T, bool streamed>
void bf16_tile(const uint16_t* const* x, const Weight& w, int64_t row, int64_t spacing, const Columns& columns,
               float* const* y) {
  const int64_t K = columns.end;
  const uint16_t* rows[R];
  __m512 sum[R][T];
  for (int r = 0; r < R; ++r) {
    rows[r] = reinterpret_cast<const uint16_t*>(w.row(row + r * spacing));
  }
  load_sums(columns, sum);
  int64_t k = columns.begin;
  for (; k + 32 <= K; k += 32) {
    for (int r = 0; r < R; ++r) {
      if constexpr (streamed) {
        _mm_prefetch(reinterpret_cast<const char*>(rows[r] + k) + kPrefetchBytes, _MM_HINT_T0);
      }
      const __m512bh value = as_bf16(_mm512_loadu_si512(rows[r] + k));
      for (int t = 0; t < T; ++t) {
        sum[r][t] = _mm512_dpbf16_ps(sum[r][t], value, as_bf16(_mm512_loadu_si512(x[t] + k)));
      }
    }
  }
  if (k < K) {
    const auto mask = static_cast<__mmask32>((1u << (K - k)) - 1u);
    for (int r = 0; r < R; ++r) {
      const __m512bh value = as_bf16(_mm512_maskz_loadu_epi16(mask, rows[r] + k));
      for (int t = 0; t < T; ++t) {
        sum[r][t] = _mm512_dpbf16_ps(sum[r][t], value, as_bf16(_mm512_loadu_si512(x[t] + k)));
      }
    }
  }
  store_sums(columns, w.cols, sum, spacing, y);
}

// Tokens of a tile.
constexpr int kTileTokens = 6;

// Up to this many tokens the weights' way from memory decides.
constexpr int64_t kStreamedTokens = 4;

template <int R, int T, bool streamed>
void tile(const uint16_t* const* x, const float* const* x_scale, const Weight& w, int64_t row, int64_t spacing,
          const Columns& columns, float* const* y) {
  if (w.dtype == DType::f8_e4m3) {
    fp8_tile<R, T, streamed>(x, x_scale, w, row, spacing, w.block_cols % 128 == 0 ? 128 : 64, columns, y);
  } else {
    bf16_tile<R, T, streamed>(x, w, row, spacing, columns, y);
  }
}

// Rows [row_begin, row_end) for up to four tokens, weights from memory: the
// rows are cut into a few runs that are read side by side, each in the order of
// the memory. Measured with FP8 on two Zen 5 cores: one run reaches 70 % of a
// streaming read of a mapped file (the core is late), four rows in turn 41 %
// (the hardware does not follow), four runs 87 %.
template <int T>
void stream_rows(const uint16_t* const* x, const float* const* x_scale, const Weight& w, int64_t row_begin,
                 int64_t row_end, float* const* y_rows) {
  constexpr int kRuns = T == 1 ? 4 : 2;
  const Columns all{0, w.cols, nullptr};
  const int64_t spacing = (row_end - row_begin) / kRuns;
  float* y[T];
  for (int64_t row = row_begin; row < row_end; ++row) {
    for (int t = 0; t < T; ++t) y[t] = y_rows[t] + (row - row_begin);
    if (row < row_begin + spacing) {
      tile<kRuns, T, true>(x, x_scale, w, row, spacing, all, y);
    } else if (row >= row_begin + kRuns * spacing) {
      tile<1, T, true>(x, x_scale, w, row, 1, all, y);
    }
  }
}

// Rows of a group and columns of a block of the cached product: a tile's activations of a block (24 KB) stay in the
// first-level cache while the group's rows pass, and the group's weights in the second-level cache while the tokens
// pass.
constexpr int64_t kGroupRows = 64;
constexpr int64_t kBlockCols = 2048;

// Rows [row_begin, row_end), at most kGroupRows, for up to six of many tokens, R rows at a time.
template <int R, int T>
void cached_rows(const uint16_t* const* x, const float* const* x_scale, const Weight& w, int64_t row_begin,
                 int64_t row_end, float* const* y_rows) {
  __m512 carry[kGroupRows * T];
  float* y[T];
  for (int64_t begin = 0; begin < w.cols; begin += kBlockCols) {
    const int64_t end = std::min(w.cols, begin + kBlockCols);
    for (int64_t row = row_begin; row < row_end;) {
      const int64_t done = row - row_begin;
      const Columns columns{begin, end, carry + done * T};
      for (int t = 0; t < T; ++t) y[t] = y_rows[t] + done;
      if (row + R <= row_end) {
        tile<R, T, false>(x, x_scale, w, row, 1, columns, y);
        row += R;
      } else {
        tile<1, T, false>(x, x_scale, w, row, 1, columns, y);
        row += 1;
      }
    }
  }
}

// Rows at a time, measured in the second-level cache with 16 and 24 tokens: FP8 2 × 6 217 Gop/s, 4 × 4 174, 2 × 8 192,
// 3 × 4 144 (few rows leave registers for the sums before the scales, six tokens pay for the decoding); BF16 4 × 6 340,
// 4 × 4 328, 2 × 6 292.
template <int T>
void dot_tokens(const uint16_t* const* x, const float* const* x_scale, const Weight& w, int64_t row_begin,
                int64_t row_end, bool streamed, float* const* y) {
  if constexpr (T <= kStreamedTokens) {
    if (streamed) return stream_rows<T>(x, x_scale, w, row_begin, row_end, y);
  }
  w.dtype == DType::f8_e4m3 ? cached_rows<2, T>(x, x_scale, w, row_begin, row_end, y)
                            : cached_rows<4, T>(x, x_scale, w, row_begin, row_end, y);
}

void linear_rows_avx512(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                        int64_t row_end, float* y, int64_t y_stride) {
  if (x.form == OperandForm::f32) {
    return linear_rows_generic<Avx512Vec>(x, row_index, T, w, row_begin, row_end, y, y_stride);
  }
  // Groups of rows outermost, then tokens: a group's weights are read from
  // memory once.
  const bool streamed = T <= kStreamedTokens;
  const int64_t group = streamed ? row_end - row_begin : kGroupRows;
  for (int64_t row = row_begin; row < row_end; row += group) {
    const int64_t end = std::min(row_end, row + group);
    for (int64_t t0 = 0; t0 < T; t0 += kTileTokens) {
      const int n = static_cast<int>(std::min<int64_t>(kTileTokens, T - t0));
      const uint16_t* xs[kTileTokens];
      const float* scales[kTileTokens];
      float* ys[kTileTokens];
      for (int t = 0; t < n; ++t) {
        const int64_t source = row_index != nullptr ? row_index[t0 + t] : t0 + t;
        xs[t] = x.bf16_row(source);
        scales[t] = x.row_scales(source);
        ys[t] = y + (t0 + t) * y_stride + (row - row_begin);
      }
      switch (n) {
        case 1:
          dot_tokens<1>(xs, scales, w, row, end, streamed, ys);
          break;
        case 2:
          dot_tokens<2>(xs, scales, w, row, end, streamed, ys);
          break;
        case 3:
          dot_tokens<3>(xs, scales, w, row, end, streamed, ys);
          break;
        case 4:
          dot_tokens<4>(xs, scales, w, row, end, streamed, ys);
          break;
        case 5:
          dot_tokens<5>(xs, scales, w, row, end, streamed, ys);
          break;
        default:
          dot_tokens<kTileTokens>(xs, scales, w, row, end, streamed, ys);
          break;
      }
    }
  }
}

OperandForm operand_form(const Weight& w, OperandRounding rounding) {
  if (w.dtype == DType::bf16 && rounding == OperandRounding::bf16) return OperandForm::bf16;
  // A segment of 64 or 128 columns must lie in one block of scales.
  if (w.dtype == DType::f8_e4m3 && rounding != OperandRounding::none && w.block_cols % 64 == 0) {
    return OperandForm::bf16_lanes;
  }
  return OperandForm::f32;
}

void to_bf16(const float* x, int64_t K, uint16_t* out) {
  for (int64_t k = 0; k < K; k += 16) {
    const int n = static_cast<int>(std::min<int64_t>(16, K - k));
    const __m256bh v = _mm512_cvtneps_pbh(Avx512Vec::load_n(x + k, n));
    _mm256_mask_storeu_epi16(out + k, Avx512Vec::mask(n), reinterpret_cast<__m256i>(v));
  }
}

void to_bf16_lanes(const float* x, int64_t K, uint16_t* out) {
  for (int64_t k = 0; k < K; k += 64) {
    for (int lane = 0; lane < 4; ++lane) {
      const int n = static_cast<int>(std::clamp<int64_t>(K - k - 16 * lane, 0, 16));
      const auto v = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(Avx512Vec::load_n(x + k + 16 * lane, n)));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + k + 8 * lane), _mm256_castsi256_si128(v));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + k + 32 + 8 * lane), _mm256_extracti128_si256(v, 1));
    }
  }
}

}  // namespace

const LinearKernels& linear_kernels_avx512() {
  static const LinearKernels kernels = {linear_rows_avx512, linear_transposed_rows_generic<Avx512Vec>, operand_form,
                                        to_bf16, to_bf16_lanes};
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
