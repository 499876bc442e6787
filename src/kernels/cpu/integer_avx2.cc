#include "kernels/cpu/integer_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/cpu/integer_generic.h"
#include "kernels/cpu/integer_tiles.h"
#include "kernels/cpu/two_steps.h"
#include "kernels/cpu/vectors.h"

namespace fathom {
namespace {

__m256i load(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

int32_t load_word(const int8_t* p) {
  int32_t word;
  std::memcpy(&word, p, sizeof(word));
  return word;
}

struct Avx2Vec : Avx2Vector {
  static __m256i words_from_bytes(const uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static F from_bytes(const uint8_t* p) { return _mm256_cvtepi32_ps(words_from_bytes(p)); }
  static F bytes(const uint8_t* p, int shift, int mask) {
    const __m256i v =
        _mm256_srl_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm_cvtsi32_si128(shift));
    return _mm256_cvtepi32_ps(_mm256_and_si256(v, _mm256_set1_epi32(mask)));
  }
};

constexpr size_t kPrefetchBytes = 4096;
// And so many bytes further into the second-level cache alone (see integer_avx512.cc).
constexpr int64_t kFartherBytes = 1024;

FATHOM_INLINED inline void ask_ahead(const uint8_t* p) {
  ask_in_two_steps<kFartherBytes>(p + kPrefetchBytes);
}

// vpmaddubsw adds two products of an unsigned and a signed byte in 16 bits with saturation, so
//   8 bits: Σ |w| · (q with the sign of w), w = code − 128: at most 2 · 128 · 127, less than 2^15;
//   4 bits: Σ code · q, whose eight products of 32 columns, at most 8 · 2 · 15 · 127, stay below 2^15 as well.
struct Avx2Tiles {
  static constexpr int block_tokens = 4;
  static constexpr int block_panels = 1;
  static constexpr int streamed_tokens = 4;
  static constexpr int runs(int tokens) { return tokens == 1 ? 2 : 1; }
  // With w = code − 128 the zero is 128 less, too: nothing is left of it without a zero point.
  static constexpr int symmetric_zero(int bits) { return bits == 8 ? 0 : 8; }
  static constexpr bool widens = false;

  template <int bits, int R, class Tokens>
  static void tile(const Tokens& tokens, const uint8_t* panel, size_t spacing, const PanelLayout& layout,
                   const Weight& w, int64_t group_begin, int64_t group_end, const TileAhead&, const float* before,
                   float* totals) {
    constexpr int T = Tokens::count;
    constexpr int H = 2 * R;  // registers of eight rows
    const __m256i low_half = _mm256_set1_epi32(0xffff);
    const int64_t units = w.group / kUnit;
    const size_t head_step = layout.codes / static_cast<size_t>(layout.groups);
    for (int64_t g = group_begin; g < group_end; ++g) {
      __m256i sum[H][T];
      const uint8_t* codes[R];
      for (int h = 0; h < H; ++h) {
        const uint8_t* own = panel + static_cast<size_t>(h / 2) * spacing;
        codes[h / 2] = own + layout.codes + static_cast<size_t>(g) * layout.group_codes;
        if (w.zero_point) {
          const __m256i zero = Avx2Vec::words_from_bytes(own + layout.zeros + g * kPanelRows + h % 2 * 8);
          const __m256i minus_zero =
              _mm256_and_si256(_mm256_sub_epi32(_mm256_set1_epi32(bits == 8 ? 128 : 0), zero), low_half);
          for (int t = 0; t < T; ++t) {
            sum[h][t] = _mm256_madd_epi16(_mm256_set1_epi32(tokens.begin(t, g - group_begin)), minus_zero);
          }
        } else {
          for (int t = 0; t < T; ++t) sum[h][t] = _mm256_set1_epi32(tokens.begin(t, g - group_begin));
        }
        if (Tokens::streamed && h % 2 == 0) {
          // The codes' prefetch leaves out what stands before the codes of the next panel, less its first 4 KB.
          ask_ahead(own + layout.bytes + static_cast<size_t>(g) * head_step);
        }
      }
      const int64_t end = (g - group_begin + 1) * units;
      for (int64_t unit = end - units; unit < end; ++unit) {
        const int8_t* x[T];
        for (int t = 0; t < T; ++t) x[t] = tokens.unit(t, unit);
        add_columns<bits, R, T, Tokens::streamed>(x, codes, sum);
      }
      for (int h = 0; h < H; ++h) {
        const uint8_t* own = panel + static_cast<size_t>(h / 2) * spacing;
        const __m256 w_scale = Avx2Vec::load_bf16(reinterpret_cast<const uint16_t*>(own) + g * kPanelRows + h % 2 * 8);
        for (int t = 0; t < T; ++t) {
          const __m256 scale = _mm256_mul_ps(w_scale, _mm256_set1_ps(tokens.scale(t, (end - 1) * kUnit / 128)));
          const int at = (h / 2 * T + t) * kPanelRows + h % 2 * 8;
          const __m256 total = _mm256_loadu_ps(before + at);
          _mm256_storeu_ps(totals + at, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[h][t]), scale, total));
        }
      }
      before = totals;
    }
  }

