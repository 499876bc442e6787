#include "kernels/cpu/bf16_product_avx2.h"

#include <algorithm>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>

#include "base/buffer.h"
#include "base/number_formats.h"
#include "kernels/cpu/two_steps.h"
#include "kernels/cpu/vectors.h"

namespace fathom {
namespace {

// Columns that are decoded together; the order of a group is that of OperandForm::f32_pairs.
constexpr int64_t kStep = 32;
// Columns of a piece of a row: codes of a piece share their scale.
constexpr int64_t kPiece = 128;
// Runs of rows that are read side by side, how far ahead of each the next bytes are asked for, and how much further
// for the second-level cache alone (see widened_product_avx512.cc).
constexpr int64_t kRuns = 8;
constexpr int64_t kAheadBytes = 512;
constexpr int64_t kFartherBytes = 512;

// ---- FP8 to BF16 ----
//
// A code is a sign, four bits of exponent e and three of mantissa m. With its low four bits (the exponent's last one
// and m) a look-up gives bf16((8 + m) · 2^… · scale); two more in e are one more in the high byte of a BF16, so that
// the other three bits of e are added to that byte, and the sign with them. This is exact where no BF16 of a block is
// subnormal or infinite, for codes with e > 0 that are numbers. Codes with e = 0 have a table of their own.

struct alignas(16) CastTable {
  // Bytes of the BF16 values. The index is the magnitude's bits less 8: negative, which a look-up answers with 0, where
  // e = 0.
  uint8_t low[16];
  uint8_t high[16];
  // Of e = 0, from index 8 on.
  uint8_t small_low[16];
  uint8_t small_high[16];
  // Bytes of the values by the low and the high half of code − `offset` (see `add_codes`).
  uint8_t fast_low[16];
  uint8_t fast_high[16];
  uint8_t offset;
  bool doubled;  // the values by the fast tables are twice as large
  bool regular;  // the tables hold; or each code is cast alone
  float scale;
};

inline __m128i low_bytes(__m128i a, __m128i b) {
  const __m128i mask = _mm_set1_epi16(0xff);
  return _mm_packus_epi16(_mm_and_si128(a, mask), _mm_and_si128(b, mask));
}

inline __m128i high_bytes(__m128i a, __m128i b) {
  return _mm_packus_epi16(_mm_srli_epi16(a, 8), _mm_srli_epi16(b, 8));
}

void make_table(float scale, CastTable* table) {
  table->scale = scale;
  // 2^-10 · 8 · scale and 448 · scale are normal BF16, whatever the rounding.
  table->regular = scale >= 0x1p-118f && scale <= 0x1p118f;
  const __m256 count = _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256 unit = _mm256_set1_ps(0x1p-9f);
  const __m256 scales = _mm256_set1_ps(scale);
  const auto cast = [&](__m256 n) { return Avx2Vector::to_bf16(_mm256_mul_ps(_mm256_mul_ps(n, unit), scales)); };
  const __m128i odd = cast(_mm256_add_ps(count, _mm256_set1_ps(8)));  // e = 1, 3, …
  const __m128i even = _mm_sub_epi16(odd, _mm_set1_epi16(0x80));      // half of it
  const __m128i small = cast(count);
  const auto store = [](uint8_t* to, __m128i v) { _mm_store_si128(reinterpret_cast<__m128i*>(to), v); };
  store(table->low, low_bytes(odd, even));
  store(table->high, high_bytes(odd, even));
  store(table->small_low, low_bytes(_mm_setzero_si128(), small));
  store(table->small_high, high_bytes(_mm_setzero_si128(), small));
  if (!table->regular) return;
  // As if e were 0: their exponents, and the first mantissa that has one more than mantissa 0 has.
  alignas(16) uint16_t of_0[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(of_0), even);
  const int exponent = of_0[0] >> 7;
  const auto carries = [&](uint16_t value) { return value >> 7 != exponent; };
  const int first = static_cast<int>(std::find_if(of_0, of_0 + 8, carries) - of_0);
  const int offset = first == 8 ? 8 : first + 8;
  // A code's exponent is that of its bits less the offset, and `base`.
  int base = exponent + 1 + (offset - first) / 8;
  table->doubled = base % 2 != 0;
  base += table->doubled ? 1 : 0;
  for (int i = 0; i < 16; ++i) {
    table->fast_low[i] = static_cast<uint8_t>((i & 8) << 4 | (of_0[(i + offset) & 7] & 0x7f));
    table->fast_high[i] = static_cast<uint8_t>((i & 8) << 4 | (base / 2 + (i & 7)));
  }
  table->offset = static_cast<uint8_t>(offset);
}

inline __m256i broadcast(const uint8_t* table) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
}

inline __m256i load(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

// What the sign and three bits of the exponent add to the high byte.
inline __m256i high_part(__m256i codes) {
  const __m256i parts = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -128, -127, -126, -125, -124, -123, -122, -121));
  return _mm256_shuffle_epi8(parts, _mm256_and_si256(_mm256_srli_epi16(codes, 4), _mm256_set1_epi8(15)));
}

