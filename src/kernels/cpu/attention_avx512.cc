#include "kernels/cpu/attention_generic.h"
#include "kernels/cpu/avx512_name.h"

#if defined(__AVX512F__)
#include <vector>

#include "kernels/cpu/bf16_avx512.h"
#include "kernels/cpu/isa.h"

namespace fathom {
namespace {

// A block's rows are the lanes of C = 1 to 4 vectors. Scores: lanes are queries, two columns of which lie in one 32-bit
// element, and two columns of a key are broadcast to them; so keys stay as the cache holds them, nothing is summed
// across a register, and the softmax is one vector operation after another. Mix: lanes are queries again, two
// positions' probabilities in one element, and two positions' values of one column are broadcast.
//
// Packed queries: [key_width / 2, lanes, 2]. Packed values: [value_width / 16, 32 pairs of positions, 16 columns, 2]: a
// step of a tile walks through 2 KB that lie together (in [pairs, columns, 2] its lines would be 2 KB apart and fall
// into few sets of the first-level cache).

constexpr int64_t kPairs = kPagePositions / 2;

// Pairs of key columns of one pass over the positions: 64 queries' take 24 KB, which stays in the first-level cache
// while the keys pass. The sums wait in memory between passes, which changes no bit.
constexpr int64_t kColumnPairs = 96;

// Tile sizes: as many sums as hide the latency of a dot product (at least 16) and fit the registers.
template <int C>
constexpr int kKeysAtOnce = C == 4   ? 6
                            : C == 3 ? 8
                            : C == 2 ? 12
                                     : 16;
template <int C>
constexpr int kColumnsAtOnce = C == 4   ? 4
                               : C == 3 ? 8
                               : C == 2 ? 8
                                        : 16;

// A tile's sums: scores that go on from the column pairs before or begin at 0, mixes that begin with what is there,
// shrunk; and their way back. Shapes: [N, 16 C lanes].
template <int C, int N>
inline void begin_scores(bool go_on, const float* scores, __m512 (&sums)[N][C]) {
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      sums[i][c] = go_on ? _mm512_load_ps(scores + (i * C + c) * 16) : _mm512_setzero_ps();
    }
  }
}

template <int C, int N>
inline void begin_mix(const float* mixed, const __m512* shrink, __m512 (&sums)[N][C]) {
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) sums[i][c] = _mm512_mul_ps(_mm512_load_ps(mixed + (i * C + c) * 16), shrink[c]);
  }
}

template <int C, int N>
inline void store_sums(const __m512 (&sums)[N][C], float* out) {
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) _mm512_store_ps(out + (i * C + c) * 16, sums[i][c]);
  }
}

// scores[i, 16 C lanes] of N keys, column pairs [begin, end).
template <int C, int N>
inline void scores_tile_avx512(const uint16_t* const* keys, const uint16_t* queries, int64_t begin, int64_t end,
                               float* scores) {
  constexpr int kLanes = 16 * C;
  __m512 sums[N][C];
  begin_scores(begin > 0, scores, sums);
  for (int64_t pair = begin; pair < end; ++pair) {
    Bf16Pairs query[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) query[c] = pairs_of(_mm512_load_si512(queries + (pair * kLanes + 16 * c) * 2));
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      const Bf16Pairs key = broadcast_pair(keys[i] + 2 * pair);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sums[i][c] = dot(sums[i][c], query[c], key);
    }
  }
  store_sums(sums, scores);
}

// ---- Bf16Dot::fma ----
//
// Both sides are widened to float32 first: of each pair the odd elements, then the even ones, lie together, and a tile
// only loads, broadcasts and multiplies.

// Pairs of columns of one pass: the queries' 16 KB and the keys' 16 KB stay in the first-level cache.
constexpr int64_t kWidePairs = 32;

struct alignas(64) WideOperands {
  float lanes[kWidePairs * 2 * kBlockRows];                           // [pairs, odd and even, lanes]
  float keys[(kPagePositions + kKeysAtOnce<1>)*2 * kWidePairs] = {};  // [positions, odd and even, pairs]
  float values[kPairs * 2 * 16];                                      // [pairs, odd and even, 16 columns]
};
thread_local WideOperands wide_operands;

