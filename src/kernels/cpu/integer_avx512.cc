#include "kernels/cpu/integer_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/cpu/integer_generic.h"
#include "kernels/cpu/integer_tiles.h"
#include "kernels/cpu/two_steps.h"

namespace fathom {
namespace {

FATHOM_INLINED inline __m512i load(const void* p) {
  return _mm512_loadu_si512(p);
}

FATHOM_INLINED inline __m512 from_bf16(__m256i v) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
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
  FATHOM_INLINED static F load_bf16(const uint16_t* p) {
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

// How far ahead of the codes a streamed product fetches. One comparison (medians of 9, in alternation) of INT4 with one
// token: two runs 94 % of a streaming read with 2 KB, 79 % with 1 KB; four runs 88, 82, 80 % with 1, 2, 4 KB. Only 4 KB
// was tried with more tokens, where fetching nothing costs half of the speed.
constexpr size_t kPrefetchBytes = 2048;
// And so many bytes further into the second-level cache alone: with one token 89 to 92 → 96 to 98 % (INT4), with four
// 92 → 97 to 99 % (INT8).
constexpr int64_t kFartherBytes = 1024;

FATHOM_INLINED inline void ask_ahead(const uint8_t* p) {
  ask_in_two_steps<kFartherBytes>(p + kPrefetchBytes);
}

// One group of four panels times T ≤ 6 tokens, codes of 8 bits:
//   totals [4, T, 16] = fma(float(begins + Σ code · q), w_scale · x_scale, before).
//
// Written as assembly, because g++ 12 copies sums from register to register and keeps a pointer for each token. 24
// sums, a register of codes for each panel, one of activations. Of all shapes with so many sums this one loads least
// for a dot product, which matters where the other thread of the core is busy.
struct GroupTile {
  const uint8_t* codes;      // four panels, `spacing` bytes apart: [units, 8, 16 rows, 4 columns]
  const uint16_t* w_scales;  // of each panel [16] BF16, as far apart
  size_t spacing;
  int64_t units;
  const int8_t* x;        // [T, kOperandBlock]
  const float* x_scales;  // [T]
  const int32_t* begins;  // [T]; with zero points [4, T, 16]
  const uint8_t* ahead;   // is asked for into the second-level cache, a line for every eight columns
  const float* before;
  float* totals;
};

// Token t's sums are registers a to d, one for each panel; \\word is the loop's count of four columns.
// clang-format off
#define FATHOM_BEGIN(t, a, b, c, d)                                  \
  ".if " #t " < %c[tokens]\n"                                        \
  ".if %c[zero_point]\n"                                             \
  "vmovdqa64 64*(0*%c[tokens]+" #t ")(%[begins]), %%zmm" #a "\n"     \
  "vmovdqa64 64*(1*%c[tokens]+" #t ")(%[begins]), %%zmm" #b "\n"     \
  "vmovdqa64 64*(2*%c[tokens]+" #t ")(%[begins]), %%zmm" #c "\n"     \
  "vmovdqa64 64*(3*%c[tokens]+" #t ")(%[begins]), %%zmm" #d "\n"     \
  ".else\n"                                                          \
  "vpbroadcastd 4*" #t "(%[begins]), %%zmm" #a "\n"                  \
  "vmovdqa64 %%zmm" #a ", %%zmm" #b "\n"                             \
  "vmovdqa64 %%zmm" #a ", %%zmm" #c "\n"                             \
  "vmovdqa64 %%zmm" #a ", %%zmm" #d "\n"                             \
  ".endif\n"                                                         \
  ".endif\n"
#define FATHOM_TOKEN(t, a, b, c, d)                                  \
  ".if " #t " < %c[tokens]\n"                                        \
  "vpbroadcastd 512*" #t "+4*\\word(%[x]), %%zmm28\n"                \
  "vpdpbusd %%zmm28, %%zmm24, %%zmm" #a "\n"                         \
  "vpdpbusd %%zmm28, %%zmm25, %%zmm" #b "\n"                         \
  "vpdpbusd %%zmm28, %%zmm26, %%zmm" #c "\n"                         \
  "vpdpbusd %%zmm28, %%zmm27, %%zmm" #d "\n"                         \
  ".endif\n"
#define FATHOM_SUM(t, panel, w_scale, sum)                                             \
  "vmulps 4*" #t "(%[x_scales])%{1to16%}, %%zmm" #w_scale ", %%zmm28\n"                \
  "vcvtdq2ps %%zmm" #sum ", %%zmm" #sum "\n"                                           \
  "vfmadd213ps 64*(" #panel "*%c[tokens]+" #t ")(%[before]), %%zmm28, %%zmm" #sum "\n" \
  "vmovups %%zmm" #sum ", 64*(" #panel "*%c[tokens]+" #t ")(%[totals])\n"
#define FATHOM_END(t, a, b, c, d)                                    \
  ".if " #t " < %c[tokens]\n"                                        \
  FATHOM_SUM(t, 0, 24, a)                                            \
  FATHOM_SUM(t, 1, 25, b)                                            \
  FATHOM_SUM(t, 2, 26, c)                                            \
  FATHOM_SUM(t, 3, 27, d)                                            \
  ".endif\n"
#define FATHOM_ALL_TOKENS(step)                                      \
  step(0, 0, 1, 2, 3)                                                \
  step(1, 4, 5, 6, 7)                                                \
  step(2, 8, 9, 10, 11)                                              \
  step(3, 12, 13, 14, 15)                                            \
  step(4, 16, 17, 18, 19)                                            \
  step(5, 20, 21, 22, 23)
// clang-format on

template <int T, bool zero_point>
FATHOM_INLINED inline void multiply_group(GroupTile tile) {
  static_assert(kOperandBlock == 512, "the distance of tokens in FATHOM_TOKEN");
  const uint8_t* fourth = tile.codes + 3 * tile.spacing;
  const uint8_t* fourth_scales = reinterpret_cast<const uint8_t*>(tile.w_scales) + 3 * tile.spacing;
  asm volatile(
      FATHOM_ALL_TOKENS(FATHOM_BEGIN)
      ".p2align 6\n"
      "1:\n"
      ".irp word,0,1,2,3,4,5,6,7\n"
      "vmovdqu64 64*\\word(%[codes]), %%zmm24\n"
      "vmovdqu64 64*\\word(%[codes],%[spacing]), %%zmm25\n"
      "vmovdqu64 64*\\word(%[codes],%[spacing],2), %%zmm26\n"
      "vmovdqu64 64*\\word(%[fourth]), %%zmm27\n"
      ".if \\word & 1\n"
      "prefetcht1 32*(\\word-1)(%[ahead])\n"
      ".endif\n"
      FATHOM_ALL_TOKENS(FATHOM_TOKEN)
      ".endr\n"
      "add $512, %[codes]\n"
      "add $512, %[fourth]\n"
      "add $256, %[ahead]\n"
      "add $32, %[x]\n"
      "dec %[units]\n"
      "jnz 1b\n"
      "vpmovzxwd (%[w_scales]), %%zmm24\n"
      "vpmovzxwd (%[w_scales],%[spacing]), %%zmm25\n"
      "vpmovzxwd (%[w_scales],%[spacing],2), %%zmm26\n"
      "vpmovzxwd (%[fourth_scales]), %%zmm27\n"
      ".irp r,24,25,26,27\n"
      "vpslld $16, %%zmm\\r, %%zmm\\r\n"
      ".endr\n"
      FATHOM_ALL_TOKENS(FATHOM_END)
      : [x] "+r"(tile.x), [codes] "+r"(tile.codes), [fourth] "+r"(fourth), [ahead] "+r"(tile.ahead),
        [units] "+r"(tile.units)
      : [spacing] "r"(tile.spacing), [begins] "r"(tile.begins), [before] "r"(tile.before), [totals] "r"(tile.totals),
        [x_scales] "r"(tile.x_scales), [w_scales] "r"(tile.w_scales), [fourth_scales] "r"(fourth_scales),
        [tokens] "i"(T), [zero_point] "i"(zero_point)
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22",
        "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28");
}
#undef FATHOM_BEGIN
#undef FATHOM_TOKEN
#undef FATHOM_SUM
#undef FATHOM_END
#undef FATHOM_ALL_TOKENS

// A lane is a row of the panel. Eight columns at a time: two registers of codes a panel, of 8 bits as they are, of 4
// bits the two nibbles of one load.
struct Avx512Tiles {
  static constexpr int block_tokens = 6;
  static constexpr int block_panels = 4;
  static constexpr int streamed_tokens = 8;
  static constexpr int runs(int) { return 2; }
  static constexpr int symmetric_zero(int bits) { return bits == 8 ? 128 : 8; }
  // Cutting bytes in halves would take a fifth of a tile's vector instructions.
  static constexpr bool widens = true;

  static void widen(const uint8_t* codes, size_t bytes, uint8_t* to) {
    const __m512i nibble = _mm512_set1_epi8(15);
    for (size_t i = 0; i < bytes; i += 64) {
      const __m512i both = load(codes + i);
      _mm512_storeu_si512(to + 2 * i, _mm512_and_si512(both, nibble));
      _mm512_storeu_si512(to + 2 * i + 64, _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble));
    }
  }

  template <int bits, int R, class Tokens>
  [[gnu::noinline]] static void tile(const Tokens& tokens, const uint8_t* panel, size_t spacing,
                                     const PanelLayout& layout, const Weight& w, int64_t group_begin, int64_t group_end,
                                     const TileAhead& ahead, const float* before, float* totals) {
    constexpr int T = Tokens::count;
    constexpr bool streamed = Tokens::streamed;
    if constexpr (bits == 8 && R == 4 && !streamed) {
      return block_tile<T>(tokens, panel, spacing, layout, w, group_begin, group_end, ahead, before, totals);
    }
    // vpdpbusd takes four cycles and two start in each: fewer than eight sums are split in two.
    constexpr bool split = R * T < 8;
    const __m512i nibble = _mm512_set1_epi8(15);
    const int64_t units = w.group / kUnit;
    const size_t head_step = layout.codes / static_cast<size_t>(layout.groups);
    const uint8_t* codes[R];
    unrolled<R>([&](auto r) FATHOM_INLINED {
      codes[r] = panel + r * spacing + layout.codes + static_cast<size_t>(group_begin) * layout.group_codes;
    });
    int64_t unit = 0;
    for (int64_t g = group_begin; g < group_end; ++g) {
      __m512i sum[R * T];
      __m512i more[split ? R * T : 1];
      if constexpr (streamed) {
        // The codes' prefetch leaves out what stands before the codes of the next panel, less its first 2 KB.
        unrolled<R>([&](auto r) FATHOM_INLINED {
          ask_ahead(panel + r * spacing + layout.bytes + static_cast<size_t>(g) * head_step);
        });
      }
      // The sums begin at −zero · Σ q.
      if (w.zero_point) {
        unrolled<R>([&](auto r) FATHOM_INLINED {
          const __m512i minus_zero = minus_zeros(panel + r * spacing + layout.zeros + g * kPanelRows);
          unrolled<T>([&](auto t) FATHOM_INLINED {
            sum[r * T + t] = _mm512_madd_epi16(_mm512_set1_epi32(tokens.begin(t, g - group_begin)), minus_zero);
          });
        });
      } else {
        unrolled<T>([&](auto t) FATHOM_INLINED {
          unrolled<R>([&](auto r)
                          FATHOM_INLINED { sum[r * T + t] = _mm512_set1_epi32(tokens.begin(t, g - group_begin)); });
        });
      }
      if constexpr (split) unrolled<R * T>([&](auto i) FATHOM_INLINED { more[i] = _mm512_setzero_si512(); });
      const int64_t end = unit + units;
      do {
        const int8_t* x[T];
        unrolled<T>([&](auto t) FATHOM_INLINED { x[t] = tokens.unit(t, unit); });
        int64_t k = 0;
        do {
          __m512i low[R];
          __m512i high[R];
          unrolled<R>([&](auto r) FATHOM_INLINED {
            low[r] = load(codes[r]);
            asm("" : "+v"(low[r]));  // one load, not one for each nibble
            if constexpr (streamed) ask_ahead(codes[r]);
            if constexpr (bits == 8) {
              high[r] = load(codes[r] + 64);
              if constexpr (streamed) ask_ahead(codes[r] + 64);
            } else {
              high[r] = _mm512_and_si512(_mm512_srli_epi16(low[r], 4), nibble);
              low[r] = _mm512_and_si512(low[r], nibble);
            }
            codes[r] += 16 * bits;
          });
          unrolled<T>([&](auto t) FATHOM_INLINED {
            const __m512i x_low = _mm512_set1_epi32(load_word(x[t] + k));
            const __m512i x_high = _mm512_set1_epi32(load_word(x[t] + k + 4));
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
        } while (k < kUnit);
      } while (++unit < end);
      // Hides from the compiler that these are the totals of the last group: it would keep copies of them.
      asm("" : "+r"(totals));
      unrolled<R>([&](auto r) FATHOM_INLINED {
        const auto* scales = reinterpret_cast<const uint16_t*>(panel + r * spacing);
        const __m512 w_scale = Avx512Vec::load_bf16(scales + g * kPanelRows);
        unrolled<T>([&](auto t) FATHOM_INLINED {
          constexpr int i = r * T + t;
          if constexpr (split) sum[i] = _mm512_add_epi32(sum[i], more[i]);
          const __m512 scale = _mm512_mul_ps(w_scale, _mm512_set1_ps(tokens.scale(t, (unit - 1) * kUnit / 128)));
          const __m512 total = _mm512_loadu_ps(before + i * kPanelRows);
          _mm512_storeu_ps(totals + i * kPanelRows, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i]), scale, total));
        });
      });
      before = totals;
    }
  }

