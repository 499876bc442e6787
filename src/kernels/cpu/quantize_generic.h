#pragma once
// The functions of quantize.h in plain loops that compilers turn into vectors of whatever set a file is compiled for:
// no branch within a group, all on bits. Internal linkage: a copy compiled for AVX-512 must never be the one that the
// linker keeps for another set.

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/number_formats.h"
#include "kernels/cpu/quantize_kernels.h"

namespace fathom {
namespace {

constexpr float kGreatestE4m3 = 448.0f;
constexpr uint32_t kSign = 0x80000000u;
constexpr int32_t kInfinity = 0x7f800000;
constexpr uint32_t kLeastNormal = 0x3c800000u;  // 2^-6

// Below `least` the scale stays put, so that a group of zeros does not divide by zero.
inline float scale_of(float amax, float least, bool ue8m0) {
  const float scale = std::max(amax, least) / kGreatestE4m3;
  return ue8m0 ? next_power_of_two(scale) : scale;
}

// The magnitude's bits, whose order is that of the magnitudes; 0 for what is not a number.
inline int32_t amax_bits(float x) {
  const auto magnitude = static_cast<int32_t>(std::bit_cast<uint32_t>(x) & ~kSign);
  return magnitude > kInfinity ? 0 : magnitude;
}

inline int32_t greatest(const float* x, int64_t n) {
  int32_t most = 0;
  for (int64_t k = 0; k < n; ++k) {
    const int32_t own = amax_bits(x[k]);
    most = own > most ? own : most;
  }
  return most;
}

// Not ?:, which would become a branch around an operation of floats.
inline uint32_t choose(bool first, uint32_t a, uint32_t b) {
  const uint32_t mask = 0u - static_cast<uint32_t>(first);
  return (a & mask) | (b & ~mask);
}

// The bits of e4m3_to_f32(f32_to_e4m3(value)): the upper half is the value in BF16, the lower half 0. A sum with 2^14,
// whose last place is 2^-9, rounds subnormals to their steps.
inline uint32_t e4m3_value(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & ~kSign;
  const uint32_t small = std::bit_cast<uint32_t>((std::bit_cast<float>(magnitude) + 0x1p14f) - 0x1p14f);
  const uint32_t rounded = (magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) & 0xfff00000u;
  const uint32_t normal = std::min(rounded, std::bit_cast<uint32_t>(kGreatestE4m3));
  const uint32_t number = choose(magnitude < kLeastNormal, small, normal);
  return choose(magnitude > static_cast<uint32_t>(kInfinity), 0x7fc00000u, number) | (bits & kSign);
}

// f32_to_e4m3.
inline uint8_t e4m3_code(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & ~kSign;
  const uint32_t steps = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0x1p14f) - 0x46800000u;
  const uint32_t rounded = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20) - (120u << 3);
  const uint32_t number = choose(magnitude < kLeastNormal, steps, std::min(rounded, 0x7eu));
  return static_cast<uint8_t>(choose(magnitude > static_cast<uint32_t>(kInfinity), 0x7fu, number) |
                              (bits >> 24 & 0x80u));
}

// put(k, n, scale) for each group of n values from k on.
template <typename Put>
inline void for_groups(const float* x, int64_t K, bool ue8m0, float* scales, float least_amax, Put put) {
  for (int64_t begin = 0; begin < K; begin += kActivationGroup) {
    const int64_t n = std::min(kActivationGroup, K - begin);
    const float scale = scale_of(std::bit_cast<float>(greatest(x + begin, n)), least_amax, ue8m0);
    scales[begin / kActivationGroup] = scale;
    put(begin, n, scale);
  }
}

void quantize_activation_generic(const float* x, int64_t K, bool ue8m0, uint8_t* codes, float* scales,
                                 float least_amax) {
  for_groups(x, K, ue8m0, scales, least_amax, [&](int64_t begin, int64_t n, float scale) {
    for (int64_t k = begin; k < begin + n; ++k) codes[k] = e4m3_code(x[k] / scale);
  });
}

void quantize_activation_f32_generic(const float* x, int64_t K, bool ue8m0, float* values, float* scales,
                                     float least_amax) {
  for_groups(x, K, ue8m0, scales, least_amax, [&](int64_t begin, int64_t n, float scale) {
    for (int64_t k = begin; k < begin + n; ++k) values[k] = std::bit_cast<float>(e4m3_value(x[k] / scale));
  });
}

void quantize_activation_bf16_generic(const float* x, int64_t K, bool ue8m0, uint16_t* values, float* scales,
                                      float least_amax) {
  for_groups(x, K, ue8m0, scales, least_amax, [&](int64_t begin, int64_t n, float scale) {
    for (int64_t k = begin; k < begin + n; ++k) values[k] = static_cast<uint16_t>(e4m3_value(x[k] / scale) >> 16);
  });
}