// Pairs of 16 C lanes, packed as queries are.
template <int C>
inline void widen_lanes(const uint16_t* packed, int64_t pairs, float* out) {
  for (int64_t pair = 0; pair < pairs; ++pair) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const __m512i bits = _mm512_load_si512(packed + (pair * 16 * C + 16 * c) * 2);
      _mm512_store_ps(out + (2 * pair * C + c) * 16, odd_values(bits));
      _mm512_store_ps(out + ((2 * pair + 1) * C + c) * 16, even_values(bits));
    }
  }
}

inline void widen_key(const uint16_t* key, int64_t pairs, float* out) {
  for (int64_t pair = 0; pair < pairs; pair += 16) {
    const __mmask16 some = Avx512Vector::mask(static_cast<int>(std::min<int64_t>(16, pairs - pair)));
    const __m512i bits = _mm512_maskz_loadu_epi32(some, key + 2 * pair);
    _mm512_store_ps(out + pair, odd_values(bits));
    _mm512_store_ps(out + kWidePairs + pair, even_values(bits));
  }
}

// sums[i, 16 C lanes] += Σ over pairs of `rows` row i (its odd and its even values `half` apart, pairs `step` apart)
// times the lanes.
template <int C, int N>
inline void add_wide_products(const float* lanes, const float* rows, int64_t row, int64_t half, int64_t step,
                              int64_t pairs, __m512 (&sums)[N][C]) {
  for (int64_t pair = 0; pair < pairs; ++pair, rows += step) {
#pragma GCC unroll 2
    for (int64_t odd_even = 0; odd_even < 2; ++odd_even, lanes += 16 * C) {
      __m512 values[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) values[c] = _mm512_load_ps(lanes + 16 * c);
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) {
        const __m512 value = _mm512_set1_ps(rows[i * row + odd_even * half]);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sums[i][c] = _mm512_fmadd_ps(values[c], value, sums[i][c]);
      }
    }
  }
}

template <int C>
void scores_widened(const PackedPage& page, const uint16_t* queries, int64_t width, int64_t count, float* scores) {
  const FlushSubnormals flush;
  constexpr int N = kKeysAtOnce<C>;
  WideOperands& wide = wide_operands;
  const int64_t all = (width + 1) / 2;
  for (int64_t begin = 0; begin < all; begin += kWidePairs) {
    const int64_t pairs = std::min(all - begin, kWidePairs);
    widen_lanes<C>(queries + begin * 32 * C, pairs, wide.lanes);
    for (int64_t j = 0; j < count; ++j) {
      widen_key(page.keys + j * page.key_stride + 2 * begin, pairs, wide.keys + j * 2 * kWidePairs);
    }
    // What the last tile makes of rows behind the last key is not read.
    for (int64_t j = 0; j < count; j += N) {
      float* out = scores + j * 16 * C;
      __m512 sums[N][C];
      begin_scores(begin > 0, out, sums);
      add_wide_products<C, N>(wide.lanes, wide.keys + j * 2 * kWidePairs, 2 * kWidePairs, kWidePairs, 1, pairs, sums);
      store_sums(sums, out);
    }
  }
}

// The columns of a group of values from the first on, with the probabilities in `wide_operands.lanes`.
template <int C, int N>
inline void mix_widened(const float* values, int64_t pairs, const __m512* shrink, float* mixed) {
  __m512 sums[N][C];
  begin_mix(mixed, shrink, sums);
  add_wide_products<C, N>(wide_operands.lanes, values, 1, 16, 32, pairs, sums);
  store_sums(sums, mixed);
}

