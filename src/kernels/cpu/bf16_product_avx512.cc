#include "kernels/cpu/bf16_product_avx512.h"

#include <algorithm>

#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/cpu/bf16_avx512.h"
#include "kernels/cpu/bf16_tiles_avx512.h"

namespace fathom {
namespace {

// How far ahead of each run of rows the next bytes are asked for. Four runs are 8 KB in flight; with FP8 in a mapped
// file 1 KB gives 92 % of a streaming read, 2 KB 98 to 101 %, 4 KB 90 to 97 %.
constexpr int64_t kAheadBytes = 2048;

// Tokens of a tile: what fits into the registers beside four rows.
template <bool kFp8>
constexpr int kTileTokens = kFp8 ? 4 : 6;

// R rows of FP8 times N tokens over columns [begin, end); `table` is that of column `begin`, whose block ends at
// `boundary`. Each row's bytes `ahead` further are asked for if that is not 0.
template <int R, int N>
inline void add_products_fp8(const TileRows<R>& rows, const uint8_t* table, int64_t boundary, int64_t block_cols,
                             const uint16_t* const* x, int64_t begin, int64_t end, int64_t ahead,
                             __m512 (&sums)[R][N]) {
  // Two rows are decoded at a time: their values fit into the registers beside the sums.
  constexpr int kTogether = R == 1 ? 1 : 2;
  for (int64_t k = begin; k < end; boundary += block_cols, table += kE4m3TableBytes) {
    const int64_t piece_end = std::min(end, boundary);
    const E4m3Decoder decoder(table);
    const auto step = [&](auto load) {
#pragma GCC unroll 4
      for (int r0 = 0; r0 < R; r0 += kTogether) {
        Bf16Pairs first[kTogether];
        Bf16Pairs last[kTogether];
#pragma GCC unroll 2
        for (int r = 0; r < kTogether; ++r) {
          const std::byte* at = rows.at[r0 + r] + k;
          if (ahead != 0) _mm_prefetch(reinterpret_cast<const char*>(at) + ahead, _MM_HINT_T0);
          __m512i values[2];
          decoder.decode(load(at), &values[0], &values[1]);
          first[r] = pairs_of(values[0]);
          last[r] = pairs_of(values[1]);
        }
#pragma GCC unroll 4
        for (int t = 0; t < N; ++t) {
          const Bf16Pairs x0 = pairs_of(_mm512_loadu_si512(x[t] + k));
          const Bf16Pairs x1 = pairs_of(_mm512_loadu_si512(x[t] + k + 32));
#pragma GCC unroll 2
          for (int r = 0; r < kTogether; ++r) {
            sums[r0 + r][t] = dot(sums[r0 + r][t], first[r], x0);
            sums[r0 + r][t] = dot(sums[r0 + r][t], last[r], x1);
          }
        }
      }
    };
    // Whole steps load without a mask: the hardware's prefetcher does not follow masked loads (measured: a third of the
    // bandwidth).
    for (; k + 64 <= piece_end; k += 64) step([](const std::byte* at) { return _mm512_loadu_si512(at); });
    if (k < piece_end) {
      const __mmask64 mask = (__mmask64{1} << (piece_end - k)) - 1;
      step([mask](const std::byte* at) { return _mm512_maskz_loadu_epi8(mask, at); });
      k = piece_end;
    }
  }
}

// What a tile asks for meanwhile.
struct Ahead {
  int64_t rows = 0;                 // the bytes so far ahead of each of its rows, if not 0
  const std::byte* next = nullptr;  // or the tile's columns of four other rows, `stride` bytes apart
  int64_t stride = 0;
  int64_t element = 0;  // bytes of a value of these rows
};

// The same for BF16.
template <int R, int N>
inline void add_products_bf16(const TileRows<R>& rows, const uint16_t* const* x, int64_t begin, int64_t end,
                              const Ahead& ahead, __m512 (&sums)[R][N]) {
  int64_t k = begin;
  const auto step = [&](auto load) {
    Bf16Pairs values[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const std::byte* at = rows.at[r] + 2 * k;
      if (ahead.rows != 0) _mm_prefetch(reinterpret_cast<const char*>(at) + ahead.rows, _MM_HINT_T0);
      values[r] = pairs_of(load(at));
    }
#pragma GCC unroll 6
    for (int t = 0; t < N; ++t) {
      const Bf16Pairs xs = pairs_of(_mm512_loadu_si512(x[t] + k));
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sums[r][t] = dot(sums[r][t], values[r], xs);
    }
  };
  const auto whole = [](const std::byte* at) { return _mm512_loadu_si512(at); };
  while (k + 64 <= end) {
    if (ahead.next != nullptr) {
      const auto* line = reinterpret_cast<const char*>(ahead.next) + (k - begin) * ahead.element;
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r, line += ahead.stride) {
        _mm_prefetch(line, _MM_HINT_T0);
        if (ahead.element == 2) _mm_prefetch(line + 64, _MM_HINT_T0);
      }
    }
    step(whole);
    k += 32;
    step(whole);
    k += 32;
  }
  for (; k + 32 <= end; k += 32) step(whole);
  if (k < end) {
    const __mmask32 mask = (__mmask32{1} << (end - k)) - 1;
    step([mask](const std::byte* at) { return _mm512_maskz_loadu_epi16(mask, at); });
  }
}

// Puts the sums of a block of columns into y (the first block, `begin` = 0) or adds them to it.
template <int R, int N>
inline void finish_tile(const __m512 (&sums)[R][N], int64_t begin, int64_t spacing, float* const* y, int64_t y_row) {
#pragma GCC unroll 6
  for (int t = 0; t < N; ++t) {
    const __m128 block = sum4(sums[0][t], sums[1 % R][t], sums[2 % R][t], sums[3 % R][t]);
    float* out = y[t] + y_row;
    if (R == 4 && spacing == 1) {
      _mm_storeu_ps(out, begin == 0 ? block : _mm_add_ps(_mm_loadu_ps(out), block));
    } else {
      alignas(16) float part[4];
      _mm_store_ps(part, block);
      for (int r = 0; r < R; ++r) out[r * spacing] = begin == 0 ? part[r] : out[r * spacing] + part[r];
    }
  }
}

// Block [begin, end) of the sum of R rows and N tokens.
template <bool kFp8, int R, int N>
void tile(const Weight& w, const uint8_t* tables, int64_t row, int64_t spacing, const uint16_t* const* x, int64_t begin,
          int64_t end, const Ahead& ahead, float* const* y, int64_t y_row) {
  const TileRows<R> rows(w, row, spacing, kFp8 ? 1 : 2);
  __m512 sums[R][N];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 6
    for (int t = 0; t < N; ++t) sums[r][t] = _mm512_setzero_ps();
  }
  if constexpr (kFp8) {
    const int64_t block = begin / w.block_cols;
    add_products_fp8<R, N>(rows, tables + block * kE4m3TableBytes, (block + 1) * w.block_cols, w.block_cols, x, begin,
                           end, ahead.rows, sums);
  } else {
    add_products_bf16<R, N>(rows, x, begin, end, ahead, sums);
  }
  finish_tile<R, N>(sums, begin, spacing, y, y_row);
}