  // One unit of columns; the codes move on.
  template <int bits, int R, int T, bool streamed>
  static void add_columns(const int8_t* const* x, const uint8_t** codes, __m256i (&sum)[2 * R][T]) {
    const __m256i ones = _mm256_set1_epi16(1);
    if constexpr (bits == 8) {
      const __m256i half = _mm256_set1_epi8(static_cast<char>(0x80));
      for (int step = 0; step < 8; ++step) {
        for (int r = 0; r < R; ++r) {
          if constexpr (streamed) ask_ahead(codes[r]);
          for (int h = 0; h < 2; ++h) {
            const __m256i value = _mm256_xor_si256(load(codes[r] + 32 * h), half);
            const __m256i magnitude = _mm256_abs_epi8(value);
            for (int t = 0; t < T; ++t) {
              const __m256i signed_x = _mm256_sign_epi8(_mm256_set1_epi32(load_word(x[t] + 4 * step)), value);
              __m256i& to = sum[2 * r + h][t];
              to = _mm256_add_epi32(to, _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, signed_x), ones));
            }
          }
          codes[r] += 64;
        }
      }
    } else {
      const __m256i nibble = _mm256_set1_epi8(15);
      __m256i part[2 * R][T];
      for (int h = 0; h < 2 * R; ++h) {
        for (int t = 0; t < T; ++t) part[h][t] = _mm256_setzero_si256();
      }
      for (int step = 0; step < 4; ++step) {
        for (int r = 0; r < R; ++r) {
          if constexpr (streamed) ask_ahead(codes[r]);
          for (int h = 0; h < 2; ++h) {
            const __m256i both = load(codes[r] + 32 * h);
            const __m256i low = _mm256_and_si256(both, nibble);
            const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
            for (int t = 0; t < T; ++t) {
              const __m256i x_low = _mm256_set1_epi32(load_word(x[t] + 8 * step));
              const __m256i x_high = _mm256_set1_epi32(load_word(x[t] + 8 * step + 4));
              __m256i& to = part[2 * r + h][t];
              to = _mm256_add_epi16(
                  to, _mm256_add_epi16(_mm256_maddubs_epi16(low, x_low), _mm256_maddubs_epi16(high, x_high)));
            }
          }
          codes[r] += 64;
        }
      }
      for (int h = 0; h < 2 * R; ++h) {
        for (int t = 0; t < T; ++t) sum[h][t] = _mm256_add_epi32(sum[h][t], _mm256_madd_epi16(part[h][t], ones));
      }
    }
  }
};

}  // namespace

const IntegerKernels& integer_kernels_avx2() {
  static const IntegerKernels kernels = {linear_tiles<Avx2Tiles>, linear_rows_f32_generic<Avx2Vec>, pack_rows_generic,
                                         quantize_activation_generic};
  return kernels;
}

}  // namespace fathom
#else
namespace fathom {
const IntegerKernels& integer_kernels_avx2() {
  return integer_kernels_portable();
}
}  // namespace fathom
#endif
