#include "kernels/cpu/integer_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/cpu/integer_generic.h"
#include "kernels/cpu/integer_tiles.h"

namespace fathom {
namespace {

FATHOM_INLINED inline __m512i load(const void* p) {
  return _mm512_loadu_si512(p);
}

FATHOM_INLINED inline __m512 from_bf16(__m256i v) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}

FATHOM_INLINED inline void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}

// sum += four unsigned codes · four signed bytes of x in each lane. As assembly, because g++ 12 copies the sums of the
// builtin from register to register, and then to memory for want of registers.
FATHOM_INLINED inline __m512i dot(__m512i sum, __m512i codes, __m512i x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(x));
  return sum;
}

FATHOM_INLINED inline int32_t load_word(const int8_t* p) {
  int32_t word;
  std::memcpy(&word, p, sizeof(word));
  return word;
}

struct Avx512Vec {
  static constexpr int width = 16;
  using F = __m512;
  static F set1(float a) { return _mm512_set1_ps(a); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  FATHOM_INLINED static F bf16(const uint16_t* p) {
    return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F from_bytes(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static F bytes(const uint8_t* p, int shift, int mask) {
    const __m512i v = _mm512_srl_epi32(_mm512_loadu_si512(p), _mm_cvtsi32_si128(shift));
    return _mm512_cvtepi32_ps(_mm512_and_si512(v, _mm512_set1_epi32(mask)));
  }
};

// How far ahead of the codes a streamed product fetches. INT4, one token, two runs side by side: 94 % of a streaming
// read with 2 KB, 79 % with 1 KB; four runs 82 % and 88 %, 78 % with 4 KB.
constexpr size_t kPrefetchBytes = 2048;

// A lane is a row of the panel. Eight columns at a time: two registers of codes a panel, of 8 bits as they are, of 4
// bits the two nibbles of one load.
struct Avx512Tiles {
  static constexpr int max_tokens = 12;  // two panels × 12 tokens are 24 sums; 4 registers of codes and 2 of x are left
  static constexpr int streamed_tokens = 8;
  static constexpr int cached_panels = 2;
  static constexpr int runs(int) { return 2; }

  template <int bits, int R, int T, bool streamed>
  [[gnu::noinline]] static void tile(const TileTokens& tokens, const uint8_t* panel, size_t spacing,
                                     const PanelLayout& layout, const Weight& w, int64_t group_begin, int64_t group_end,
                                     float* totals) {
    // vpdpbusd takes four cycles and two start in each: fewer than eight sums are split in two.
    constexpr bool split = R * T < 8;
    const __m512i low_half = _mm512_set1_epi32(0xffff);
    const __m512i nibble = _mm512_set1_epi8(15);
    const int64_t group = w.group;
    const size_t head_step = layout.codes / static_cast<size_t>(layout.groups);
    const int8_t* xs[T];
    unrolled<T>([&](auto t) FATHOM_INLINED { xs[t] = tokens.q[t]; });
    for (int64_t g = group_begin; g < group_end; ++g) {
      // The sums begin at −zero · Σ q: of each 32-bit lane the low halves are multiplied.
      __m512i sum[R * T];
      __m512i more[split ? R * T : 1];
      __m512i minus_zero[R];
      const uint8_t* codes[R];
      unrolled<R>([&](auto r) FATHOM_INLINED {
        const uint8_t* own = panel + r * spacing;
        codes[r] = own + layout.codes + static_cast<size_t>(g) * layout.group_codes;
        __m512i zero = _mm512_set1_epi32(bits == 8 ? 128 : 8);
        if (w.zero_point) {
          zero = _mm512_cvtepu8_epi32(
              _mm_loadu_si128(reinterpret_cast<const __m128i*>(own + layout.zeros + g * kPanelRows)));
        }
        minus_zero[r] = _mm512_and_si512(_mm512_sub_epi32(_mm512_setzero_si512(), zero), low_half);
        if constexpr (streamed) {
          // The codes' prefetch leaves out what stands before the codes of the next panel, less its first 2 KB.
          prefetch(own + layout.bytes + kPrefetchBytes + static_cast<size_t>(g) * head_step);
        }
      });
      unrolled<T>([&](auto t) FATHOM_INLINED {
        const __m512i x_sum = _mm512_set1_epi32(tokens.sums[t][g]);
        unrolled<R>([&](auto r) FATHOM_INLINED {
          sum[r * T + t] = _mm512_madd_epi16(x_sum, minus_zero[r]);
          if constexpr (split) more[r * T + t] = _mm512_setzero_si512();
        });
      });
      const int64_t begin = g * group;
      int64_t k = begin;
      do {
        __m512i low[R];
        __m512i high[R];
        unrolled<R>([&](auto r) FATHOM_INLINED {
          low[r] = load(codes[r]);
          asm("" : "+v"(low[r]));  // one load, not one for each nibble
          if constexpr (streamed) prefetch(codes[r] + kPrefetchBytes);
          if constexpr (bits == 8) {
            high[r] = load(codes[r] + 64);
            if constexpr (streamed) prefetch(codes[r] + kPrefetchBytes + 64);
          } else {
            high[r] = _mm512_and_si512(_mm512_srli_epi16(low[r], 4), nibble);
            low[r] = _mm512_and_si512(low[r], nibble);
          }
          codes[r] += 16 * bits;
        });
        unrolled<T>([&](auto t) FATHOM_INLINED {
          const __m512i x_low = _mm512_set1_epi32(load_word(xs[t] + k));
          const __m512i x_high = _mm512_set1_epi32(load_word(xs[t] + k + 4));
          unrolled<R>([&](auto r) FATHOM_INLINED {
            constexpr int i = r * T + t;
            sum[i] = dot(sum[i], low[r], x_low);
            if constexpr (split) {
              more[i] = dot(more[i], high[r], x_high);
            } else {
              sum[i] = dot(sum[i], high[r], x_high);
            }
          });
        });
        k += 8;
      } while (k < begin + group);
      // Hides from the compiler that these are the totals of the last group: it would keep copies of them.
      asm("" : "+r"(totals));
      unrolled<R>([&](auto r) FATHOM_INLINED {
        const auto* scales = reinterpret_cast<const uint16_t*>(panel + r * spacing);
        const __m512 w_scale = Avx512Vec::bf16(scales + g * kPanelRows);
        unrolled<T>([&](auto t) FATHOM_INLINED {
          constexpr int i = r * T + t;
          if constexpr (split) sum[i] = _mm512_add_epi32(sum[i], more[i]);
          const __m512 scale = _mm512_mul_ps(w_scale, _mm512_set1_ps(tokens.scales[t][begin / 128]));
          float* total = totals + i * kPanelRows;
          _mm512_storeu_ps(total, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i]), scale, _mm512_loadu_ps(total)));
        });
      });
    }
  }
};