using Tile = void (*)(const Weight& w, const uint8_t* tables, int64_t row, int64_t spacing, const uint16_t* const* x,
                      int64_t begin, int64_t end, const Ahead& ahead, float* const* y, int64_t y_row);
template <bool kFp8, int R>
constexpr Tile kTileOf[] = {nullptr,
                            tile<kFp8, R, 1>,
                            tile<kFp8, R, 2>,
                            tile<kFp8, R, 3>,
                            tile<kFp8, R, 4>,
                            tile<kFp8, R, kFp8 ? 4 : 5>,
                            tile<kFp8, R, kFp8 ? 4 : 6>};

template <bool kFp8>
void stream_products(const Weight& w, int64_t row_begin, int64_t row_end, const uint16_t* const* x, int64_t T,
                     float* const* y) {
  const DotScope scope;
  constexpr int64_t kRuns = 4;
  const Groups groups(T, kTileTokens<kFp8>);
  stream_tiles<kFp8, kAheadBytes, kRuns>(w, row_begin, row_end, {}, groups, [&](const StreamTile& at) {
    const Tile* tiles = at.rows == kRuns ? kTileOf<kFp8, kRuns> : kTileOf<kFp8, 1>;
    for (int64_t begin = 0; begin < w.cols; begin += kBlockCols) {
      Ahead ahead;
      ahead.rows = at.ahead_of(begin);
      tiles[at.count](w, at.tables, at.row, at.spacing, x + at.first, begin, std::min(w.cols, begin + kBlockCols),
                      ahead, y + at.first, at.y_row);
    }
  });
}

// How rows and tokens are cut: `rows` of weights in BF16 meet `groups` groups of tokens.
struct Cut {
  int64_t rows, groups;
};
// Some tokens: they stay in the first-level cache, and the rows pass by four.
constexpr Cut kFewTokens{4, 3};
// Many: rows and tokens lie in the second-level cache (128 KB and 384 KB).
constexpr Cut kManyTokens{64, 32};
// Where the second cut is the better one.
constexpr int64_t kManyFrom = 48;

// Row stride of a block of weights in BF16: not a multiple of 4 KB, so that the rows fall on different sets of the
// cache.
constexpr int64_t kCastStride = kBlockCols + 32;
struct alignas(64) CastBlock {
  uint16_t values[kManyTokens.rows * kCastStride];
};
thread_local CastBlock cast_block;