  // Of each 32-bit lane the low half: what vpmaddwd multiplies with the low half of Σ q.
  FATHOM_INLINED static __m512i minus_zeros(const uint8_t* zeros) {
    const __m512i zero = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros)));
    return _mm512_and_si512(_mm512_sub_epi32(_mm512_setzero_si512(), zero), _mm512_set1_epi32(0xffff));
  }

  template <int T>
  static void block_tile(const TokenBlock<T>& tokens, const uint8_t* panel, size_t spacing, const PanelLayout& layout,
                         const Weight& w, int64_t group_begin, int64_t group_end, const TileAhead& ahead,
                         const float* before, float* totals) {
    constexpr int R = 4;
    alignas(64) int32_t begins[T * R * kPanelRows];
    const int64_t units = w.group / kUnit;
    GroupTile tile;
    tile.spacing = spacing;
    tile.units = units;
    tile.totals = totals;
    for (int64_t g = group_begin; g < group_end; ++g) {
      const int64_t i = g - group_begin;
      const int64_t asked = i * units * 256;
      for (int run = 1; run < ahead.count; ++run) ask_for(ahead.at[run] + asked, units * 256);
      tile.codes = panel + layout.codes + static_cast<size_t>(g) * layout.group_codes;
      tile.w_scales = reinterpret_cast<const uint16_t*>(panel) + g * kPanelRows;
      tile.x = tokens.unit(0, i * units);
      tile.x_scales = tokens.scales + ((i + 1) * units - 1) * kUnit / 128 * tokens.scale_step;
      tile.begins = tokens.begins + i * tokens.begin_step;
      tile.ahead = ahead.count > 0 ? ahead.at[0] + asked : tile.codes;
      tile.before = before;
      before = totals;
      if (!w.zero_point) {
        multiply_group<T, false>(tile);
        continue;
      }
      unrolled<R>([&](auto r) FATHOM_INLINED {
        const __m512i minus_zero = minus_zeros(panel + r * spacing + layout.zeros + g * kPanelRows);
        unrolled<T>([&](auto t) FATHOM_INLINED {
          _mm512_store_si512(begins + (r * T + t) * kPanelRows,
                             _mm512_madd_epi16(_mm512_set1_epi32(tokens.begin(t, i)), minus_zero));
        });
      });
      tile.begins = begins;
      multiply_group<T, true>(tile);
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

// ---- Packing ----
//
// Rows are brought to codes 128 columns at a time ([16, 128] bytes), then turned into the panel's order, which is
// [columns / 4, 16, 4] whatever the group.

constexpr int kBlock = 128;

using CodeBlock = uint8_t[kPanelRows][kBlock];

// Two rounds of neighbours within 128-bit lanes, two of lanes: a 16 × 16 transposition of 32-bit words.
FATHOM_INLINED inline void transpose(__m512i (&v)[16]) {
  __m512i t[16];
  unrolled<8>([&](auto i) FATHOM_INLINED {
    t[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  });
  unrolled<4>([&](auto i) FATHOM_INLINED {
    v[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    v[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  });
  unrolled<4>([&](auto j) FATHOM_INLINED {
    // Lane L of v[4 i + j] holds column 4 L + j of rows 4 i … 4 i + 3.
    const __m512i even_01 = _mm512_shuffle_i32x4(v[j], v[4 + j], 0x88);
    const __m512i odd_01 = _mm512_shuffle_i32x4(v[j], v[4 + j], 0xdd);
    const __m512i even_23 = _mm512_shuffle_i32x4(v[8 + j], v[12 + j], 0x88);
    const __m512i odd_23 = _mm512_shuffle_i32x4(v[8 + j], v[12 + j], 0xdd);
    t[j] = _mm512_shuffle_i32x4(even_01, even_23, 0x88);
    t[4 + j] = _mm512_shuffle_i32x4(odd_01, odd_23, 0x88);
    t[8 + j] = _mm512_shuffle_i32x4(even_01, even_23, 0xdd);
    t[12 + j] = _mm512_shuffle_i32x4(odd_01, odd_23, 0xdd);
  });
  unrolled<16>([&](auto i) FATHOM_INLINED { v[i] = t[i]; });
}

// `columns` (a multiple of 32) of the block into the panel's order.
void store_block(const CodeBlock& codes, int64_t columns, int bits, uint8_t* out) {
  for (int64_t k = 0; k < columns; k += 64) {
    __m512i v[16];
    unrolled<16>([&](auto r) FATHOM_INLINED { v[r] = load(codes[r] + k); });
    transpose(v);
    const bool whole = k + 64 <= columns;
    if (bits == 8) {
      unrolled<16>([&](auto i) FATHOM_INLINED {
        if (i < 8 || whole) _mm512_storeu_si512(out + 64 * i, v[i]);
      });
      out += 1024;
    } else {
      unrolled<8>([&](auto i) FATHOM_INLINED {
        const __m512i both = _mm512_or_si512(v[2 * i], _mm512_slli_epi16(v[2 * i + 1], 4));
        if (i < 4 || whole) _mm512_storeu_si512(out + 64 * i, both);
      });
      out += 512;
    }
  }
}

__m512 from_e4m3(__m128i codes) {
  const __m512i wide = _mm512_cvtepu8_epi32(codes);
  const __m512i magnitude = _mm512_and_si512(wide, _mm512_set1_epi32(0x7f));
  // Magnitude bits moved to the float32 fields have an exponent that is 120 too small.
  const __m512 rebased = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(magnitude, 20)), _mm512_set1_ps(0x1p120f));
  const __mmask16 nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7f));
  const __m512 value = _mm512_mask_mov_ps(rebased, nan, _mm512_set1_ps(std::numeric_limits<float>::quiet_NaN()));
  const __m512i sign = _mm512_slli_epi32(_mm512_andnot_si512(_mm512_set1_epi32(0x7f), wide), 24);
  return _mm512_or_ps(value, _mm512_castsi512_ps(sign));
}

// n ≤ 16 values of a row from column k on, which lie in one block of scales.
__m512 load_values_16(const Weight& w, int64_t row, int64_t k, int64_t n) {
  const auto mask = static_cast<__mmask16>((1u << n) - 1u);
  const std::byte* data = w.row(row) + static_cast<size_t>(k) * dtype_bytes(w.dtype);
  switch (w.dtype) {
    case DType::bf16:
      return from_bf16(n == 16 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data))
                               : _mm256_maskz_loadu_epi16(mask, data));
    case DType::f16:
      return _mm512_cvtph_ps(n == 16 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data))
                                     : _mm256_maskz_loadu_epi16(mask, data));
    case DType::f8_e4m3: {
      const float scale = w.scale_inv[row / w.block_rows * w.scale_cols() + k / w.block_cols];
      const __m128i codes =
          n == 16 ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(data)) : _mm_maskz_loadu_epi8(mask, data);
      return _mm512_maskz_mul_ps(mask, from_e4m3(codes), _mm512_set1_ps(scale));
    }
    default:
      return _mm512_maskz_loadu_ps(mask, data);
  }
}

