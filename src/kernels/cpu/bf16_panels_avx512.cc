#include "kernels/cpu/bf16_panels_avx512.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/bf16_panels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace fathom {
namespace {

constexpr int kVectors = kBf16PanelRows / 16;
constexpr int kLanes = 16;
constexpr int kTileTokens = 6;
// Tokens whose block of columns stays in the second-level cache (384 KB) while panels pass.
constexpr int64_t kRunTokens = 192;

// Lanes in the order in which their sums are added: 8 + 8, 4 + 4, 2 + 2, 1 + 1 of a register, neighbours first here.
constexpr std::array<int, kLanes> kLaneOrder = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};

inline __m512bh as_bf16(__m512i bits) {
  return reinterpret_cast<__m512bh>(bits);
}

// A block of columns of one panel times N tokens: `x` points at the block's columns, y at the panel's rows.
template <int N>
void tile(const uint16_t* block, int64_t steps, const uint16_t* const* x, float* const* y, bool first) {
  // Sums of 1, 2, 4 and 8 lanes that wait for their neighbours.
  alignas(64) __m512 waiting[4][kVectors][N];
  for (int i = 0; i < kLanes; ++i) {
    const int lane = kLaneOrder[static_cast<size_t>(i)];
    const uint16_t* weights = block + lane * steps * kBf16PanelRows * 2;
    __m512 sums[kVectors][N];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 6
      for (int t = 0; t < N; ++t) sums[v][t] = _mm512_setzero_ps();
    }
    for (int64_t step = 0; step < steps; ++step) {
      __m512bh rows[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        rows[v] = as_bf16(_mm512_loadu_si512(weights + (step * kBf16PanelRows + 16 * v) * 2));
      }
#pragma GCC unroll 6
      for (int t = 0; t < N; ++t) {
        int32_t pair;
        std::memcpy(&pair, x[t] + 32 * step + 2 * lane, sizeof(pair));
        const __m512bh value = as_bf16(_mm512_set1_epi32(pair));
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums[v][t] = _mm512_dpbf16_ps(sums[v][t], rows[v], value);
      }
    }
    int level = 0;
    for (; (i >> level & 1) != 0; ++level) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 6
        for (int t = 0; t < N; ++t) sums[v][t] = _mm512_add_ps(waiting[level][v][t], sums[v][t]);
      }
    }
    if (i + 1 < kLanes) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 6
        for (int t = 0; t < N; ++t) waiting[level][v][t] = sums[v][t];
      }
      continue;
    }
#pragma GCC unroll 6
    for (int t = 0; t < N; ++t) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        float* out = y[t] + 16 * v;
        _mm512_storeu_ps(out, first ? sums[v][t] : _mm512_add_ps(_mm512_loadu_ps(out), sums[v][t]));
      }
    }
  }
}

using Tile = void (*)(const uint16_t* block, int64_t steps, const uint16_t* const* x, float* const* y, bool first);
constexpr Tile kTiles[] = {nullptr, tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};

// Sixteen registers of sixteen dwords turned around: out[i] holds dword i of each.
inline void turn16(__m512i (&m)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(m[2 * i], m[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(m[2 * i], m[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    m[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    m[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    m[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    m[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(m[i], m[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(m[i], m[4 + i], 0xdd);
    t[8 + i] = _mm512_shuffle_i32x4(m[8 + i], m[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(m[8 + i], m[12 + i], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    m[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    m[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    m[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
    m[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
  }
}

}  // namespace

void make_bf16_panel_block_avx512(const uint16_t* rows, int64_t row_stride, int64_t cols, uint16_t* out) {
  const int64_t steps = cols / 32;
  for (int64_t step = 0; step < steps; ++step) {
    for (int v = 0; v < kVectors; ++v) {
      __m512i m[kLanes];
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; ++r) m[r] = _mm512_loadu_si512(rows + (16 * v + r) * row_stride + 32 * step);
      turn16(m);
#pragma GCC unroll 16
      for (int lane = 0; lane < kLanes; ++lane) {
        _mm512_storeu_si512(out + ((lane * steps + step) * kBf16PanelRows + 16 * v) * 2, m[lane]);
      }
    }
  }
}

void bf16_panel_block_avx512(const uint16_t* block, int64_t cols, const uint16_t* const* x, int64_t T, float* const* y,
                             bool first) {
  const int64_t groups = (T + kTileTokens - 1) / kTileTokens;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t t = g * T / groups;
    kTiles[(g + 1) * T / groups - t](block, cols / 32, x + t, y + t, first);
  }
}

void bf16_panel_rows_avx512(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w,
                            int64_t row_begin, int64_t row_end, float* y, int64_t y_stride) {
  for (int64_t t0 = 0; t0 < T; t0 += kRunTokens) {
    const int64_t run = std::min(kRunTokens, T - t0);
    for (int64_t begin = 0; begin < w.cols; begin += kBf16BlockCols) {
      const int64_t steps = std::min(kBf16BlockCols, w.cols - begin) / 32;
      for (int64_t row = row_begin; row < row_end; row += kBf16PanelRows) {
        const uint16_t* block = w.panels + row * w.cols + begin * kBf16PanelRows;
        const uint16_t* xs[kRunTokens];
        float* ys[kRunTokens];
        for (int64_t t = 0; t < run; ++t) {
          xs[t] = x.bf16_row(row_index != nullptr ? row_index[t0 + t] : t0 + t) + begin;
          ys[t] = y + (t0 + t) * y_stride + (row - row_begin);
        }
        bf16_panel_block_avx512(block, 32 * steps, xs, run, ys, begin == 0);
      }
    }
  }
}

}  // namespace fathom
#endif