// A page's key rows are met N at a time, the last ones four at a time where that leaves none out; a tile that reaches
// beyond the last key repeats it, and what it writes there is not read.
template <int C>
void scores_avx512(const PackedPage& page, const uint16_t* queries, int64_t width, int64_t count, float* scores) {
  if (active_bf16_dot() == Bf16Dot::fma) return scores_widened<C>(page, queries, width, count, scores);
  const DotScope scope;
  constexpr int N = kKeysAtOnce<C>;
  const int64_t pairs = (width + 1) / 2;
  for (int64_t begin = 0; begin < pairs; begin += kColumnPairs) {
    const int64_t end = std::min(pairs, begin + kColumnPairs);
    for (int64_t j = 0; j < count;) {
      const int64_t left = count - j;
      const bool fours = left <= 16 && left % 4 == 0 && left % N != 0;
      const uint16_t* keys[N];
      for (int i = 0; i < N; ++i) keys[i] = page.keys + std::min(j + i, count - 1) * page.key_stride;
      if (fours) {
        scores_tile_avx512<C, 4>(keys, queries, begin, end, scores + j * 16 * C);
        j += 4;
      } else {
        scores_tile_avx512<C, N>(keys, queries, begin, end, scores + j * 16 * C);
        j += N;
      }
    }
  }
}

// mixed[i, 16 C lanes] = mixed · shrink + Σ over pairs of positions, for N of the 16 columns of a group of values.
template <int C, int N>
inline void mix_tile_avx512(const uint16_t* values, const uint16_t* probabilities, int64_t pairs, const __m512* shrink,
                            float* mixed) {
  constexpr int kLanes = 16 * C;
  __m512 sums[N][C];
  begin_mix(mixed, shrink, sums);
  for (int64_t pair = 0; pair < pairs; ++pair) {
    Bf16Pairs probability[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      probability[c] = pairs_of(_mm512_load_si512(probabilities + (pair * kLanes + 16 * c) * 2));
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      const Bf16Pairs value = broadcast_pair(values + pair * 32 + 2 * i);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sums[i][c] = dot(sums[i][c], probability[c], value);
    }
  }
  store_sums(sums, mixed);
}

template <int C>
void attend_lanes(const AttentionShape& shape, const QueryBlock& block, const PackedPage& page, int64_t count,
                  const int32_t* visible) {
  constexpr int kLanes = 16 * C;
  // Also of the softmax: subnormal probabilities, which no dot product sees, would take an assist each.
  const FlushSubnormals flush;
  alignas(64) float scores[(kPagePositions + kKeysAtOnce<C>)*kLanes];
  scores_avx512<C>(page, reinterpret_cast<const uint16_t*>(block.queries), shape.key_width, count, scores);
  __m512 shrink[C];
  for (int c = 0; c < C; ++c) {
    // Pairs of probabilities take the place of the scores: pair j goes to row j after rows 2 j and 2 j + 1 were read.
    shrink[c] = softmax_column<Avx512Vector>(
        scores + 16 * c, kLanes, count, visible != nullptr ? visible + 16 * c : nullptr, shape.scale,
        block.greatest + 16 * c, block.sum + 16 * c, [&](int64_t pair, __m512 first, __m512 second) {
          const __m512i both =
              _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(first), 16), _mm512_castps_si512(second));
          _mm512_store_si512(scores + pair * kLanes + 16 * c, both);
        });
  }
  const auto* probabilities = reinterpret_cast<const uint16_t*>(scores);
  const auto* values = reinterpret_cast<const uint16_t*>(page.memory);
  constexpr int N = kColumnsAtOnce<C>;
  const int64_t pairs = (count + 1) / 2;
  const bool widened = active_bf16_dot() == Bf16Dot::fma;
  if (widened) widen_lanes<C>(probabilities, pairs, wide_operands.lanes);
  // The next page comes from memory while the dot products run: each tile asks for its share of the lines.
  const int64_t share = page.next_bytes * N / round_up(shape.value_width, 16) + 64;
  int64_t asked = 0;
  for (int64_t d = 0; d < shape.value_width; d += 16) {
    float* wide_values = wide_operands.values;
    for (int64_t pair = 0; widened && pair < pairs; ++pair) {
      const __m512i bits = _mm512_load_si512(values + d * 2 * kPairs + pair * 32);
      _mm512_store_ps(wide_values + pair * 32, odd_values(bits));
      _mm512_store_ps(wide_values + pair * 32 + 16, even_values(bits));
    }
    for (int i = 0; i < 16; i += N) {
      for (const int64_t stop = std::min(asked + share, page.next_bytes); asked < stop; asked += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(page.next + asked), _MM_HINT_T1);
      }
      float* mixed = block.mixed + (d + i) * kLanes;
      if (widened) {
        mix_widened<C, N>(wide_values + i, pairs, shrink, mixed);
      } else {
        mix_tile_avx512<C, N>(values + d * 2 * kPairs + 2 * i, probabilities, pairs, shrink, mixed);
      }
    }
  }
}

