#include "kernels/cpu/widened_product_avx512.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/cpu/bf16_avx512.h"
#include "kernels/cpu/bf16_tiles_avx512.h"
#include "kernels/cpu/two_steps.h"

namespace fathom {
namespace {

// 64 codes of FP8 at `at` as four registers in the order of `widen`.
template <class Load>
inline void decode_widened(const E4m3MaskDecoder& decoder, const std::byte* at, const Load& load, __m512 (&values)[4]) {
  __m512i first;
  __m512i last;
  decoder.decode(load(at), &first, &last);
  values[0] = odd_values(first);
  values[1] = even_values(first);
  values[2] = odd_values(last);
  values[3] = even_values(last);
}

// Calls step(k, load) for columns k = begin, begin + columns, … up to the end, where load(p) reads so many of `element`
// bytes each at p, the last ones with a mask: whole steps load without one, for the hardware's prefetcher does not
// follow masked loads (measured: a third of the bandwidth).
template <int64_t columns, int64_t element, class Step>
inline void for_columns(int64_t begin, int64_t end, const Step& step) {
  static_assert(columns * element == 64);
  int64_t k = begin;
  for (; k + columns <= end; k += columns) step(k, [](const std::byte* at) { return _mm512_loadu_si512(at); });
  if (k == end) return;
  const __mmask64 mask = (__mmask64{1} << ((end - k) * element)) - 1;
  step(k, [mask](const std::byte* at) { return _mm512_maskz_loadu_epi8(mask, at); });
}

// Calls piece(decoder, begin, end) for the columns [begin, end) that share a block of scales each.
template <class Piece>
inline void for_scales(const Weight& w, const uint8_t* tables, int64_t begin, int64_t end, const Piece& piece) {
  const int64_t cols = w.block_cols;
  int64_t stop = begin / cols * cols;
  for (const uint8_t* table = tables + begin / cols * kE4m3TableBytes; begin < end; table += kE4m3TableBytes) {
    stop += cols;
    piece(E4m3MaskDecoder(table), begin, std::min(end, stop));
    begin = stop;
  }
}

// ---- few tokens: weights are widened in the registers ----

// How far ahead of each run of rows the next bytes are asked for, and how much further for the second-level cache
// alone.
constexpr int64_t kAheadBytes = 512;
constexpr int64_t kFartherBytes = 512;

__attribute__((always_inline)) inline void ask_ahead(const std::byte* at, int64_t ahead) {
  if (ahead != 0) ask_in_two_steps<kFartherBytes>(at + ahead);
}

template <int R, int N>
inline void add_products_fp8(const Weight& w, const TileRows<R>& rows, const float* const (&x)[N],
                             const uint8_t* tables, int64_t begin, int64_t end, int64_t ahead, __m512 (&sums)[R][N]) {
  // Two rows are decoded at a time: their values fit into the registers beside the sums.
  constexpr int kTogether = R == 1 ? 1 : 2;
  for_scales(w, tables, begin, end, [&](const E4m3MaskDecoder& decoder, int64_t piece_begin, int64_t piece_end) {
    for_columns<64, 1>(piece_begin, piece_end, [&](int64_t k, auto load) {
#pragma GCC unroll 4
      for (int r0 = 0; r0 < R; r0 += kTogether) {
        __m512 values[kTogether][4];
#pragma GCC unroll 2
        for (int r = 0; r < kTogether; ++r) {
          ask_ahead(rows.at[r0 + r] + k, ahead);
          decode_widened(decoder, rows.at[r0 + r] + k, load, values[r]);
        }
#pragma GCC unroll 4
        for (int t = 0; t < N; ++t) {
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            const __m512 xs = _mm512_loadu_ps(x[t] + k + 16 * i);
#pragma GCC unroll 2
            for (int r = 0; r < kTogether; ++r) {
              sums[r0 + r][t] = _mm512_fmadd_ps(values[r][i], xs, sums[r0 + r][t]);
            }
          }
        }
      }
    });
  });
}

template <int R, int N>
inline void add_products_bf16(const TileRows<R>& rows, const float* const (&x)[N], int64_t begin, int64_t end,
                              int64_t ahead, __m512 (&sums)[R][N]) {
  for_columns<32, 2>(begin, end, [&](int64_t k, auto load) {
    __m512 odd[R];
    __m512 even[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      ask_ahead(rows.at[r] + 2 * k, ahead);
      const __m512i bits = load(rows.at[r] + 2 * k);
      odd[r] = odd_values(bits);
      even[r] = even_values(bits);
    }
#pragma GCC unroll 4
    for (int t = 0; t < N; ++t) {
      const __m512 x_odd = _mm512_loadu_ps(x[t] + k);
      const __m512 x_even = _mm512_loadu_ps(x[t] + k + 16);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        sums[r][t] = _mm512_fmadd_ps(even[r], x_even, _mm512_fmadd_ps(odd[r], x_odd, sums[r][t]));
      }
    }
  });
}