// quantize_group over registers: n of them, 32 or 128 values.
template <int n>
GroupScale quantize_values(const __m512* v, const IntegerFormat& format, uint8_t* codes) {
  const bool eight = format.bits == 8;
  GroupScale out{0, static_cast<uint8_t>(eight ? 128 : 8)};
  __m512i greatest = _mm512_setzero_si512();
  for (int i = 0; i < n; ++i) {
    const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(v[i]), _mm512_set1_epi32(0x7fffffff));
    greatest = _mm512_max_epi32(greatest, magnitude);
  }
  const auto amax_bits = static_cast<uint32_t>(_mm512_reduce_max_epi32(greatest));
  int32_t least_code = 1;
  int32_t greatest_code = eight ? 255 : 15;
  float scale = 0;
  if (amax_bits >= kInfinityBits) {
    out.scale = kNanBf16;
  } else if (format.zero_point) {
    __m512 low = _mm512_setzero_ps();
    __m512 high = _mm512_setzero_ps();
    for (int i = 0; i < n; ++i) {
      low = _mm512_min_ps(low, v[i]);
      high = _mm512_max_ps(high, v[i]);
    }
    const auto levels = static_cast<float>(greatest_code);
    const float lowest = _mm512_reduce_min_ps(low);
    out.scale = bf16_not_below(_mm512_reduce_max_ps(high) / levels - lowest / levels);
    scale = bf16_to_f32(out.scale);
    if (scale > 0) out.zero = static_cast<uint8_t>(std::min(round_even(-lowest / scale), levels));
    least_code = 0;
  } else {
    out.scale = bf16_not_below(std::bit_cast<float>(amax_bits) / (eight ? 127.0f : 7.0f));
    scale = bf16_to_f32(out.scale);
  }
  const auto used = static_cast<__mmask16>(scale > 0 ? 0xffff : 0);
  for (int i = 0; i < n; ++i) {
    __m512i code = _mm512_cvtps_epi32(_mm512_maskz_div_ps(used, v[i], _mm512_set1_ps(scale)));
    code = _mm512_add_epi32(code, _mm512_set1_epi32(out.zero));
    code = _mm512_min_epi32(_mm512_max_epi32(code, _mm512_set1_epi32(least_code)), _mm512_set1_epi32(greatest_code));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16 * i), _mm512_cvtepi32_epi8(code));
  }
  return out;
}