void attend_avx512(const AttentionShape& shape, const QueryBlock& block, const PackedPage& page, int64_t count,
                   const int32_t* visible) {
  switch (block.lanes / 16) {
    case 1:
      return attend_lanes<1>(shape, block, page, count, visible);
    case 2:
      return attend_lanes<2>(shape, block, page, count, visible);
    case 3:
      return attend_lanes<3>(shape, block, page, count, visible);
    default:
      return attend_lanes<4>(shape, block, page, count, visible);
  }
}

int64_t query_bytes(const AttentionShape& shape) {
  return round_up(shape.key_width, 2) * kBlockRows * 2;
}

int64_t value_bytes(const AttentionShape& shape) {
  return round_up(shape.value_width, 16) * kPagePositions * 2;
}

int64_t page_bytes(const AttentionShape& shape) {
  return value_bytes(shape) + round_up(shape.key_width, 2) * kPagePositions * 2;
}

PackedPage pack_page(const AttentionShape& shape, const uint16_t* keys, int64_t key_stride, const uint16_t* values,
                     int64_t value_stride, int64_t count, std::byte* memory) {
  auto* packed = reinterpret_cast<uint16_t*>(memory);
  for (int64_t d = 0; d < shape.value_width; d += 16) {
    const __mmask16 columns = Avx512Vector::mask(static_cast<int>(std::min<int64_t>(16, shape.value_width - d)));
    for (int64_t j = 0; j < count; j += 2) {
      const uint16_t* row = values + j * value_stride + d;
      const __m512i first = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(columns, row));
      __m512i second = _mm512_setzero_si512();
      if (j + 1 < count) second = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(columns, row + value_stride));
      _mm512_store_si512(packed + d * 2 * kPairs + j * 16, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
    }
  }
  if (shape.key_width % 2 == 0) return {keys, key_stride, memory};
  // The other half of the last pair must be a number: rows of an odd width are copied and get a zero behind them.
  uint16_t* copy = packed + value_bytes(shape) / 2;
  const int64_t stride = shape.key_width + 1;
  for (int64_t j = 0; j < count; ++j) {
    std::copy(keys + j * key_stride, keys + j * key_stride + shape.key_width, copy + j * stride);
    copy[j * stride + shape.key_width] = 0;
  }
  return {copy, stride, memory};
}