template <bool kFp8, int R, int N>
void stream_tile(const Weight& w, const float* const* x, const StreamTile& tile, float* const* y) {
  const TileRows<R> rows(w, tile.row, tile.spacing, kFp8 ? 1 : 2);
  const float* tokens[N];
  for (int t = 0; t < N; ++t) tokens[t] = x[t];
  constexpr int kQuads = (R + 3) / 4;
  __m128 totals[kQuads][N];
  for (int64_t begin = 0; begin < w.cols; begin += kBlockCols) {
    const int64_t end = std::min(w.cols, begin + kBlockCols);
    __m512 sums[R][N];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int t = 0; t < N; ++t) sums[r][t] = _mm512_setzero_ps();
    }
    if constexpr (kFp8) {
      add_products_fp8<R, N>(w, rows, tokens, tile.tables, begin, end, tile.ahead_of(begin), sums);
    } else {
      add_products_bf16<R, N>(rows, tokens, begin, end, tile.ahead_of(begin), sums);
    }
#pragma GCC unroll 2
    for (int q = 0; q < kQuads; ++q) {
#pragma GCC unroll 4
      for (int t = 0; t < N; ++t) {
        const auto of = [&](int r) { return sums[(4 * q + r) % R][t]; };
        const __m128 sum = sum4(of(0), of(1), of(2), of(3));
        totals[q][t] = begin == 0 ? sum : _mm_add_ps(totals[q][t], sum);
      }
    }
  }
  for (int t = 0; t < N; ++t) {
    alignas(16) float part[4 * kQuads];
    for (int q = 0; q < kQuads; ++q) _mm_store_ps(part + 4 * q, totals[q][t]);
    for (int r = 0; r < R; ++r) y[t][tile.y_row + r * tile.spacing] = part[r];
  }
}

constexpr int64_t kStreamTileTokens = 4;
template <bool kFp8, int R>
constexpr auto kStreamTileOf =
    std::array{stream_tile<kFp8, R, 1>, stream_tile<kFp8, R, 2>, stream_tile<kFp8, R, 3>, stream_tile<kFp8, R, 4>};

template <bool kFp8>
void stream_products(const Weight& w, int64_t row_begin, int64_t row_end, const float* const* x, int64_t T,
                     float* const* y, const NextRows& next) {
  if (T == 1) {
    constexpr int kRuns = 8;
    stream_tiles<kFp8, kAheadBytes, kRuns>(w, row_begin, row_end, next, Groups(1, 1), [&](const StreamTile& tile) {
      tile.rows == kRuns ? stream_tile<kFp8, kRuns, 1>(w, x, tile, y) : stream_tile<kFp8, 1, 1>(w, x, tile, y);
    });
    return;
  }
  // The sums of more tokens and eight rows do not fit into the registers.
  constexpr int kRuns = 4;
  const Groups groups(T, kStreamTileTokens);
  stream_tiles<kFp8, kAheadBytes, kRuns>(w, row_begin, row_end, next, groups, [&](const StreamTile& tile) {
    const auto& tiles = tile.rows == kRuns ? kStreamTileOf<kFp8, kRuns> : kStreamTileOf<kFp8, 1>;
    tiles[static_cast<size_t>(tile.count - 1)](w, x + tile.first, tile, y + tile.first);
  });
}

// ---- more tokens: a band of rows of a block of columns is widened into the first-level cache, and tokens pass ----

// Rows of a band, and tokens that meet them at a time: 24 sums. Tokens come from the second-level cache, and eight rows
// take half as many of them for their products as four, but are worth being widened (a band fills most of the
// first-level cache) only for more than a few.
constexpr int kMostBandRows = 8;
constexpr int kFewBandRows = 4;
constexpr int64_t kFewTokens = 11;
template <int R>
constexpr int kTileTokens = 24 / R;
// Tokens of a pass: their columns of a block (768 KB) stay in the second-level cache while rows pass.
constexpr int64_t kPassTokens = 192;
// Rows of a section, whose sums of a pass (96 KB) stay there too.
constexpr int64_t kSectionRows = 128;