// FP8 codes of one block have 128 magnitudes, and with the scale of the block and the greatest magnitude of a group
// everything about the group's codes is given: a table for each greatest magnitude (of a block's rows there are about
// fifteen) replaces the arithmetic on each value.
struct CodeTables {
  float block_scale = 0;
  bool ready[128] = {};
  uint16_t scale[128] = {};
  alignas(64) int8_t code[128][128];  // of the positive values
};

void build_table(int amax, int bits, CodeTables& tables) {
  tables.ready[amax] = true;
  const float greatest = std::fabs(e4m3_to_f32(static_cast<uint8_t>(amax)) * tables.block_scale);
  const bool finite = std::bit_cast<uint32_t>(greatest) < kInfinityBits;
  tables.scale[amax] = finite ? bf16_not_below(greatest / (bits == 8 ? 127.0f : 7.0f)) : kNanBf16;
  const float scale = bf16_to_f32(tables.scale[amax]);
  const auto used = static_cast<__mmask16>(scale > 0 ? 0xffff : 0);
  const __m128i lanes = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int i = 0; i <= amax; i += 16) {
    const __m512 value = _mm512_mul_ps(from_e4m3(_mm_add_epi8(lanes, _mm_set1_epi8(static_cast<char>(i)))),
                                       _mm512_set1_ps(tables.block_scale));
    const __m512i code = _mm512_cvtps_epi32(_mm512_maskz_div_ps(used, value, _mm512_set1_ps(scale)));
    _mm_store_si128(reinterpret_cast<__m128i*>(tables.code[amax] + i), _mm512_cvtepi32_epi8(code));
  }
}