// 16 × 16 elements of 32 bits: row i of the result holds element i of each row.
inline void transpose(__m512i (&rows)[16]) {
  __m512i a[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  __m512i b[16];  // b[4 q + i]: column 4 lane + i of rows 4 q to 4 q + 3
#pragma GCC unroll 4
  for (int q = 0; q < 16; q += 4) {
    b[q] = _mm512_unpacklo_epi64(a[q], a[q + 2]);
    b[q + 1] = _mm512_unpackhi_epi64(a[q], a[q + 2]);
    b[q + 2] = _mm512_unpacklo_epi64(a[q + 1], a[q + 3]);
    b[q + 3] = _mm512_unpackhi_epi64(a[q + 1], a[q + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i low = _mm512_shuffle_i32x4(b[i], b[4 + i], 0x44);
    const __m512i high = _mm512_shuffle_i32x4(b[i], b[4 + i], 0xee);
    const __m512i low2 = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0x44);
    const __m512i high2 = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0xee);
    rows[i] = _mm512_shuffle_i32x4(low, low2, 0x88);
    rows[4 + i] = _mm512_shuffle_i32x4(low, low2, 0xdd);
    rows[8 + i] = _mm512_shuffle_i32x4(high, high2, 0x88);
    rows[12 + i] = _mm512_shuffle_i32x4(high, high2, 0xdd);
  }
}

// BF16 rows [count, key_width] into lanes [lane, lane + 16) of a block, zeros into those beyond count.
void pack_lanes(const AttentionShape& shape, const uint16_t* source, int64_t stride, int64_t count,
                const QueryBlock& block, int64_t lane) {
  auto* out = reinterpret_cast<uint16_t*>(block.queries);
  const int64_t pairs = (shape.key_width + 1) / 2;
  for (int64_t k = 0; k < shape.key_width; k += 32) {
    const int64_t left = shape.key_width - k;
    const __mmask32 columns = left >= 32 ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
    __m512i rows[16];
    for (int64_t i = 0; i < 16; ++i) {
      rows[i] = i < count ? _mm512_maskz_loadu_epi16(columns, source + i * stride + k) : _mm512_setzero_si512();
    }
    transpose(rows);
    for (int64_t i = 0; i < 16 && k / 2 + i < pairs; ++i) {
      _mm512_store_si512(out + ((k / 2 + i) * block.lanes + lane) * 2, rows[i]);
    }
  }
}

void pack_queries(const AttentionShape& shape, const uint16_t* queries, int64_t stride, const QueryBlock& block) {
  for (int64_t r = 0; r < block.lanes; r += 16) {
    pack_lanes(shape, queries + r * stride, stride, std::min<int64_t>(16, block.rows - r), block, r);
  }
}

void unpack(const AttentionShape& shape, const QueryBlock& block, float* out, int64_t stride) {
  for (int64_t d = 0; d < shape.value_width; d += 16) {
    const __mmask16 columns = Avx512Vector::mask(static_cast<int>(std::min<int64_t>(16, shape.value_width - d)));
    for (int64_t r = 0; r < block.rows; r += 16) {
      __m512i rows[16];
      for (int64_t i = 0; i < 16; ++i) rows[i] = _mm512_load_si512(block.mixed + (d + i) * block.lanes + r);
      transpose(rows);
      for (int64_t i = 0; i < 16 && r + i < block.rows; ++i) {
        _mm512_mask_storeu_epi32(out + (r + i) * stride + d, columns, rows[i]);
      }
    }
  }
}

// --- FP8 weights as their published cast -----------------------------------------------------------------------------

// BF16 of code × scale for the 128 magnitudes, low and high bytes apart: what one table look-up gives is the published
// cast of the weight.
struct CastTables {
  __m512i low[2], high[2];
};

struct alignas(64) E4m3Values {
  float value[128];
};

constexpr E4m3Values make_e4m3_values() {
  E4m3Values table{};
  for (unsigned code = 0; code < 128; ++code) {
    const unsigned exponent = code >> 3;
    float value = static_cast<float>(code & 7) / 8 + (exponent > 0 ? 1.0f : 0.0f);
    for (unsigned e = exponent > 0 ? exponent : 1; e < 7; ++e) value /= 2;
    for (unsigned e = 7; e < exponent; ++e) value *= 2;
    table.value[code] = code == 0x7f ? std::numeric_limits<float>::quiet_NaN() : value;
  }
  return table;
}
constexpr E4m3Values kE4m3Values = make_e4m3_values();

inline CastTables cast_tables(float scale) {
  CastTables tables;
  for (int half = 0; half < 2; ++half) {
    __m256i low[2];
    __m256i high[2];
    for (int i = 0; i < 2; ++i) {
      const float* values = kE4m3Values.value + 64 * half + 32 * i;
      const __m512 factor = _mm512_set1_ps(scale);
      const __m256i first = Avx512Vector::to_bf16(_mm512_mul_ps(_mm512_load_ps(values), factor));
      const __m256i second = Avx512Vector::to_bf16(_mm512_mul_ps(_mm512_load_ps(values + 16), factor));
      const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
      low[i] = _mm512_cvtepi16_epi8(both);
      high[i] = _mm512_cvtepi16_epi8(_mm512_srli_epi16(both, 8));
    }
    tables.low[half] = _mm512_inserti64x4(_mm512_castsi256_si512(low[0]), low[1], 1);
    tables.high[half] = _mm512_inserti64x4(_mm512_castsi256_si512(high[0]), high[1], 1);
  }
  return tables;
}

// 64 columns of a weight as two registers of 32 BF16.
struct Columns64 {
  __m512i first, second;
};

inline Columns64 cast_codes(const uint8_t* codes, const CastTables& tables) {
  const __m512i c = _mm512_loadu_si512(codes);
  const __m512i low = _mm512_permutex2var_epi8(tables.low[0], c, tables.low[1]);
  __m512i high = _mm512_permutex2var_epi8(tables.high[0], c, tables.high[1]);
  high = _mm512_ternarylogic_epi32(high, c, _mm512_set1_epi8(static_cast<char>(0x80)), 0x78);  // high ^ (c & 0x80)
  return {_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)};
}