// The even and the odd BF16 of a register as float32.
inline __m256 even_values(__m256i v) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}
inline __m256 odd_values(__m256i v) {
  return _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

// 32 columns as BF16: of sixteen in each half of a register, the first eight and the last eight.
struct Pairs {
  __m256i first, last;
  // Codes of any kind; the table is regular.
  Pairs(const CastTable& table, const void* codes) {
    const __m256i v = load(codes);
    const __m256i magnitude = _mm256_and_si256(v, _mm256_set1_epi8(0x7f));
    const __m256i index = _mm256_sub_epi8(magnitude, _mm256_set1_epi8(8));
    // Negative unless e = 0.
    const __m256i small = _mm256_add_epi8(magnitude, _mm256_set1_epi8(0x78));
    const __m256i nan = _mm256_cmpeq_epi8(magnitude, _mm256_set1_epi8(0x7f));
    __m256i low = _mm256_or_si256(_mm256_shuffle_epi8(broadcast(table.low), index),
                                  _mm256_shuffle_epi8(broadcast(table.small_low), small));
    __m256i high = _mm256_or_si256(_mm256_shuffle_epi8(broadcast(table.high), index),
                                   _mm256_shuffle_epi8(broadcast(table.small_high), small));
    high = _mm256_or_si256(_mm256_add_epi8(high, high_part(v)), nan);
    low = _mm256_or_si256(low, nan);
    first = _mm256_unpacklo_epi8(low, high);
    last = _mm256_unpackhi_epi8(low, high);
  }
  explicit Pairs(const void* at) {
    const auto* p = static_cast<const __m128i*>(at);
    first = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(p)), _mm_loadu_si128(p + 2), 1);
    last = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(p + 1)), _mm_loadu_si128(p + 3), 1);
  }
  void store(float* out) const {
    _mm256_storeu_ps(out, even_values(first));
    _mm256_storeu_ps(out + 8, odd_values(first));
    _mm256_storeu_ps(out + 16, even_values(last));
    _mm256_storeu_ps(out + 24, odd_values(last));
  }
};

inline void cast_step(const uint8_t* codes, const CastTable& table, float* out) {
  if (table.regular) return Pairs(table, codes).store(out);
  for (int64_t i = 0; i < kStep; ++i) out[i] = round_to_bf16(e4m3_to_f32(codes[paired_column(i)]) * table.scale);
}

// n codes that share a scale, as values; out is filled with zeros to a multiple of 32.
[[gnu::noinline]] void cast_codes(const std::byte* at, int64_t n, const CastTable& table, float* out) {
  const auto* codes = reinterpret_cast<const uint8_t*>(at);
  int64_t k = 0;
  for (; k + kStep <= n; k += kStep) cast_step(codes + k, table, out + k);
  if (k < n) {
    uint8_t copy[kStep] = {};
    std::memcpy(copy, codes + k, static_cast<size_t>(n - k));
    cast_step(copy, table, out + k);
  }
}

// The same for n BF16.
void widen(const std::byte* at, int64_t n, float* out) {
  int64_t k = 0;
  for (; k + kStep <= n; k += kStep) Pairs(at + 2 * k).store(out + k);
  if (k < n) {
    uint16_t copy[kStep] = {};
    std::memcpy(copy, at + 2 * k, static_cast<size_t>(n - k) * sizeof(uint16_t));
    Pairs(copy).store(out + k);
  }
}

// Tables of one row of blocks of scales.
class CastTables {
 public:
  const CastTable* of_row(const Weight& w, int64_t row) {
    const float* scales = w.scale_inv + row / w.block_rows * w.scale_cols();
    if (scales == scales_) return tables_.as<CastTable>();
    tables_.reserve(static_cast<size_t>(w.scale_cols()) * sizeof(CastTable));
    for (int64_t i = 0; i < w.scale_cols(); ++i) make_table(scales[i], tables_.as<CastTable>() + i);
    scales_ = scales;
    return tables_.as<CastTable>();
  }
  // A new call may find other scales at the same place.
  void forget() { scales_ = nullptr; }