// The greatest byte, below 128.
int greatest_byte(__m256i v) {
  const __m128i half = _mm_max_epu8(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const __m128i pairs = _mm_max_epu8(half, _mm_srli_epi16(half, 8));
  // The instruction finds the least of eight: 127 − v in the low byte of each, the high byte cleared.
  const __m128i mirrored = _mm_and_si128(_mm_sub_epi8(_mm_set1_epi8(127), pairs), _mm_set1_epi16(0xff));
  return 127 - (_mm_cvtsi128_si32(_mm_minpos_epu16(mirrored)) & 0xff);
}

// One group of FP8 codes in v (32 of them in the low half, or 64 in each of two).
template <int registers>
FATHOM_INLINED inline uint16_t look_up_codes(const __m512i* v, int bits, CodeTables& tables, uint8_t* codes) {
  const __m512i low_bits = _mm512_set1_epi8(0x7f);
  __m512i magnitude = _mm512_and_si512(v[0], low_bits);
  if constexpr (registers == 2) magnitude = _mm512_max_epu8(magnitude, _mm512_and_si512(v[1], low_bits));
  __m256i half = _mm512_castsi512_si256(magnitude);
  if constexpr (registers == 2) half = _mm256_max_epu8(half, _mm512_extracti64x4_epi64(magnitude, 1));
  const int amax = greatest_byte(half);
  if (!tables.ready[amax]) build_table(amax, bits, tables);
  const __m512i low = _mm512_load_si512(tables.code[amax]);
  const __m512i high = _mm512_load_si512(tables.code[amax] + 64);
  for (int i = 0; i < registers; ++i) {
    // vpermi2b reads seven bits of each index: the sign needs no masking away.
    const __m512i positive = _mm512_permutex2var_epi8(low, v[i], high);
    const __m512i code = _mm512_mask_sub_epi8(positive, _mm512_movepi8_mask(v[i]), _mm512_setzero_si512(), positive);
    const __m512i biased = _mm512_add_epi8(code, _mm512_set1_epi8(static_cast<char>(bits == 8 ? 128 : 8)));
    if constexpr (registers == 2) {
      _mm512_storeu_si512(codes + 64 * i, biased);
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm512_castsi512_si256(biased));
    }
  }
  return tables.scale[amax];
}