int32_t reduce(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

void quantize_activation_avx512(const float* x, int64_t K, int8_t* q, float* scales, int32_t* sums_128,
                                int32_t* sums_32) {
  for (int64_t begin = 0; begin < K; begin += 128, q += 128) {
    __m512 v[8];
    __m512i greatest = _mm512_setzero_si512();
    for (int i = 0; i < 8; ++i) {
      const int64_t n = std::clamp<int64_t>(K - begin - 16 * i, 0, 16);
      v[i] = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), x + begin + 16 * i);
      const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(v[i]), _mm512_set1_epi32(0x7fffffff));
      greatest = _mm512_max_epi32(greatest, magnitude);
    }
    const float scale = activation_scale(static_cast<uint32_t>(_mm512_reduce_max_epi32(greatest)));
    *scales++ = scale;
    const auto used = static_cast<__mmask16>(scale > 0 ? 0xffff : 0);
    const __m512 divisor = _mm512_set1_ps(scale);
    int32_t sum_128 = 0;
    for (int part = 0; part < 4; ++part) {
      for (int i = 2 * part; i < 2 * part + 2; ++i) {
        const __m512 ratio = _mm512_maskz_div_ps(used, v[i], divisor);
        const __m512 within = _mm512_max_ps(_mm512_min_ps(ratio, _mm512_set1_ps(127.0f)), _mm512_set1_ps(-127.0f));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16 * i), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(within)));
      }
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + 32 * part));
      const int32_t sum = reduce(_mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), bytes));
      *sums_32++ = sum;
      sum_128 += sum;
    }
    *sums_128++ = sum_128;
  }
}

}  // namespace

const IntegerKernels& integer_kernels_avx512() {
  static const IntegerKernels kernels = {linear_tiles<Avx512Tiles>, linear_rows_f32_generic<Avx512Vec>,
                                         pack_rows_generic, quantize_activation_avx512};
  return kernels;
}

}  // namespace fathom
#else
namespace fathom {
const IntegerKernels& integer_kernels_avx512() {
  return integer_kernels_portable();
}
}  // namespace fathom
#endif