 private:
  Buffer tables_;
  const float* scales_ = nullptr;
};

thread_local CastTables cast_tables;

// Calls piece(k, n, table) for the pieces of a row in order.
template <bool kFp8, class Piece>
inline void for_pieces(const Weight& w, const CastTable* tables, int64_t begin, int64_t end, const Piece& piece) {
  const CastTable* table = kFp8 ? tables + begin / w.block_cols : nullptr;
  int64_t boundary = kFp8 ? (begin / w.block_cols + 1) * w.block_cols : end;
  for (int64_t k = begin; k < end;) {
    const int64_t n = std::min(kPiece, std::min(end, boundary) - k);
    piece(k, n, table);
    k += n;
    if (kFp8 && k == boundary) {
      ++table;
      boundary += w.block_cols;
    }
  }
}

// ---- Sums ----
//
// A row and a token have two sums of eight lanes: columns of even and of odd numbers, each in the order of k.

struct Sums {
  __m256 even = _mm256_setzero_ps();
  __m256 odd = _mm256_setzero_ps();

  void add(const Pairs& pairs, const float* x) {
    even = _mm256_fmadd_ps(even_values(pairs.first), _mm256_loadu_ps(x), even);
    odd = _mm256_fmadd_ps(odd_values(pairs.first), _mm256_loadu_ps(x + 8), odd);
    even = _mm256_fmadd_ps(even_values(pairs.last), _mm256_loadu_ps(x + 16), even);
    odd = _mm256_fmadd_ps(odd_values(pairs.last), _mm256_loadu_ps(x + 24), odd);
  }
  void add_values(const float* values, int64_t n, const float* x) {
    for (int64_t k = 0; k < n; k += 16) {
      even = _mm256_fmadd_ps(_mm256_loadu_ps(values + k), _mm256_loadu_ps(x + k), even);
      odd = _mm256_fmadd_ps(_mm256_loadu_ps(values + k + 8), _mm256_loadu_ps(x + k + 8), odd);
    }
  }
  float total() const {
    const __m256 all = _mm256_add_ps(even, odd);
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
};

int64_t whole_steps(int64_t n) {
  return (n + kStep - 1) / kStep * kStep;
}

// The constants of the look-ups, hidden from the compiler: g++ 12 would build them anew for every piece.
struct Constants {
  __m256i magnitude = _mm256_set1_epi8(0x7f);
  __m256i nibble = _mm256_set1_epi8(15);
  __m256i odd = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  Constants() { asm("" : "+x"(magnitude), "+x"(nibble), "+x"(odd)); }
};

// Any codes of a piece times one token.
[[gnu::noinline]] void add_any_codes(const std::byte* at, int64_t n, const CastTable& table, const float* x,
                                     Sums* sums) {
  if (n == kPiece && table.regular) {
    Sums sum = *sums;
#pragma GCC unroll 1
    for (int64_t k = 0; k < kPiece; k += kStep) sum.add(Pairs(table, at + k), x + k);
    *sums = sum;
    return;
  }
  alignas(32) float values[kPiece];
  cast_codes(at, n, table, values);
  sums->add_values(values, whole_steps(n), x);
}

// Asks for a piece of a row, `ahead` further than `at`.
template <int64_t kBytes>
__attribute__((always_inline)) inline void ask_ahead(const std::byte* at, int64_t ahead) {
  for (int64_t line = 0; line < kBytes; line += 64) ask_in_two_steps<kFartherBytes>(at + ahead + line);
}

// 32 codes of a row: 17 instructions and loads.
// clang-format off
#define FATHOM_STEP_OF(row)                                             \
  "vmovdqu 32*\\step(%[at" row "]), %[codes]\n"                         \
  "vpsubb %[offset], %[codes], %[codes]\n"                              \
  "vpand %[magnitude], %[codes], %[index]\n"                            \
  "vpmaxub %[index], %[greatest" row "], %[greatest" row "]\n"          \
  "vpsrlw $4, %[codes], %[codes]\n"                                     \
  "vpand %[nibble], %[codes], %[codes]\n"                               \
  "vpshufb %[index], %[low], %[index]\n"                                \
  "vpshufb %[codes], %[high], %[codes]\n"                               \
  "vpunpcklbw %[codes], %[index], %[first]\n"                           \
  "vpunpckhbw %[codes], %[index], %[index]\n"                           \
  "vpslld $16, %[first], %[codes]\n"                                    \
  "vpand %[odd], %[first], %[first]\n"                                  \
  "vfmadd231ps 128*\\step(%[x]), %[codes], %[even" row "]\n"            \
  "vfmadd231ps 128*\\step+32(%[x]), %[first], %[odd" row "]\n"          \
  "vpslld $16, %[index], %[codes]\n"                                    \
  "vpand %[odd], %[index], %[index]\n"                                  \
  "vfmadd231ps 128*\\step+64(%[x]), %[codes], %[even" row "]\n"         \
  "vfmadd231ps 128*\\step+96(%[x]), %[index], %[odd" row "]\n"
// clang-format on

// A whole piece of codes, column k on, of R rows times one token; `table` is regular.
//
// bf16(code · scale) has the mantissa of bf16((8 + m) · scale), and that one's exponent and e. It goes up by one where
// m reaches the first mantissa whose product with the scale does, so that a code less this mantissa (`offset`, with 8)
// has the exponent's place: its low half gives the low byte of the value, its high half, sign and all, the high byte.
// Both need an exponent that is even where the offset's is 0: of tables where it is odd the values are doubled and meet
// `x_half`, which gives the same products.
//
// A piece of a checkpoint's weights has seldom a code below the offset (e = 0 among them), so a row's piece is added as
// if it had none, 17 instructions for 32 codes; if it had one, or one that is not a number, what was added is dropped
// and the piece is added with other tables.
template <int R>
inline void add_codes(const std::byte* const (&rows)[R], int64_t k, int64_t ahead, const CastTable& table,
                      const Constants& constants, const float* x, const float* x_half, Sums (&sums)[R]) {
  static_assert(R % 2 == 0 && kPiece == 4 * kStep);
  const __m256i low_table = broadcast(table.fast_low);
  const __m256i high_table = broadcast(table.fast_high);
  const __m256i offset = _mm256_set1_epi8(static_cast<char>(table.offset));
  // Brings the greatest magnitude that these tables have, 126 − offset, to 127.
  const __m256i to_greatest = _mm256_set1_epi8(static_cast<char>(table.offset + 1));
  const float* xs = (table.doubled ? x_half : x) + k;
  unsigned irregular = 0;
#pragma GCC unroll 1
  for (int r = 0; r < R; r += 2) {
    ask_ahead<kPiece>(rows[r] + k, ahead);
    ask_ahead<kPiece>(rows[r + 1] + k, ahead);
    // Two rows in turn, for the sums of one alone would wait for each other; in assembly, for g++ 12 does not keep both
    // rows' sums in registers.
    Sums first_row = sums[r];
    Sums second_row = sums[r + 1];
    __m256i greatest[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    __m256i codes, index, first;
    asm(".irp step,0,1,2,3\n"  //
        FATHOM_STEP_OF("0")    //
        FATHOM_STEP_OF("1")    //
        ".endr\n"
        : [even0] "+&x"(first_row.even), [odd0] "+&x"(first_row.odd), [greatest0] "+&x"(greatest[0]),
          [even1] "+&x"(second_row.even), [odd1] "+&x"(second_row.odd), [greatest1] "+&x"(greatest[1]),
          [codes] "=&x"(codes), [index] "=&x"(index), [first] "=&x"(first)
        : [at0] "r"(rows[r] + k), [at1] "r"(rows[r + 1] + k), [x] "r"(xs), [offset] "x"(offset),
          [magnitude] "x"(constants.magnitude), [nibble] "x"(constants.nibble), [odd] "x"(constants.odd),
          [low] "x"(low_table), [high] "x"(high_table)
        : "memory");
    // What is below the offset has wrapped around to more than the greatest number; one more is not a number.
    const auto has_irregular = [&](__m256i most) {
      return _mm256_movemask_epi8(_mm256_adds_epu8(most, to_greatest)) != 0;
    };
    if (has_irregular(greatest[0])) [[unlikely]] {
      irregular |= 1u << r;
    } else {
      sums[r] = first_row;
    }
    if (has_irregular(greatest[1])) [[unlikely]] {
      irregular |= 2u << r;
    } else {
      sums[r + 1] = second_row;
    }
  }
  // Afterwards: a call among the rows would cost the constants their registers.
  for (; irregular != 0; irregular &= irregular - 1) {
    const int r = std::countr_zero(irregular);
    add_any_codes(rows[r] + k, kPiece, table, x + k, &sums[r]);
  }
}
#undef FATHOM_STEP_OF

inline void add_bf16(const std::byte* at, int64_t n, const float* x, Sums* sums) {
  if (n == kPiece) {
    Sums sum = *sums;
#pragma GCC unroll 4
    for (int64_t k = 0; k < kPiece; k += kStep) {
      sum.add(Pairs(at + 2 * k), x + k);
    }
    *sums = sum;
    return;
  }
  alignas(32) float values[kPiece];
  widen(at, n, values);
  sums->add_values(values, whole_steps(n), x);
}

// One token and rows row, row + spacing, …; each row's bytes `ahead` further are asked for.
template <bool kFp8, int R>
void row_products(const Weight& w, const CastTable* tables, int64_t row, int64_t spacing, int64_t ahead, const float* x,
                  const float* x_half, float* y) {
  constexpr int64_t kElement = kFp8 ? 1 : 2;
  const std::byte* rows[R];
  for (int r = 0; r < R; ++r) rows[r] = w.row(row + r * spacing);
  Sums sums[R];
  const Constants constants;
  for_pieces<kFp8>(w, tables, 0, w.cols, [&](int64_t k, int64_t n, const CastTable* table) {
    if constexpr (kFp8 && R > 1) {
      if (n == kPiece && table->regular) return add_codes(rows, k, ahead, *table, constants, x, x_half, sums);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const std::byte* at = rows[r] + k * kElement;
      ask_ahead<kPiece * kElement>(at, ahead);
      if constexpr (kFp8) {
        add_any_codes(at, n, *table, x + k, &sums[r]);
      } else {
        add_bf16(at, n, x + k, &sums[r]);
      }
    }
  });
  for (int r = 0; r < R; ++r) y[r * spacing] = sums[r].total();
}

thread_local Buffer half_memory;

// Half of each of the first `cols` numbers.
const float* halves_of(const float* x, int64_t cols) {
  float* halves = reserve<float>(half_memory, cols);
  for (int64_t k = 0; k < cols; ++k) halves[k] = 0.5f * x[k];
  return halves;
}

// One token: rows that share their scales are cut into runs that are read side by side (see
// bf16_tiles_avx512.h).
template <bool kFp8>
void stream_products(const Weight& w, int64_t row_begin, int64_t row_end, const float* x, float* y) {
  constexpr int64_t kElement = kFp8 ? 1 : 2;
  const int64_t step = kFp8 ? w.block_rows : 128;
  const int64_t row_bytes = w.row_stride * kElement;
  const float* x_half = kFp8 ? halves_of(x, w.cols) : nullptr;
  for (int64_t row = row_begin; row < row_end;) {
    const int64_t end = std::min(row_end, (row / step + 1) * step);
    const CastTable* tables = kFp8 ? cast_tables.of_row(w, row) : nullptr;
    const int64_t length = (end - row) / kRuns;
    for (int64_t i = 0; i < length; ++i) {
      // Behind a run's last bytes come those that its thread reads next: the runs of the next rows begin as far behind
      // the present ones as these rows are many.
      const bool in_run = i * row_bytes + 2 * kAheadBytes <= length * row_bytes || end == row_end;
      const int64_t ahead = kAheadBytes + (in_run ? 0 : (end - row - length) * row_bytes);
      row_products<kFp8, kRuns>(w, tables, row + i, length, ahead, x, x_half, y + (row + i - row_begin));
    }
    for (int64_t r = row + kRuns * length; r < end; ++r) {
      row_products<kFp8, 1>(w, tables, r, 1, kAheadBytes, x, x_half, y + (r - row_begin));
    }
    row = end;
  }
}

// ---- Several tokens ----
//
// Blocks of 16 rows and 512 columns are brought to float32 (32 KB), then multiplied by three tokens at a time: twelve
// sums, three registers of tokens and one of weights.

constexpr int64_t kBlockRows = 16;
constexpr int64_t kBlockCols = 512;
constexpr int64_t kTileRows = 4;
constexpr int64_t kTileTokens = 3;
constexpr int64_t kPassTokens = 48;

// values [4, kBlockCols] times N tokens, n columns (a multiple of 32), added to sums [4, kPassTokens].
template <int N>
void tile(const float* values, const float* const* x, int64_t n, Sums* sums) {
  const auto add = [&](int64_t offset, __m256 Sums::*part) {
    __m256 sum[kTileRows][N];
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 3
      for (int t = 0; t < N; ++t) sum[r][t] = sums[r * kPassTokens + t].*part;
    }
    for (int64_t k = offset; k < n; k += 16) {
      __m256 xs[N];
#pragma GCC unroll 3
      for (int t = 0; t < N; ++t) xs[t] = _mm256_loadu_ps(x[t] + k);
#pragma GCC unroll 4
      for (int r = 0; r < kTileRows; ++r) {
        const __m256 value = _mm256_load_ps(values + r * kBlockCols + k);
#pragma GCC unroll 3
        for (int t = 0; t < N; ++t) sum[r][t] = _mm256_fmadd_ps(value, xs[t], sum[r][t]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 3
      for (int t = 0; t < N; ++t) sums[r * kPassTokens + t].*part = sum[r][t];
    }
  };
  add(0, &Sums::even);
  add(8, &Sums::odd);
}

template <bool kFp8>
void block_products(const Weight& w, int64_t row_begin, int64_t row_end, const float* const* x, int64_t T,
                    float* const* y) {
  constexpr int64_t kElement = kFp8 ? 1 : 2;
  alignas(32) float values[kBlockRows * kBlockCols];
  Sums sums[kBlockRows * kPassTokens];
  for (int64_t row = row_begin; row < row_end; row += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, row_end - row);
    const int64_t padded_rows = (rows + kTileRows - 1) / kTileRows * kTileRows;
    std::fill(values + rows * kBlockCols, values + padded_rows * kBlockCols, 0.0f);
    std::fill(sums, sums + kBlockRows * kPassTokens, Sums());
    for (int64_t begin = 0; begin < w.cols; begin += kBlockCols) {
      const int64_t end = std::min(w.cols, begin + kBlockCols);
      for (int64_t r = 0; r < rows; ++r) {
        const std::byte* at = w.row(row + r);
        const CastTable* tables = kFp8 ? cast_tables.of_row(w, row + r) : nullptr;
        for_pieces<kFp8>(w, tables, begin, end, [&](int64_t k, int64_t n, const CastTable* table) {
          const std::byte* from = at + k * kElement;
          for (int64_t line = 0; line < kPiece * kElement; line += 64) {
            _mm_prefetch(reinterpret_cast<const char*>(from) + kBlockCols * kElement + line, _MM_HINT_T0);
          }
          float* out = values + r * kBlockCols + (k - begin);
          if constexpr (kFp8) {
            cast_codes(from, n, *table, out);
          } else {
            widen(from, n, out);
          }
        });
      }
      for (int64_t t = 0; t < T; t += kTileTokens) {
        const float* xs[kTileTokens];
        for (int64_t i = 0; i < std::min(kTileTokens, T - t); ++i) xs[i] = x[t + i] + begin;
        for (int64_t r = 0; r < padded_rows; r += kTileRows) {
          const float* from = values + r * kBlockCols;
          Sums* to = sums + r * kPassTokens + t;
          const int64_t n = whole_steps(end - begin);
          switch (T - t) {
            case 1:
              tile<1>(from, xs, n, to);
              break;
            case 2:
              tile<2>(from, xs, n, to);
              break;
            default:
              tile<3>(from, xs, n, to);
          }
        }
      }
    }
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t r = 0; r < rows; ++r) y[t][row + r - row_begin] = sums[r * kPassTokens + t].total();
    }
  }
}

template <bool kFp8>
void products(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
              int64_t row_end, float* y, int64_t y_stride) {
  for (int64_t t0 = 0; t0 < T; t0 += kPassTokens) {
    const int64_t n = std::min(kPassTokens, T - t0);
    const float* xs[kPassTokens];
    float* ys[kPassTokens];
    for (int64_t t = 0; t < n; ++t) {
      xs[t] = x.f32_row(row_index != nullptr ? row_index[t0 + t] : t0 + t);
      ys[t] = y + (t0 + t) * y_stride;
    }
    if (n == 1) {
      stream_products<kFp8>(w, row_begin, row_end, xs[0], ys[0]);
    } else {
      block_products<kFp8>(w, row_begin, row_end, xs, n, ys);
    }
  }
}

}  // namespace

void bf16_rows_avx2(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                    int64_t row_end, float* y, int64_t y_stride) {
  if (w.dtype == DType::f8_e4m3) {
    cast_tables.forget();
    products<true>(x, row_index, T, w, row_begin, row_end, y, y_stride);
  } else {
    products<false>(x, row_index, T, w, row_begin, row_end, y, y_stride);
  }
}

}  // namespace fathom
#endif