// `columns` codes of a row, zeros behind the matrix's last column.
void look_up_row(const Weight& from, int64_t row, int64_t k, int64_t columns, const IntegerFormat& format,
                 CodeTables& tables, uint8_t* codes, uint16_t* scales) {
  const float block_scale = from.scale_inv[row / from.block_rows * from.scale_cols() + k / from.block_cols];
  if (std::bit_cast<uint32_t>(block_scale) != std::bit_cast<uint32_t>(tables.block_scale)) {
    tables.block_scale = block_scale;
    std::fill(std::begin(tables.ready), std::end(tables.ready), false);
  }
  alignas(64) uint8_t tail[kBlock] = {};
  const auto* data = reinterpret_cast<const uint8_t*>(from.row(row)) + k;
  if (k + kBlock > from.cols) {
    std::memcpy(tail, data, static_cast<size_t>(from.cols - k));
    data = tail;
  }
  if (format.group == 128) {
    const __m512i v[2] = {load(data), load(data + 64)};
    *scales = look_up_codes<2>(v, format.bits, tables, codes);
  } else {
    for (int64_t i = 0; i < columns; i += 32, scales += kPanelRows) {
      const __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + i)));
      *scales = look_up_codes<1>(&v, format.bits, tables, codes + i);
    }
  }
}