// Row stride of widened weights, in floats: 64 bytes more than a multiple of 4 KB, so that the rows fall on different
// sets of the cache.
constexpr int64_t kWideStride = kBlockCols + 16;
struct alignas(64) WideMemory {
  float weights[kMostBandRows * kWideStride];
  float totals[kSectionRows * kPassTokens];
};
thread_local WideMemory wide_memory;

// Columns [begin, end) of rows [row, row + n) to `out`, zeros behind them up to a multiple of 32.
template <bool kFp8>
void widen_band(const Weight& w, int64_t row, int64_t n, int64_t begin, int64_t end, float* out) {
  if constexpr (!kFp8) {
    for (int64_t r = 0; r < n; ++r) {
      widen(reinterpret_cast<const uint16_t*>(w.row(row + r)) + begin, end - begin, out + r * kWideStride);
    }
    return;
  }
  for (int64_t first = 0; first < n;) {
    // Of blocks with few rows, a band may meet two.
    const int64_t last = std::min(n, first + w.block_rows - (row + first) % w.block_rows);
    for_scales(w, cast_tables.of_row(w, row + first), begin, end,
               [&](const E4m3MaskDecoder& decoder, int64_t piece_begin, int64_t piece_end) {
                 for_columns<64, 1>(piece_begin, piece_end, [&](int64_t k, auto load) {
                   for (int64_t r = first; r < last; ++r) {
                     __m512 values[4];
                     decode_widened(decoder, w.row(row + r) + k, load, values);
                     float* to = out + r * kWideStride + (k - begin);
#pragma GCC unroll 4
                     for (int i = 0; i < 4; ++i) _mm512_store_ps(to + 16 * i, values[i]);
                   }
                 });
               });
    first = last;
  }
}

// Two runs of memory that a tile asks for while it multiplies, a line or half of one (`step` bytes) of each for every
// 32 columns.
struct WideAhead {
  const char* run[2];
  int64_t step;
};

// What is asked for in the course of the tiles of a band: some of the tokens that come after this block of columns,
// then the rows of the next band.
class WideRequests {
 public:
  // Columns from `begin` on of the tokens [first, first + count), in the course of `bands` bands: all
  // at once they would push out what is in use.
  void ask_tokens(const float* const* x, int64_t first, int64_t count, int64_t begin, int64_t bands) {
    x_ = x;
    token_ = first;
    last_token_ = first + count;
    begin_ = begin;
    tokens_of_band_ = (count + bands - 1) / bands;
  }
  // Columns from `begin` on of the first `count` of `rows`. Begins a band of so many tiles.
  __attribute__((always_inline)) void ask_rows(const NextRows& rows, int64_t count, int64_t begin, int64_t tiles) {
    row_count_ = 0;
    if (rows.weight != nullptr && rows.weight->data != nullptr && rows.weight->bits == 0) {
      const auto element = static_cast<int64_t>(dtype_bytes(rows.weight->dtype));
      rows_ = reinterpret_cast<const char*>(rows.weight->row(rows.begin)) + begin * element;
      row_count_ = std::min(count, rows.end - rows.begin);
      row_bytes_ = rows.weight->row_stride * element;
      row_step_ = 32 * element;
      // Those that few tiles do not get to.
      for (; row_count_ > 2 * tiles; --row_count_, rows_ += row_bytes_) {
        for (int64_t at = 0; at < kBlockCols * element; at += 64) _mm_prefetch(rows_ + at, _MM_HINT_T1);
      }
    }
    band_end_ = std::min(last_token_, token_ + tokens_of_band_);
  }
  // The share of the next tile, of `left` that are left in the band: rows at the end, when they are about to be used.
  // `idle` is memory that does no harm.
  WideAhead next(int64_t left, const float* idle) {
    WideAhead ahead{{reinterpret_cast<const char*>(idle), reinterpret_cast<const char*>(idle)}, 0};
    if (row_count_ > 0 && left <= (row_count_ + 1) / 2) {
      for (const char*& run : ahead.run) {
        run = rows_;
        if (--row_count_ > 0) rows_ += row_bytes_;
      }
      ahead.step = row_step_;
    } else if (token_ < band_end_) {
      ahead.run[0] = reinterpret_cast<const char*>(x_[token_++] + begin_);
      ahead.run[1] = ahead.run[0] + kBlockCols * 2;
      ahead.step = 64;
    }
    return ahead;
  }

