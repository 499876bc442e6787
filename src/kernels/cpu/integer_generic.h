#pragma once
// What the instruction sets share about integers, compiled once per set. Everything here has internal linkage: a copy
// compiled for AVX-512 must never be the one that the linker keeps for another set. Plain loops are written so that the
// compiler turns them into what the set has.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/number_formats.h"
#include "kernels/cpu/integer_kernels.h"

namespace fathom {
namespace {

constexpr int kPanel = static_cast<int>(kPanelRows);
constexpr int kMaxGroup = 128;

// Adding and subtracting 1.5 · 2^23 leaves the nearest whole number, ties to even, of anything below 2^22.
inline float round_even(float v) {
  return (v + 0x1.8p23f) - 0x1.8p23f;
}

// The bits of the greatest magnitude; those of NaN and infinities are not below 0x7f800000.
inline uint32_t greatest_bits(const float* v, int64_t n) {
  int32_t greatest = 0;
  for (int64_t i = 0; i < n; ++i) greatest = std::max(greatest, std::bit_cast<int32_t>(v[i]) & 0x7fffffff);
  return static_cast<uint32_t>(greatest);
}

constexpr uint32_t kInfinityBits = 0x7f800000u;
constexpr uint16_t kNanBf16 = 0x7fc0;

// The least BF16 that is not below v ≥ 0, finite.
inline uint16_t bf16_not_below(float v) {
  return static_cast<uint16_t>((std::bit_cast<uint32_t>(v) + 0xffffu) >> 16);
}

// The scale of an activation group: NaN where the group holds what is not finite.
inline float activation_scale(uint32_t amax_bits) {
  if (amax_bits >= kInfinityBits) return std::numeric_limits<float>::quiet_NaN();
  return std::bit_cast<float>(amax_bits) / 127.0f;
}

inline void quantize_activation_generic(const float* x, int64_t K, int8_t* q, float* scales, int32_t* sums_128,
                                        int32_t* sums_32) {
  for (int64_t begin = 0; begin < K; begin += 128, q += 128) {
    float v[128] = {};
    std::copy(x + begin, x + std::min(K, begin + 128), v);
    const float scale = activation_scale(greatest_bits(v, 128));
    *scales++ = scale;
    if (!(scale > 0)) std::fill(v, v + 128, 0.0f);
    const float divisor = scale > 0 ? scale : 1.0f;
    for (int i = 0; i < 128; ++i) {
      q[i] = static_cast<int8_t>(static_cast<int32_t>(round_even(std::clamp(v[i] / divisor, -127.0f, 127.0f))));
    }
    int32_t sum_128 = 0;
    for (int part = 0; part < 4; ++part) {
      int32_t sum = 0;
      for (int i = 0; i < 32; ++i) sum += q[32 * part + i];
      *sums_32++ = sum;
      sum_128 += sum;
    }
    *sums_128++ = sum_128;
  }
}

// n values of a row from column k on, as float32; FP8 times its scale.
inline void load_values(const Weight& w, int64_t row, int64_t k, int64_t n, float* out) {
  const std::byte* data = w.row(row);
  switch (w.dtype) {
    case DType::bf16: {
      const auto* p = reinterpret_cast<const uint16_t*>(data) + k;
      for (int64_t i = 0; i < n; ++i) out[i] = bf16_to_f32(p[i]);
      break;
    }
    case DType::f16: {
      const auto* p = reinterpret_cast<const uint16_t*>(data) + k;
      for (int64_t i = 0; i < n; ++i) out[i] = f16_to_f32(p[i]);
      break;
    }
    case DType::f8_e4m3: {
      const auto* p = reinterpret_cast<const uint8_t*>(data) + k;
      const float* scales = w.scale_inv + row / w.block_rows * w.scale_cols();
      for (int64_t i = 0; i < n;) {
        const int64_t end = std::min(n, ((k + i) / w.block_cols + 1) * w.block_cols - k);
        const float scale = scales[(k + i) / w.block_cols];
        for (; i < end; ++i) out[i] = e4m3_to_f32(p[i]) * scale;
      }
      break;
    }
    default:
      std::memcpy(out, reinterpret_cast<const float*>(data) + k, static_cast<size_t>(n) * sizeof(float));
      break;
  }
}

struct GroupScale {
  uint16_t scale;
  uint8_t zero;
};

// One row's group of n values (multiple of 32, the padding zero) to codes.
inline GroupScale quantize_group(const float* v, int64_t n, const IntegerFormat& format, uint8_t* codes) {
  const bool eight = format.bits == 8;
  GroupScale out{0, static_cast<uint8_t>(eight ? 128 : 8)};
  const uint32_t amax_bits = greatest_bits(v, n);
  float least = eight ? -127.0f : -7.0f;
  float greatest = -least;
  float scale = 0;
  if (amax_bits >= kInfinityBits) {
    out.scale = kNanBf16;
  } else if (format.zero_point) {
    float low = 0;
    float high = 0;
    for (int64_t i = 0; i < n; ++i) {
      low = std::min(low, v[i]);
      high = std::max(high, v[i]);
    }
    const float levels = eight ? 255.0f : 15.0f;
    out.scale = bf16_not_below(high / levels - low / levels);
    scale = bf16_to_f32(out.scale);
    if (scale > 0) out.zero = static_cast<uint8_t>(std::min(round_even(-low / scale), levels));
    least = -static_cast<float>(out.zero);
    greatest = levels + least;
  } else {
    out.scale = bf16_not_below(std::bit_cast<float>(amax_bits) / greatest);
    scale = bf16_to_f32(out.scale);
  }
  if (!(scale > 0)) {
    std::fill(codes, codes + n, out.zero);
    return out;
  }
  const auto zero = static_cast<float>(out.zero);
  for (int64_t i = 0; i < n; ++i) {
    const float code = std::clamp(round_even(v[i] / scale), least, greatest) + zero;
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(code));
  }
  return out;
}

// Codes [16, group] of one group into the panel's order.
inline void interleave_codes(const uint8_t* codes, int64_t group, int bits, uint8_t* out) {
  const int64_t word = bits == 8 ? 4 : 8;
  for (int64_t k = 0; k < group; k += word) {
    for (int64_t j = 0; j < kPanelRows; ++j, out += 4) {
      const uint8_t* row = codes + j * group + k;
      for (int b = 0; b < 4; ++b) out[b] = bits == 8 ? row[b] : static_cast<uint8_t>(row[b] | (row[4 + b] << 4));
    }
  }
}

inline void pack_rows_generic(const Weight& from, int64_t row_begin, int64_t row_end, const IntegerFormat& format,
                              std::byte* panels) {
  const PanelLayout layout = panel_layout(format, from.cols);
  for (int64_t first = row_begin; first < row_end; first += kPanelRows, panels += layout.bytes) {
    std::memset(panels, 0, layout.codes);
    auto* scales = reinterpret_cast<uint16_t*>(panels);
    auto* zeros = reinterpret_cast<uint8_t*>(panels + layout.zeros);
    auto* out = reinterpret_cast<uint8_t*>(panels + layout.codes);
    for (int64_t g = 0; g < layout.groups; ++g, out += layout.group_codes) {
      uint8_t codes[kPanelRows * kMaxGroup];
      const int64_t k = g * format.group;
      for (int64_t j = 0; j < kPanelRows; ++j) {
        float values[kMaxGroup] = {};
        if (first + j < row_end) {
          load_values(from, first + j, k, std::min(format.group, from.cols - k), values);
        }
        const GroupScale scale = quantize_group(values, format.group, format, codes + j * format.group);
        scales[g * kPanelRows + j] = scale.scale;
        if (format.zero_point) zeros[g * kPanelRows + j] = scale.zero;
      }
      interleave_codes(codes, format.group, format.bits, out);
    }
  }
}

// Products with float32 operands. V has: width; F (the register); zero, set1, load, store, mul, fma(a,b,c) = a·b+c,
// add, sub, bf16 (from `width` values), bytes(p, shift, mask): from `width` words of 32 bits the bits under the mask,
// and from_bytes: from `width` bytes.
//
// A group's values are unpacked once for up to 32 tokens. Four sums per (row, token), column k adding to sum k mod 4:
// the same for every T.
template <class V>
void unpack_group(const uint8_t* panel, const PanelLayout& layout, const Weight& w, int64_t g, float* values) {
  constexpr int width = V::width;
  const auto* scales = reinterpret_cast<const uint16_t*>(panel) + g * kPanelRows;
  const uint8_t* zeros = panel + layout.zeros + g * kPanelRows;
  const uint8_t* codes = panel + layout.codes + static_cast<size_t>(g) * layout.group_codes;
  for (int j = 0; j < kPanel; j += width) {
    const typename V::F scale = V::load_bf16(scales + j);
    const typename V::F zero = w.zero_point ? V::from_bytes(zeros + j) : V::set1(w.bits == 8 ? 128.0f : 8.0f);
    const uint8_t* p = codes + 4 * j;
    const int nibbles = 8 / w.bits;
    for (int64_t k = 0; k < w.group; k += 4 * nibbles, p += 4 * kPanel) {
      for (int c = 0; c < 4 * nibbles; ++c) {
        const typename V::F code = V::bytes(p, 8 * (c % 4) + c / 4 * 4, w.bits == 8 ? 255 : 15);
        V::store(values + (k + c) * kPanel + j, V::mul(scale, V::sub(code, zero)));
      }
    }
  }
}

template <class V>
void linear_rows_f32_generic(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w,
                             int64_t row_begin, int64_t row_end, float* y, int64_t y_stride) {
  using F = typename V::F;
  constexpr int width = V::width;
  constexpr int64_t kTokens = 32;
  const PanelLayout layout = panel_layout(integer_format(w), w.cols);
  alignas(64) float values[kMaxGroup * kPanel];
  alignas(64) float sums[kTokens][4][kPanel];
  for (int64_t row = row_begin; row < row_end; row += kPanelRows) {
    const auto* panel = reinterpret_cast<const uint8_t*>(w.data) + static_cast<size_t>(row / kPanelRows) * layout.bytes;
    const int64_t n = std::min<int64_t>(kPanelRows, row_end - row);
    for (int64_t t0 = 0; t0 < T; t0 += kTokens) {
      const int64_t tokens = std::min(kTokens, T - t0);
      std::memset(sums, 0, sizeof(sums));
      for (int64_t g = 0; g < layout.groups; ++g) {
        unpack_group<V>(panel, layout, w, g, values);
        const int64_t k0 = g * w.group;
        const int64_t count = std::min(w.group, w.cols - k0);
        for (int64_t t = 0; t < tokens; ++t) {
          const float* xs = x.f32_row(row_index != nullptr ? row_index[t0 + t] : t0 + t) + k0;
          for (int j = 0; j < kPanel; j += width) {
            F sum[4];
            for (int c = 0; c < 4; ++c) sum[c] = V::load(sums[t][c] + j);
            // The operand's padding to 64 and the group's to 32 or 128 columns are zeros: a last step may be whole.
            for (int64_t k = 0; k < count; k += 4) {
              for (int c = 0; c < 4; ++c) {
                sum[c] = V::fma(V::load(values + (k + c) * kPanel + j), V::set1(xs[k + c]), sum[c]);
              }
            }
            for (int c = 0; c < 4; ++c) V::store(sums[t][c] + j, sum[c]);
          }
        }
      }
      for (int64_t t = 0; t < tokens; ++t) {
        float* out = y + (t0 + t) * y_stride + (row - row_begin);
        for (int64_t j = 0; j < n; ++j) {
          out[j] = (sums[t][0][j] + sums[t][1][j]) + (sums[t][2][j] + sums[t][3][j]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace fathom