// Rows [row, end) and columns [begin, stop) of FP8 weights as BF16, four rows at a time so that they share the tables.
void cast_rows(const Weight& w, int64_t row, int64_t end, int64_t begin, int64_t stop, uint16_t* out) {
  const auto store = [](const E4m3Decoder& decoder, __m512i codes, uint16_t* to) {
    __m512i first;
    __m512i last;
    decoder.decode(codes, &first, &last);
    _mm512_store_si512(to, first);
    _mm512_store_si512(to + 32, last);
  };
  const int64_t first_block = begin / w.block_cols;
  while (row < end) {
    const int64_t rows = std::min({int64_t{4}, end - row, w.block_rows - row % w.block_rows});
    const std::byte* codes = w.row(row);
    const uint8_t* table = cast_tables.of_row(w, row) + first_block * kE4m3TableBytes;
    int64_t boundary = (first_block + 1) * w.block_cols;
    for (int64_t k = begin; k < stop; boundary += w.block_cols, table += kE4m3TableBytes) {
      const int64_t piece_end = std::min(stop, boundary);
      const E4m3Decoder decoder(table);
      const auto step = [&](auto load) {
        for (int64_t r = 0; r < rows; ++r) {
          store(decoder, load(codes + r * w.row_stride + k), out + r * kCastStride + (k - begin));
        }
      };
      for (; k + 64 <= piece_end; k += 64) step([](const std::byte* at) { return _mm512_loadu_si512(at); });
      if (k < piece_end) {
        const __mmask64 mask = (__mmask64{1} << (piece_end - k)) - 1;
        step([mask](const std::byte* at) { return _mm512_maskz_loadu_epi8(mask, at); });
        k = piece_end;
      }
    }
    row += rows;
    out += rows * kCastStride;
  }
}

// More than a few tokens: a block of rows and columns, FP8 brought to BF16 first, meets some groups of tokens. The
// first tiles ask for the rows that come next.
template <bool kFp8>
void block_products(const Weight& w, int64_t row_begin, int64_t row_end, const uint16_t* const* x, int64_t T,
                    float* const* y) {
  const DotScope scope;
  constexpr int64_t kElement = kFp8 ? 1 : 2;
  const int64_t K = w.cols;
  const Groups groups(T, kTileTokens<false>);
  const Cut cut = T < kManyFrom ? kFewTokens : kManyTokens;
  for (int64_t begin = 0; begin < K; begin += kBlockCols) {
    const int64_t stop = std::min(K, begin + kBlockCols);
    for (int64_t first = 0; first < groups.count; first += cut.groups) {
      const int64_t last = std::min(first + cut.groups, groups.count);
      for (int64_t row = row_begin; row < row_end; row += cut.rows) {
        const int64_t rows = std::min(cut.rows, row_end - row);
        // The block as a weight of its own, whose column 0 stands for column `begin`.
        Weight block = w;
        block.dtype = DType::bf16;
        block.data = w.row(row);
        if (kFp8) {
          cast_rows(w, row, row + rows, begin, stop, cast_block.values);
          block.data = reinterpret_cast<const std::byte*>(cast_block.values) - 2 * begin;
          block.row_stride = kCastStride;
        }
        const bool more_rows = row + rows < row_end;
        const int64_t next_row = more_rows ? row + rows : row_begin;
        const int64_t next_begin = more_rows || last < groups.count ? begin : stop;
        int64_t asked = next_begin < K ? 0 : rows;
        for (int64_t g = first; g < last; ++g) {
          const int64_t t = groups.first(g);
          int64_t r = 0;
          for (; r + 4 <= rows; r += 4) {
            Ahead ahead;
            if (asked + 4 <= std::min(rows, row_end - next_row)) {
              ahead = {0, w.row(next_row + asked) + next_begin * kElement, w.row_stride * kElement, kElement};
              asked += 4;
            }
            kTileOf<false, 4>[groups.size(g)](block, nullptr, r, 1, x + t, begin, stop, ahead, y + t,
                                              row - row_begin + r);
          }
          for (; r < rows; ++r) {
            kTileOf<false, 1>[groups.size(g)](block, nullptr, r, 1, x + t, begin, stop, Ahead{}, y + t,
                                              row - row_begin + r);
          }
        }
      }
    }
  }
}

template <bool kFp8>
void products(const Weight& w, int64_t row_begin, int64_t row_end, const uint16_t* const* x, int64_t T,
              float* const* y) {
  if (T <= kStreamTokens) {
    stream_products<kFp8>(w, row_begin, row_end, x, T, y);
  } else {
    block_products<kFp8>(w, row_begin, row_end, x, T, y);
  }
}

}  // namespace

void FATHOM_AVX512(bf16_rows)(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w,
                              int64_t row_begin, int64_t row_end, float* y, int64_t y_stride) {
  const bool fp8 = w.dtype == DType::f8_e4m3;
  cast_tables.forget();
  for (int64_t t0 = 0; t0 < T; t0 += kMostTokens) {
    const int64_t n = std::min(T - t0, kMostTokens);
    const uint16_t* xs[kMostTokens];
    float* ys[kMostTokens];
    for (int64_t t = 0; t < n; ++t) {
      xs[t] = x.bf16_row(row_index != nullptr ? row_index[t0 + t] : t0 + t);
      ys[t] = y + (t0 + t) * y_stride;
    }
    fp8 ? products<true>(w, row_begin, row_end, xs, n, ys) : products<false>(w, row_begin, row_end, xs, n, ys);
  }
}

}  // namespace fathom
#endif