 private:
  const char* rows_ = nullptr;
  int64_t row_count_ = 0, row_bytes_ = 0, row_step_ = 0;
  const float* const* x_ = nullptr;
  int64_t token_ = 0, band_end_ = 0, last_token_ = 0, begin_ = 0, tokens_of_band_ = 0;
};

// `tiles` tiles of N tokens each, x from the first on: columns [begin, begin + cols) times the R rows of `weights`,
// to `totals` [token, R], or added to what the columns before have left there. `tiles_after` follow in the same band.
template <int R, int N>
void wide_tiles(const float* weights, const float* const* x, int64_t tiles, int64_t tiles_after, int64_t begin,
                int64_t cols, WideRequests& requests, float* totals) {
  for (int64_t tile = 0; tile < tiles; ++tile, x += N, totals += N * R) {
    __m512 sums[N * R];
#pragma GCC unroll 24
    for (int i = 0; i < N * R; ++i) sums[i] = _mm512_setzero_ps();
    const WideAhead ahead = requests.next(tiles - tile + tiles_after, weights);
    const char* first_line = ahead.run[0];
    const char* second_line = ahead.run[1];
    const float* tokens[N];
    for (int t = 0; t < N; ++t) tokens[t] = x[t] + begin;
    const auto step = [&](int64_t k) {
      __m512 xs[N];
#pragma GCC unroll 6
      for (int t = 0; t < N; ++t) xs[t] = _mm512_loadu_ps(tokens[t] + k);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        __m512 value = _mm512_load_ps(weights + r * kWideStride + k);
        asm("" : "+v"(value));  // one load, not one for each token
#pragma GCC unroll 6
        for (int t = 0; t < N; ++t) sums[t * R + r] = _mm512_fmadd_ps(value, xs[t], sums[t * R + r]);
      }
    };
    for (int64_t k = 0; k < cols; k += 32) {
      _mm_prefetch(first_line, _MM_HINT_T1);
      first_line += ahead.step;
      step(k);
      _mm_prefetch(second_line, _MM_HINT_T1);
      second_line += ahead.step;
      step(k + 16);
    }
    constexpr int kTogether = N * R / 16 * 16;
    if constexpr (kTogether == 16) {
      __m512 all[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) all[i] = sums[i];
      const __m512 sum = sum16(all);
      _mm512_storeu_ps(totals, begin == 0 ? sum : _mm512_add_ps(_mm512_loadu_ps(totals), sum));
    }
#pragma GCC unroll 2
    for (int i = kTogether; i < N * R; i += 4) {
      const __m128 sum = sum4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]);
      _mm_store_ps(totals + i, begin == 0 ? sum : _mm_add_ps(_mm_load_ps(totals + i), sum));
    }
  }
}

using WideTiles = void (*)(const float* weights, const float* const* x, int64_t tiles, int64_t tiles_after,
                           int64_t begin, int64_t cols, WideRequests& requests, float* totals);
// By the number of tokens, less 1.
template <int R>
constexpr auto kWideTiles = []<size_t... N>(std::index_sequence<N...>) {
  return std::array<WideTiles, sizeof...(N)>{wide_tiles<R, N + 1>...};
}
(std::make_index_sequence<kTileTokens<R>>());

// Tokens [first, first + count), all tiles of which have the same number or one more.
struct WidePass {
  int64_t first, count;
};