void quantize_weight_generic(const float* w, int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols,
                             bool ue8m0, uint8_t* codes, float* scale_inv) {
  for (int64_t r0 = 0; r0 < rows; r0 += block_rows) {
    const int64_t r1 = std::min(rows, r0 + block_rows);
    for (int64_t c0 = 0; c0 < cols; c0 += block_cols) {
      const int64_t n = std::min(block_cols, cols - c0);
      int32_t most = 0;
      for (int64_t r = r0; r < r1; ++r) most = std::max(most, greatest(w + r * cols + c0, n));
      const float scale = scale_of(std::bit_cast<float>(most), kLeastActivationAmax, ue8m0);
      *scale_inv++ = scale;
      for (int64_t r = r0; r < r1; ++r) {
        const float* from = w + r * cols + c0;
        uint8_t* to = codes + r * cols + c0;
        for (int64_t c = 0; c < n; ++c) to[c] = e4m3_code(from[c] / scale);
      }
    }
  }
}

inline float as_float(float x) {
  return x;
}
inline float as_float(uint16_t x) {
  return bf16_to_f32(x);
}

// kPairCols columns of up to 128 rows.
constexpr int64_t kPairCols = 64;

template <typename Element, typename Row>
inline void quantize_pair_cols(Row row_of, int64_t rows, int64_t n, int64_t cols, bool ue8m0, float least_amax,
                               uint16_t* out, float* scales) {
  int32_t most[kPairCols] = {};
  for (int64_t r = 0; r < rows; ++r) {
    const Element* row = row_of(r);
    for (int64_t c = 0; c < n; ++c) {
      const int32_t own = amax_bits(as_float(row[c]));
      most[c] = own > most[c] ? own : most[c];
    }
  }
  for (int64_t c = 0; c < n; ++c) scales[c] = scale_of(std::bit_cast<float>(most[c]), least_amax, ue8m0);
  for (int64_t r = 0; r < rows; r += 2) {
    const Element* first = row_of(r);
    uint16_t* to = out + r * cols;
    const auto put = [&](int64_t c, uint32_t pair) { std::memcpy(to + 2 * c, &pair, sizeof(pair)); };
    if (r + 1 < rows) {
      const Element* second = row_of(r + 1);
      for (int64_t c = 0; c < n; ++c) {
        put(c, e4m3_value(as_float(first[c]) / scales[c]) >> 16 | e4m3_value(as_float(second[c]) / scales[c]));
      }
    } else {
      for (int64_t c = 0; c < n; ++c) put(c, e4m3_value(as_float(first[c]) / scales[c]) >> 16);
    }
  }
}

template <typename Element>
inline void quantize_pairs_of(const Element* x, int64_t x_stride, const int32_t* index, int64_t rows, int64_t cols,
                              bool ue8m0, float least_amax, uint16_t* out, float* scales) {
  for (int64_t r0 = 0; r0 < rows; r0 += kActivationGroup) {
    const int64_t count = std::min(kActivationGroup, rows - r0);
    for (int64_t c0 = 0; c0 < cols; c0 += kPairCols) {
      const auto row_of = [&](int64_t r) { return x + (index != nullptr ? index[r0 + r] : r0 + r) * x_stride + c0; };
      quantize_pair_cols<Element>(row_of, count, std::min(kPairCols, cols - c0), cols, ue8m0, least_amax,
                                  out + r0 * cols + 2 * c0, scales + r0 / kActivationGroup * cols + c0);
    }
  }
}

void quantize_pairs_generic(DType from, const void* x, int64_t x_stride, const int32_t* index, int64_t rows,
                            int64_t cols, bool ue8m0, float least_amax, uint16_t* out, float* scales) {
  if (from == DType::bf16) {
    quantize_pairs_of(static_cast<const uint16_t*>(x), x_stride, index, rows, cols, ue8m0, least_amax, out, scales);
  } else {
    quantize_pairs_of(static_cast<const float*>(x), x_stride, index, rows, cols, ue8m0, least_amax, out, scales);
  }
}

// e4m3_to_f32 and f32_to_bf16.
inline float code_value(uint8_t code) {
  const uint32_t magnitude = code & 0x7fu;
  const auto rebased = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude << 20) * 0x1p120f);
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  return std::bit_cast<float>(choose(magnitude == 0x7fu, 0x7fc00000u, rebased) | sign);
}
inline uint16_t bf16_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & ~kSign) > static_cast<uint32_t>(kInfinity);
  return static_cast<uint16_t>(choose(is_nan, bits >> 16 | 0x0040u, rounded));
}

void dequantize_weight_bf16_generic(const uint8_t* codes, const float* scale_inv, int64_t rows, int64_t cols,
                                    int64_t block_rows, int64_t block_cols, uint16_t* out) {
  const int64_t scale_cols = (cols + block_cols - 1) / block_cols;
  for (int64_t r = 0; r < rows; ++r, codes += cols, out += cols) {
    const float* scales = scale_inv + r / block_rows * scale_cols;
    for (int64_t c0 = 0; c0 < cols; c0 += block_cols) {
      const float scale = scales[c0 / block_cols];
      const int64_t end = std::min(cols, c0 + block_cols);
      for (int64_t c = c0; c < end; ++c) out[c] = bf16_bits(code_value(codes[c]) * scale);
    }
  }
}

constexpr QuantizeKernels kQuantizeKernels = {quantize_activation_generic,      quantize_activation_f32_generic,
                                              quantize_activation_bf16_generic, quantize_weight_generic,
                                              quantize_pairs_generic,           dequantize_weight_bf16_generic};

}  // namespace
}  // namespace fathom