// The scales (and zeros) of the block's groups go to [groups, 16] at `scales` and `zeros`.
void quantize_row(const Weight& from, int64_t row, int64_t k, int64_t columns, const IntegerFormat& format,
                  uint8_t* codes, uint16_t* scales, uint8_t* zeros) {
  __m512 v[kBlock / 16];
  for (int i = 0; i < kBlock / 16; ++i) {
    const int64_t n = std::clamp<int64_t>(from.cols - k - 16 * i, 0, 16);
    v[i] = n > 0 ? load_values_16(from, row, k + 16 * i, n) : _mm512_setzero_ps();
  }
  for (int64_t i = 0; i < columns; i += format.group, scales += kPanelRows, zeros += kPanelRows) {
    const GroupScale group =
        format.group == 128 ? quantize_values<8>(v, format, codes) : quantize_values<2>(v + i / 16, format, codes + i);
    *scales = group.scale;
    if (format.zero_point) *zeros = group.zero;
  }
}

// Panels that are filled side by side, columns outermost: rows of one block of scales share the tables.
constexpr int64_t kPackedRows = 128;

void pack_rows_avx512(const Weight& from, int64_t row_begin, int64_t row_end, const IntegerFormat& format,
                      std::byte* panels) {
  const bool fp8 = from.dtype == DType::f8_e4m3;
  if (fp8 && from.block_cols % 16 != 0) return pack_rows_generic(from, row_begin, row_end, format, panels);
  const bool tables_serve = fp8 && !format.zero_point && from.block_cols % kBlock == 0;
  const PanelLayout layout = panel_layout(format, from.cols);
  const int64_t padded = layout.groups * format.group;
  CodeTables tables;
  alignas(64) CodeBlock codes;
  for (int64_t first = row_begin; first < row_end; first += kPackedRows) {
    const int64_t end = std::min(row_end, first + kPackedRows);
    for (int64_t k = 0; k < padded; k += kBlock) {
      const int64_t columns = std::min<int64_t>(kBlock, padded - k);
      for (int64_t row = first; row < end; row += kPanelRows) {
        std::byte* panel = panels + static_cast<size_t>((row - row_begin) / kPanelRows) * layout.bytes;
        if (k == 0) std::memset(panel, 0, layout.codes);
        const int64_t group = k / format.group * kPanelRows;
        auto* scales = reinterpret_cast<uint16_t*>(panel) + group;
        auto* zeros = reinterpret_cast<uint8_t*>(panel + layout.zeros) + group;
        for (int64_t j = 0; j < kPanelRows; ++j) {
          if (row + j >= end) {
            // A row of zeros.
            std::memset(codes[j], format.bits == 8 ? 128 : 8, kBlock);
            if (format.zero_point) {
              for (int64_t i = 0; i < columns; i += format.group) {
                zeros[i / format.group * kPanelRows + j] = format.bits == 8 ? 128 : 8;
              }
            }
            continue;
          }
          const auto* next =
              reinterpret_cast<const char*>(from.row(row + j)) + static_cast<size_t>(k) * dtype_bytes(from.dtype);
          for (size_t i = 0; i < kBlock * dtype_bytes(from.dtype); i += 64) {
            _mm_prefetch(reinterpret_cast<const char*>(next) + 2 * kBlock * dtype_bytes(from.dtype) + i, _MM_HINT_T0);
          }
          if (tables_serve) {
            look_up_row(from, row + j, k, columns, format, tables, codes[j], scales + j);
          } else {
            quantize_row(from, row + j, k, columns, format, codes[j], scales + j, zeros + j);
          }
        }
        store_block(
            codes, columns, format.bits,
            reinterpret_cast<uint8_t*>(panel + layout.codes) + static_cast<size_t>(k * kPanelRows * format.bits / 8));
      }
    }
  }
}

}  // namespace

const IntegerKernels& integer_kernels_avx512() {
  static const IntegerKernels kernels = {linear_tiles<Avx512Tiles>, linear_rows_f32_generic<Avx512Vec>,
                                         pack_rows_avx512, quantize_activation_avx512};
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
