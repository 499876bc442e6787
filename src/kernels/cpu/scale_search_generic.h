#pragma once
// Quantising with a choice of scales, written once and compiled once per instruction set. Sixteen rows are lanes of the
// vectors, so that a group's sums cross none; products and sums are not fused, so that every set gives the same bytes.

#include <array>

#include "kernels/cpu/integer_generic.h"
#include "kernels/cpu/scale_search_kernels.h"
#include "kernels/cpu/vectors.h"

namespace fathom {
namespace {

// Scales that are tried, as parts of the nearest one, evenly from the first to the last. Measured in docs/weights.md:
// eight bits gain little, and nothing far below the nearest scale.
struct ScaleGrid {
  int count;
  float first, last;
};
constexpr ScaleGrid kGrid4 = {6, 0.98f, 0.73f};
constexpr ScaleGrid kGrid8 = {2, 0.99f, 0.96f};
constexpr int kMostScales = 8;

// Sixteen rows of one group, columns outermost, and what is decided about each row.
struct RowBlock {
  alignas(64) float values[kMaxGroup * kPanel];
  alignas(64) float codes[2][kMaxGroup * kPanel];     // code − zero with the nearest and with the searched scale
  alignas(64) float scale[2][kPanel];                 // 0 where all values are
  alignas(64) float divisor[2][kPanel];               // the scale, 1 where that is 0
  alignas(64) float least[kPanel], greatest[kPanel];  // of code − zero
  alignas(64) float plain[2][kPanel], weighted[2][kPanel];
  alignas(64) float low[kPanel], high[kPanel], squares[kPanel];
  alignas(64) float odd[kPanel];  // not 0 where a value is not finite
  uint8_t zero[kPanel];
};

template <class V>
void look_at_values(RowBlock& block, int64_t n) {
  using F = typename V::F;
  for (int lane = 0; lane < kPanel; lane += V::width) {
    F low = V::zero();
    F high = V::zero();
    F odd = V::zero();
    F squares = V::zero();
    for (int64_t k = 0; k < n; ++k) {
      const F x = V::load(block.values + k * kPanel + lane);
      low = V::min(x, low);
      high = V::max(x, high);
      odd = V::add(odd, V::mul(x, V::zero()));
      squares = V::add(squares, V::mul(x, x));
    }
    V::store(block.low + lane, low);
    V::store(block.high + lane, high);
    V::store(block.odd + lane, odd);
    V::store(block.squares + lane, squares);
  }
}

// The scale and zero of `quantize_group`.
inline void choose_nearest(RowBlock& block, const IntegerFormat& format) {
  const bool eight = format.bits == 8;
  for (int j = 0; j < kPanel; ++j) {
    const float levels = eight ? 255.0f : 15.0f;
    float zero = eight ? 128.0f : 8.0f;
    float least = eight ? -127.0f : -7.0f;
    float greatest = -least;
    float scale;
    if (format.zero_point) {
      scale = bf16_to_f32(bf16_not_below(block.high[j] / levels - block.low[j] / levels));
      if (scale > 0) zero = std::min(round_even(-block.low[j] / scale), levels);
      least = -zero;
      greatest = levels + least;
    } else {
      scale = bf16_to_f32(bf16_not_below(std::max(block.high[j], -block.low[j]) / greatest));
    }
    const bool some = scale > 0;
    block.scale[0][j] = some ? scale : 0;
    block.divisor[0][j] = some ? scale : 1;
    block.zero[j] = static_cast<uint8_t>(static_cast<int32_t>(zero));
    block.least[j] = some ? least : 0;
    block.greatest[j] = some ? greatest : 0;
  }
}

// Codes and errors of one of the two choices of scales.
template <class V, bool kWeighted>
void evaluate(RowBlock& block, int64_t n, const float* importance, int which) {
  using F = typename V::F;
  for (int lane = 0; lane < kPanel; lane += V::width) {
    const F divisor = V::load(block.divisor[which] + lane);
    const F least = V::load(block.least + lane);
    const F greatest = V::load(block.greatest + lane);
    F plain = V::zero();
    F weighted = V::zero();
    for (int64_t k = 0; k < n; ++k) {
      const F x = V::load(block.values + k * kPanel + lane);
      const F q = V::min(V::max(V::nearest(V::div(x, divisor)), least), greatest);
      V::store(block.codes[which] + k * kPanel + lane, q);
      const F difference = V::sub(x, V::mul(q, divisor));
      const F square = V::mul(difference, difference);
      plain = V::add(plain, square);
      if constexpr (kWeighted) weighted = V::add(weighted, V::mul(V::set1(importance[k]), square));
    }
    V::store(block.plain[which] + lane, plain);
    V::store(block.weighted[which] + lane, kWeighted ? weighted : plain);
  }
}

// Scales with the least error, each for the codes that a scale of the grid gives.
template <class V, bool kWeighted>
void search_scales(RowBlock& block, int64_t n, const float* importance, const ScaleGrid& grid) {
  using F = typename V::F;
  alignas(64) float products[kMostScales][kPanel];
  alignas(64) float squares[kMostScales][kPanel];
  float inverse_parts[kMostScales] = {};
  for (int i = 0; i < grid.count; ++i) {
    const float step = grid.count > 1 ? (grid.last - grid.first) / static_cast<float>(grid.count - 1) : 0;
    inverse_parts[i] = 1 / (grid.first + step * static_cast<float>(i));
  }
  constexpr int kTogether = 2;
  for (int lane = 0; lane < kPanel; lane += V::width) {
    const F least = V::load(block.least + lane);
    const F greatest = V::load(block.greatest + lane);
    const F inverse = V::div(V::set1(1), V::load(block.divisor[0] + lane));
    for (int i = 0; i < grid.count; i += kTogether) {
      F factor[kTogether];
      F product[kTogether];
      F square[kTogether];
      for (int c = 0; c < kTogether; ++c) {
        factor[c] = V::mul(inverse, V::set1(inverse_parts[i + c]));
        product[c] = square[c] = V::zero();
      }
      for (int64_t k = 0; k < n; ++k) {
        const F x = V::load(block.values + k * kPanel + lane);
        for (int c = 0; c < kTogether; ++c) {
          const F q = V::min(V::max(V::nearest(V::mul(x, factor[c])), least), greatest);
          const F weighted = kWeighted ? V::mul(V::set1(importance[k]), q) : q;
          product[c] = V::add(product[c], V::mul(weighted, x));
          square[c] = V::add(square[c], V::mul(weighted, q));
        }
      }
      for (int c = 0; c < kTogether; ++c) {
        V::store(products[i + c] + lane, product[c]);
        V::store(squares[i + c] + lane, square[c]);
      }
    }
  }
  for (int j = 0; j < kPanel; ++j) {
    float gained = 0;
    float best = block.scale[0][j];
    for (int i = 0; i < grid.count; ++i) {
      // Of what the group's numbers weigh, Σ c w², these codes leave all but this, with the scale that fits them best.
      const float gain = products[i][j] * (products[i][j] / squares[i][j]);
      if (gain > gained) {
        gained = gain;
        best = products[i][j] / squares[i][j];
      }
    }
    const float scale = bf16_to_f32(f32_to_bf16(best));
    const bool some = block.scale[0][j] > 0 && scale > 0 && scale < std::numeric_limits<float>::infinity();
    block.scale[1][j] = some ? scale : block.scale[0][j];
    block.divisor[1][j] = some ? scale : block.divisor[0][j];
  }
}

// The chosen codes of the block's first `rows` rows into words; those behind the row's last column stay 0.
inline void store_words(const RowBlock& block, const std::array<int, kPanel>& chosen, int64_t rows, int64_t n, int bits,
                        std::byte* words, int64_t stride) {
  const int64_t per_word = 32 / bits;
  alignas(64) float zero[kPanel];
  alignas(64) int32_t second[kPanel];
  for (int j = 0; j < kPanel; ++j) {
    zero[j] = block.zero[j];
    second[j] = -chosen[static_cast<size_t>(j)];
  }
  for (int64_t k = 0; k < n; k += per_word, words += 4) {
    alignas(64) uint32_t word[kPanel] = {};
    for (int64_t i = 0; i < std::min(per_word, n - k); ++i) {
      const float* a = block.codes[0] + (k + i) * kPanel;
      const float* b = block.codes[1] + (k + i) * kPanel;
      const auto shift = static_cast<uint32_t>(bits * i);
      for (int j = 0; j < kPanel; ++j) {
        const auto from_a = static_cast<int32_t>(a[j] + zero[j]);
        const auto from_b = static_cast<int32_t>(b[j] + zero[j]);
        word[j] |= static_cast<uint32_t>((from_a & ~second[j]) | (from_b & second[j])) << shift;
      }
    }
    for (int64_t j = 0; j < rows; ++j) std::memcpy(words + j * stride, &word[j], sizeof(word[j]));
  }
}

template <class V>
QuantizationError quantize_rows_generic(const float* w, int64_t rows, int64_t cols, const float* importance,
                                        const IntegerFormat& format, ScaleChoice choice, std::byte* words,
                                        uint16_t* scales, uint8_t* zeros) {
  const ScaleGrid& grid = format.bits == 8 ? kGrid8 : kGrid4;
  const int64_t groups = packed_groups(format, cols);
  const int64_t stride = packed_words(format, cols) * 4;
  QuantizationError sum;
  RowBlock block = {};
  for (int64_t first = 0; first < rows; first += kPanel) {
    const int64_t count = std::min<int64_t>(kPanel, rows - first);
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = g * format.group;
      const int64_t n = std::min(format.group, cols - begin);
      const float* part = importance != nullptr ? importance + begin : nullptr;
      for (int64_t j = 0; j < kPanel; ++j) {
        const float* row = w + (first + j) * cols + begin;
        for (int64_t k = 0; k < n; ++k) block.values[k * kPanel + j] = j < count ? row[k] : 0;
      }
      look_at_values<V>(block, n);
      choose_nearest(block, format);
      part != nullptr ? evaluate<V, true>(block, n, part, 0) : evaluate<V, false>(block, n, part, 0);
      std::array<int, kPanel> chosen{};
      if (choice == ScaleChoice::search) {
        part != nullptr ? search_scales<V, true>(block, n, part, grid) : search_scales<V, false>(block, n, part, grid);
        part != nullptr ? evaluate<V, true>(block, n, part, 1) : evaluate<V, false>(block, n, part, 1);
        for (size_t j = 0; j < kPanel; ++j) chosen[j] = block.weighted[1][j] < block.weighted[0][j] ? 1 : 0;
      }
      store_words(block, chosen, count, n, format.bits, words + first * stride + begin * format.bits / 8, stride);
      for (int64_t j = 0; j < count; ++j) {
        const int which = chosen[static_cast<size_t>(j)];
        const int64_t at = (first + j) * groups + g;
        scales[at] = f32_to_bf16(block.scale[which][j]);
        if (format.zero_point) zeros[at] = block.zero[j];
        sum.squares += static_cast<double>(block.squares[j]);
        sum.error += static_cast<double>(block.plain[which][j]);
        sum.weighted += static_cast<double>(block.weighted[which][j]);
        sum.nearest_weighted += static_cast<double>(block.weighted[0][j]);
        sum.finite = sum.finite && block.odd[j] == 0;
      }
    }
  }
  return sum;
}

}  // namespace
}  // namespace fathom
