#pragma once
// E4M3 codes to BF16, 64 at a time. Only for files that are compiled for AVX-512; everything has internal linkage.
#include <immintrin.h>

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

// The table of bf16(magnitude × scale): the published cast of FP8 weights costs nothing more than codes do.
inline void make_e4m3_table(float scale, uint8_t* table) {
  for (int i = 0; i < 8; ++i) {
    const __m512 value = _mm512_mul_ps(_mm512_load_ps(kE4m3Magnitudes.values + 16 * i), _mm512_set1_ps(scale));
    const auto bits = narrowed(value);
    _mm_store_si128(reinterpret_cast<__m128i*>(table + 16 * i), _mm256_cvtepi16_epi8(bits));
    _mm_store_si128(reinterpret_cast<__m128i*>(table + 128 + 16 * i), _mm256_cvtepi16_epi8(_mm256_srli_epi16(bits, 8)));
  }
}

struct E4m3Decoder {
  __m512i low[2], high[2];

  explicit E4m3Decoder(const uint8_t* table)
      : low{_mm512_load_si512(table), _mm512_load_si512(table + 64)},
        high{_mm512_load_si512(table + 128), _mm512_load_si512(table + 192)} {}

  // 64 codes → their values in order, BF16: first 32, last 32. Two look-ups (vpermi2b reads seven bits of an index, so
  // the sign needs no masking away), the sign merged in, and two unpacks, which take alternating eights of the codes:
  // hence the order that the codes are put into first.
  void decode(__m512i codes, __m512i* first, __m512i* last) const {
    codes = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), codes);
    const __m512i l = _mm512_permutex2var_epi8(low[0], codes, low[1]);
    __m512i h = _mm512_permutex2var_epi8(high[0], codes, high[1]);
    h = _mm512_ternarylogic_epi32(h, codes, _mm512_set1_epi8(static_cast<char>(0x80)), 0x78);  // h ^ (codes & 0x80)
    *first = _mm512_unpacklo_epi8(l, h);
    *last = _mm512_unpackhi_epi8(l, h);
  }
};

}  // namespace
}  // namespace fathom