// Sums of 64 columns: even and odd elements of the first, then of the second register.
struct Sums64 {
  __m512 even[2], odd[2];
};

inline void add_columns(const Columns64& w, __m512 x, Sums64& sums) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  sums.even[0] = _mm512_fmadd_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32(w.first, 16)), sums.even[0]);
  sums.odd[0] = _mm512_fmadd_ps(x, _mm512_castsi512_ps(_mm512_and_si512(w.first, upper)), sums.odd[0]);
  sums.even[1] = _mm512_fmadd_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32(w.second, 16)), sums.even[1]);
  sums.odd[1] = _mm512_fmadd_ps(x, _mm512_castsi512_ps(_mm512_and_si512(w.second, upper)), sums.odd[1]);
}

// Stores the sums in the order of the columns. After unpacking bytes, lane L of the first register holds columns 16 L
// to 16 L + 7, of the second the next eight; BF16 weights lie in their natural order.
template <bool fp8>
inline void store_columns(const Sums64& s, float* y) {
  __m512 part[2][2];
  for (int i = 0; i < 2; ++i) {
    part[i][0] = _mm512_unpacklo_ps(s.even[i], s.odd[i]);
    part[i][1] = _mm512_unpackhi_ps(s.even[i], s.odd[i]);
  }
  if constexpr (fp8) {
    const __m512 t0 = _mm512_shuffle_f32x4(part[0][0], part[0][1], 0x44);
    const __m512 t1 = _mm512_shuffle_f32x4(part[0][0], part[0][1], 0xee);
    const __m512 t2 = _mm512_shuffle_f32x4(part[1][0], part[1][1], 0x44);
    const __m512 t3 = _mm512_shuffle_f32x4(part[1][0], part[1][1], 0xee);
    _mm512_storeu_ps(y, _mm512_shuffle_f32x4(t0, t2, 0x88));
    _mm512_storeu_ps(y + 16, _mm512_shuffle_f32x4(t0, t2, 0xdd));
    _mm512_storeu_ps(y + 32, _mm512_shuffle_f32x4(t1, t3, 0x88));
    _mm512_storeu_ps(y + 48, _mm512_shuffle_f32x4(t1, t3, 0xdd));
  } else {
    for (int i = 0; i < 2; ++i) {
      const __m512 t0 = _mm512_shuffle_f32x4(part[i][0], part[i][1], 0x44);
      const __m512 t1 = _mm512_shuffle_f32x4(part[i][0], part[i][1], 0xee);
      _mm512_storeu_ps(y + 32 * i, _mm512_shuffle_f32x4(t0, t0, 0xd8));
      _mm512_storeu_ps(y + 32 * i + 16, _mm512_shuffle_f32x4(t1, t1, 0xd8));
    }
  }
}

// --- Keys and values from latents ------------------------------------------------------------------------------------

bool packs_weight(const Weight& w) {
  return w.dtype == DType::bf16 || (w.dtype == DType::f8_e4m3 && w.block_cols % 64 == 0);
}

