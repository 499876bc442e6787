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

}  // namespace

void bf16_panel_rows_avx512(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w,
                            int64_t row_begin, int64_t row_end, float* y, int64_t y_stride) {
  for (int64_t t0 = 0; t0 < T; t0 += kRunTokens) {
    const int64_t run = std::min(kRunTokens, T - t0);
    const int64_t groups = (run + kTileTokens - 1) / kTileTokens;
    for (int64_t begin = 0; begin < w.cols; begin += kBf16BlockCols) {
      const int64_t steps = std::min(kBf16BlockCols, w.cols - begin) / 32;
      for (int64_t row = row_begin; row < row_end; row += kBf16PanelRows) {
        const uint16_t* block = w.panels + row * w.cols + begin * kBf16PanelRows;
        for (int64_t g = 0; g < groups; ++g) {
          const int64_t first = t0 + g * run / groups;
          const int64_t n = t0 + (g + 1) * run / groups - first;
          const uint16_t* xs[kTileTokens];
          float* ys[kTileTokens];
          for (int64_t t = 0; t < n; ++t) {
            xs[t] = x.bf16_row(row_index != nullptr ? row_index[first + t] : first + t) + begin;
            ys[t] = y + (first + t) * y_stride + (row - row_begin);
          }
          kTiles[n](block, steps, xs, ys, begin == 0);
        }
      }
    }
  }
}

}  // namespace fathom
#endif