// Rows [row_begin, row_end), not more than a section, times a pass of tokens; `next_rows` times `next` follows.
template <bool kFp8, int R>
void multiply_pass(const Weight& w, int64_t row_begin, int64_t row_end, const NextRows& next_rows,
                   const float* const* x, const WidePass& pass, const WidePass& next, float* const* y, int64_t y_row) {
  const int64_t tiles = (pass.count + kTileTokens<R> - 1) / kTileTokens<R>;
  const auto each = static_cast<size_t>(pass.count / tiles);
  const int64_t larger = pass.count % tiles;
  const int64_t bands = (row_end - row_begin + R - 1) / R;
  x += pass.first;
  for (int64_t begin = 0; begin < w.cols; begin += kBlockCols) {
    const int64_t end = std::min(w.cols, begin + kBlockCols);
    const int64_t cols = (end - begin + 31) / 32 * 32;
    WideRequests requests;
    if (end < w.cols) {
      requests.ask_tokens(x, 0, pass.count, end, bands);
    } else {
      requests.ask_tokens(x, next.first - pass.first, next.count, 0, bands);
    }
    float* totals = wide_memory.totals;
    for (int64_t row = row_begin; row < row_end; row += R, totals += pass.count * R) {
      float* weights = wide_memory.weights;
      widen_band<kFp8>(w, row, std::min<int64_t>(R, row_end - row), begin, end, weights);
      if (row + R < row_end) {
        requests.ask_rows({&w, row + R, row_end}, R, begin, tiles);
      } else if (end < w.cols) {
        requests.ask_rows({&w, row_begin, row_end}, R, end, tiles);
      } else {
        requests.ask_rows(next_rows, R, 0, tiles);
      }
      const int64_t tokens = larger * static_cast<int64_t>(each + 1);
      if (larger > 0) kWideTiles<R>[each](weights, x, larger, tiles - larger, begin, cols, requests, totals);
      kWideTiles<R>[each - 1](weights, x + tokens, tiles - larger, 0, begin, cols, requests, totals + tokens * R);
    }
  }
  // A token's sums lie in as many places as there are bands: they are put side by side here, not by the tiles, whose
  // short stores to rows far apart would cost more than this.
  for (int64_t t = 0; t < pass.count; ++t) {
    const float* from = wide_memory.totals + t * R;
    float* to = y[pass.first + t] + y_row;
    int64_t rows = row_end - row_begin;
    for (; rows >= R; rows -= R, from += pass.count * R, to += R) std::memcpy(to, from, R * sizeof(float));
    std::copy_n(from, rows, to);
  }
}

template <bool kFp8>
void wide_products(const Weight& w, int64_t row_begin, int64_t row_end, const float* const* x, int64_t T,
                   float* const* y, const NextRows& following) {
  const auto multiply = T <= kFewTokens ? multiply_pass<kFp8, kFewBandRows> : multiply_pass<kFp8, kMostBandRows>;
  const Groups passes(T, kPassTokens);
  const auto pass = [&](int64_t i) { return WidePass{passes.first(i), passes.size(i)}; };
  for (int64_t row = row_begin; row < row_end;) {
    const int64_t end = std::min(row_end, (row / kSectionRows + 1) * kSectionRows);
    for (int64_t i = 0; i < passes.count; ++i) {
      const NextRows next = i + 1 < passes.count ? NextRows{&w, row, end}
                            : end < row_end      ? NextRows{&w, end, row_end}
                                                 : following;
      multiply(w, row, end, next, x, pass(i), pass((i + 1) % passes.count), y, row - row_begin);
    }
    row = end;
  }
}

template <bool kFp8>
void products(const Weight& w, int64_t row_begin, int64_t row_end, const float* const* x, int64_t T, float* const* y,
              const NextRows& next) {
  T <= kStreamTokens ? stream_products<kFp8>(w, row_begin, row_end, x, T, y, next)
                     : wide_products<kFp8>(w, row_begin, row_end, x, T, y, next);
}

}  // namespace

void FATHOM_AVX512(widened_rows)(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w,
                                 int64_t row_begin, int64_t row_end, float* y, int64_t y_stride, const NextRows& next) {
  const FlushSubnormals flush;
  cast_tables.forget();
  for (int64_t t0 = 0; t0 < T; t0 += kMostTokens) {
    const int64_t n = std::min(T - t0, kMostTokens);
    const float* xs[kMostTokens];
    float* ys[kMostTokens];
    for (int64_t t = 0; t < n; ++t) {
      xs[t] = x.wide_row(row_index != nullptr ? row_index[t0 + t] : t0 + t);
      ys[t] = y + (t0 + t) * y_stride;
    }
    w.dtype == DType::f8_e4m3 ? products<true>(w, row_begin, row_end, xs, n, ys, next)
                              : products<false>(w, row_begin, row_end, xs, n, ys, next);
  }
}

void FATHOM_AVX512(widen_row)(const uint16_t* row, int64_t cols, float* out) {
  widen(row, cols, out);
}

}  // namespace fathom
#endif