// One row of FP8 codes as BF16 in the order of the columns.
void cast_row(const Weight& w, int64_t row, uint16_t* out) {
  const auto* codes = reinterpret_cast<const uint8_t*>(w.data) + row * w.row_stride;
  CastTables tables;
  for (int64_t k = 0; k < w.cols; k += 64) {
    if (k % w.block_cols == 0) {
      tables = cast_tables(w.scale_inv[row / w.block_rows * w.scale_cols() + k / w.block_cols]);
    }
    const int64_t n = std::min<int64_t>(64, w.cols - k);
    alignas(64) uint8_t some[64] = {};
    if (n < 64) std::memcpy(some, codes + k, static_cast<size_t>(n));
    const Columns64 columns = cast_codes(n < 64 ? some : codes + k, tables);
    const __m512i low = _mm512_shuffle_i64x2(columns.first, columns.second, 0x44);
    const __m512i high = _mm512_shuffle_i64x2(columns.first, columns.second, 0xee);
    const __mmask64 used = n < 64 ? (__mmask64{1} << n) - 1 : ~__mmask64{0};
    _mm512_mask_storeu_epi16(out + k, static_cast<__mmask32>(used), _mm512_shuffle_i64x2(low, low, 0xd8));
    _mm512_mask_storeu_epi16(out + k + 32, static_cast<__mmask32>(used >> 32), _mm512_shuffle_i64x2(high, high, 0xd8));
  }
}

void pack_weight(const Weight& w, int64_t row_begin, const QueryBlock& block) {
  const AttentionShape shape{w.cols, 0, 1};
  if (w.dtype == DType::bf16) {
    const auto* rows = reinterpret_cast<const uint16_t*>(w.data) + row_begin * w.row_stride;
    return pack_queries(shape, rows, w.row_stride, block);
  }
  // Sixteen rows at a time, which are a vector's lanes.
  std::vector<uint16_t> rows(static_cast<size_t>(16 * w.cols));
  for (int64_t r = 0; r < block.rows; r += 16) {
    const int64_t count = std::min<int64_t>(16, block.rows - r);
    for (int64_t i = 0; i < count; ++i) cast_row(w, row_begin + r + i, rows.data() + i * w.cols);
    pack_lanes(shape, rows.data(), w.cols, count, block, r);
  }
}

// The weight's rows are lanes as queries are, the latents stand where the keys of a page do, and the scores are the
// products.
template <int C>
void rebuild_lanes(const uint16_t* latents, int64_t stride, int64_t count, int64_t width, const QueryBlock& block,
                   uint16_t* out, int64_t out_stride) {
  alignas(64) float products[(kPagePositions + kKeysAtOnce<C>)*16 * C];
  scores_avx512<C>({latents, stride}, reinterpret_cast<const uint16_t*>(block.queries), width, count, products);
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t r = 0; r < block.rows; r += 16) {
      Avx512Vector::store_bf16_n(out + j * out_stride + r, _mm512_load_ps(products + j * 16 * C + r),
                                 static_cast<int>(std::min<int64_t>(16, block.rows - r)));
    }
  }
}

void rebuild(const uint16_t* latents, int64_t stride, int64_t count, int64_t width, const QueryBlock& block,
             uint16_t* out, int64_t out_stride) {
  switch (block.lanes / 16) {
    case 1:
      return rebuild_lanes<1>(latents, stride, count, width, block, out, out_stride);
    case 2:
      return rebuild_lanes<2>(latents, stride, count, width, block, out, out_stride);
    case 3:
      return rebuild_lanes<3>(latents, stride, count, width, block, out, out_stride);
    default:
      return rebuild_lanes<4>(latents, stride, count, width, block, out, out_stride);
  }
}

// --- Queries into the latent space -----------------------------------------------------------------------------------

// Rows ahead of the one in work that are asked for. That alone leaves memory idle while the later strips are in work,
// so every strip also asks for its part of the block that comes next.
constexpr int64_t kRowsAhead = 16;

