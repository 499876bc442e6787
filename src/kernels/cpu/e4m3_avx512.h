#pragma once
// E4M3 codes to BF16, 64 at a time. Only for files that are compiled for AVX-512; everything has internal linkage.
#include <immintrin.h>

#include <bit>
#include <cstdint>

#include "kernels/cpu/bf16_avx512.h"

namespace fathom {
namespace {

// A table gives the BF16 value of each of the 128 magnitudes: the low bytes, then the high bytes.
constexpr int64_t kE4m3TableBytes = 256;

struct alignas(64) E4m3Magnitudes {
  float values[128];
};

constexpr E4m3Magnitudes e4m3_magnitudes() {
  E4m3Magnitudes table{};
  for (int code = 0; code < 127; ++code) {
    const int exponent = code >> 3;
    float value = static_cast<float>(exponent == 0 ? code & 7 : 8 + (code & 7)) * 0x1p-9f;
    for (int i = 1; i < exponent; ++i) value *= 2;
    table.values[code] = value;
  }
  table.values[127] = __builtin_nanf("");
  return table;
}
constexpr E4m3Magnitudes kE4m3Magnitudes = e4m3_magnitudes();

// Constants by code: its exponent less 2, and what an even exponent flips in the low byte of a BF16 of exponent 1.
struct alignas(64) E4m3Steps {
  uint8_t exponent_less_2[128];
  uint8_t even_exponent[64];
};
constexpr E4m3Steps kE4m3Steps = [] {
  E4m3Steps steps{};
  for (int code = 0; code < 128; ++code) steps.exponent_less_2[code] = static_cast<uint8_t>(code / 8 - 2);
  for (int code = 0; code < 64; ++code) steps.even_exponent[code] = code / 8 % 2 == 0 ? 0x80 : 0;
  return steps;
}();

// The table of bf16(magnitude × scale): the published cast of FP8 weights costs nothing more than codes do.
inline void make_e4m3_table(float scale, uint8_t* table) {
  const auto words_of = [&](int64_t code) {
    return narrowed(_mm512_mul_ps(_mm512_load_ps(kE4m3Magnitudes.values + code), _mm512_set1_ps(scale)));
  };
  const auto high_bytes = [](__m256i words) { return _mm256_cvtepi16_epi8(_mm256_srli_epi16(words, 8)); };
  const auto exponent = [&](int64_t code) {
    return std::bit_cast<uint32_t>(kE4m3Magnitudes.values[code] * scale) >> 23 & 255;
  };
  if (exponent(8) == 0 || exponent(15) > 238) {
    for (int64_t code = 0; code < 128; code += 16) {
      const __m256i words = words_of(code);
      _mm_store_si128(reinterpret_cast<__m128i*>(table + code), _mm256_cvtepi16_epi8(words));
      _mm_store_si128(reinterpret_cast<__m128i*>(table + 128 + code), high_bytes(words));
    }
    return;
  }
  // Where no result leaves the range of normal numbers, the values of an exponent are those of exponent 1 (codes 8 to
  // 15) with their own exponent raised: its last bit stands in the low byte.
  const __m256i words = words_of(0);
  const __m128i low = _mm256_cvtepi16_epi8(words);
  const __m128i high = high_bytes(words);
  const __m512i low_of_1 = _mm512_broadcastq_epi64(_mm_unpackhi_epi64(low, low));
  const __m512i high_of_1 = _mm512_broadcastq_epi64(_mm_unpackhi_epi64(high, high));
  const __m512i last_bit = _mm512_and_si512(_mm512_srli_epi16(low_of_1, 7), _mm512_set1_epi8(1));
  const __m512i low_of_any = _mm512_xor_si512(low_of_1, _mm512_load_si512(kE4m3Steps.even_exponent));
  const auto high_of = [&](int64_t code) {
    // (exponent − 1 + last bit) / 2
    const __m512i raised = _mm512_avg_epu8(_mm512_load_si512(kE4m3Steps.exponent_less_2 + code), last_bit);
    return _mm512_add_epi8(high_of_1, raised);
  };
  constexpr __mmask64 kNan = __mmask64{1} << 63;
  _mm512_store_si512(table, _mm512_inserti32x4(low_of_any, low, 0));
  _mm512_store_si512(table + 64, _mm512_mask_blend_epi8(kNan, low_of_any, _mm512_set1_epi8(static_cast<char>(0xc0))));
  _mm512_store_si512(table + 128, _mm512_inserti32x4(high_of(0), high, 0));
  _mm512_store_si512(table + 192, _mm512_mask_blend_epi8(kNan, high_of(64), _mm512_set1_epi8(0x7f)));
}

// Unpacks take alternating eights of the bytes: hence the order that codes are put into first.
inline __m512i ordered_for_unpack(__m512i codes) {
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), codes);
}

// The values of 64 ordered codes, BF16: first 32, last 32, from the low and the high bytes of their magnitudes.
inline void unpack_with_signs(__m512i codes, __m512i low, __m512i high, __m512i* first, __m512i* last) {
  high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8(static_cast<char>(0x80)), 0x78);  // ^ (codes & 0x80)
  *first = _mm512_unpacklo_epi8(low, high);
  *last = _mm512_unpackhi_epi8(low, high);
}

// Looks up by vpermi2b, or by half-tables chosen by a mask: five instructions where two vpermi2b are six operations on
// Intel's cores (and two on AMD's).
template <bool kMask>
struct E4m3DecoderBy {
  __m512i low[2], high[2];

  explicit E4m3DecoderBy(const uint8_t* table)
      : low{_mm512_load_si512(table), _mm512_load_si512(table + 64)},
        high{_mm512_load_si512(table + 128), _mm512_load_si512(table + 192)} {}

  // 64 codes → their values in order, BF16: first 32, last 32. Look-ups read seven bits of an index, so the sign needs
  // no masking away.
  void decode(__m512i codes, __m512i* first, __m512i* last) const {
    codes = ordered_for_unpack(codes);
    if constexpr (kMask) {
      const __mmask64 upper = _mm512_test_epi8_mask(codes, _mm512_set1_epi8(64));
      const auto look_up = [&](const __m512i(&table)[2]) {
        return _mm512_mask_permutexvar_epi8(_mm512_permutexvar_epi8(codes, table[0]), upper, codes, table[1]);
      };
      unpack_with_signs(codes, look_up(low), look_up(high), first, last);
    } else {
      unpack_with_signs(codes, _mm512_permutex2var_epi8(low[0], codes, low[1]),
                        _mm512_permutex2var_epi8(high[0], codes, high[1]), first, last);
    }
  }
};
using E4m3Decoder = E4m3DecoderBy<false>;
using E4m3MaskDecoder = E4m3DecoderBy<true>;

}  // namespace
}  // namespace fathom