// Columns [k, k + 128 S) for T tokens, over all rows in order.
template <bool fp8, int T, int S>
void absorb_strip(const float* x, int64_t x_stride, const Weight& w, int64_t row_begin, int64_t row_end,
                  int64_t next_row, int64_t k, float* y, int64_t y_stride) {
  Sums64 sums[T][2 * S];
  for (auto& token : sums) {
    for (Sums64& sum : token) {
      for (int i = 0; i < 2; ++i) sum.even[i] = sum.odd[i] = _mm512_setzero_ps();
    }
  }
  constexpr int64_t kElement = fp8 ? 1 : 2;
  const int64_t row_bytes = w.row_stride * kElement;
  const auto* data = reinterpret_cast<const uint8_t*>(w.data) + row_begin * row_bytes;
  // The first strip asks for whole rows, so that memory is read in its order; the others find them in a cache.
  const int64_t prefetched = k == 0 ? w.cols * kElement : 0;
  const int64_t to_next = next_row >= 0 ? (next_row - row_begin) * row_bytes + k * kElement : -1;
  CastTables tables[S];
  int64_t end = row_begin;
  for (int64_t row = row_begin; row < row_end; ++row, data += row_bytes) {
    if constexpr (fp8) {
      if (row == end) {
        end = (row / w.block_rows + 1) * w.block_rows;
        for (int s = 0; s < S; ++s) {
          tables[s] = cast_tables(w.scale_inv[row / w.block_rows * w.scale_cols() + (k + 128 * s) / w.block_cols]);
        }
      }
    }
    for (int64_t i = 0; i < prefetched; i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(data + kRowsAhead * row_bytes + i), _MM_HINT_T0);
    }
    if (to_next >= 0) {
      for (int64_t i = 0; i < 128 * S * kElement; i += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(data + to_next + i), _MM_HINT_T1);
      }
    }
    __m512 factor[T];
    for (int t = 0; t < T; ++t) factor[t] = _mm512_set1_ps(x[t * x_stride + row - row_begin]);
#pragma GCC unroll 4
    for (int i = 0; i < 2 * S; ++i) {
      Columns64 columns;
      if constexpr (fp8) {
        columns = cast_codes(data + k + 64 * i, tables[i / 2]);
      } else {
        const auto* values = reinterpret_cast<const uint16_t*>(data) + k + 64 * i;
        columns = {_mm512_loadu_si512(values), _mm512_loadu_si512(values + 32)};
      }
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) add_columns(columns, factor[t], sums[t][i]);
    }
  }
  for (int t = 0; t < T; ++t) {
    for (int i = 0; i < 2 * S; ++i) store_columns<fp8>(sums[t][i], y + t * y_stride + k + 64 * i);
  }
}

template <bool fp8>
void absorb_tokens(const float* x, int64_t x_stride, int64_t T, const Weight& w, int64_t row_begin, int64_t row_end,
                   int64_t next_row, float* y, int64_t y_stride) {
  int64_t t = 0;
  for (; t + 2 <= T; t += 2) {
    for (int64_t k = 0; k < w.cols; k += 128) {
      absorb_strip<fp8, 2, 1>(x + t * x_stride, x_stride, w, row_begin, row_end, t == 0 ? next_row : -1, k,
                              y + t * y_stride, y_stride);
    }
  }
  if (t == T) return;
  x += t * x_stride;
  y += t * y_stride;
  int64_t k = 0;
  for (; k + 256 <= w.cols; k += 256)
    absorb_strip<fp8, 1, 2>(x, x_stride, w, row_begin, row_end, t == 0 ? next_row : -1, k, y, y_stride);
  if (k < w.cols) absorb_strip<fp8, 1, 1>(x, x_stride, w, row_begin, row_end, t == 0 ? next_row : -1, k, y, y_stride);
}

bool absorb(const float* x, int64_t x_stride, int64_t T, const Weight& w, int64_t row_begin, int64_t row_end,
            int64_t next_row, float* y, int64_t y_stride) {
  if (w.cols % 128 != 0) return false;
  if (w.dtype == DType::bf16) {
    absorb_tokens<false>(x, x_stride, T, w, row_begin, row_end, next_row, y, y_stride);
    return true;
  }
  if (w.dtype != DType::f8_e4m3 || w.block_cols % 128 != 0) return false;
  absorb_tokens<true>(x, x_stride, T, w, row_begin, row_end, next_row, y, y_stride);
  return true;
}

}  // namespace

const AttentionKernels& FATHOM_AVX512(attention_kernels)() {
  static const AttentionKernels kernels = {query_bytes, page_bytes, pack_page,    pack_queries, attend_avx512,
                                           unpack,      absorb,     packs_weight, pack_weight,  rebuild};
  return kernels;
}

}  // namespace fathom
#else
namespace fathom {
const AttentionKernels& FATHOM_AVX512(attention_kernels)() {
  return attention_kernels_portable();
}
}  // namespace fathom
#endif
