#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/integer_weight.h"

namespace fathom {

/// Rows of integers as the format "pack-quantized" of the library compressed-tensors stores them. Nothing has to be
/// aligned.
struct PackedRows {
  /// [rows, packed_words] little-endian words of 32 bits, 32 / bits codes each, the first column lowest. Codes are
  /// unsigned: those of IntegerFormat.
  const std::byte* words = nullptr;
  const std::byte* scales = nullptr;  ///< [rows, groups] BF16
  /// Only with a zero point: [ceil(rows / (32 / bits)), groups] words; each packs the zeros of neighbouring rows.
  const std::byte* zeros = nullptr;
};

/// Words of a row, and groups of a row, the last one cut off by `cols`.
int64_t packed_words(const IntegerFormat& format, int64_t cols);
int64_t packed_groups(const IntegerFormat& format, int64_t cols);
/// Rows whose zeros share a word, and words of a column of zeros.
int64_t rows_per_zero_word(const IntegerFormat& format);
int64_t packed_zero_words(const IntegerFormat& format, int64_t rows);

/// Brings rows into panels (see integer_weight_bytes; 64-byte aligned): the same codes, scales and zeros, so that
/// nothing is rounded. The first row becomes row 0 of the first panel, and its zero is the first of a word.
void panels_of_packed_rows(const PackedRows& from, int64_t rows, int64_t cols, const IntegerFormat& format,
                           std::byte* panels);

/// scale · (code − zero), float32. `first_zero`: place of the first row's zero in its word. Shapes: out [rows, cols].
void unpack_packed_rows(const PackedRows& from, int64_t rows, int64_t cols, const IntegerFormat& format,
                        int64_t first_zero, float* out);

/// How the scale of a group is chosen.
enum class ScaleChoice {
  nearest,  ///< as `pack_integer_rows` does: the greatest value of the group has the greatest code
  search,   ///< smaller scales are tried too, and the one with the least squared error is taken
};

/// How far quantised numbers are from what they stand for.
struct QuantizationError {
  double squares = 0;           ///< Σ w²
  double error = 0;             ///< Σ (w − ŵ)²
  double weighted = 0;          ///< Σ importance · (w − ŵ)²
  double nearest_weighted = 0;  ///< the same with ScaleChoice::nearest
  bool finite = true;           ///< false: a number was NaN or infinite; what was written is of no use

  QuantizationError& operator+=(const QuantizationError& other);
};

/// Quantises rows of float32 [rows, cols], on this thread.
///
/// nearest gives the codes, scales and zeros of `pack_integer_rows`. search keeps the zero of nearest. For a few scales
/// below the nearest one it takes the codes that these give and the scale that then fits best, Σ cwq / Σ cq² over a
/// group (c: importance of the column, w: weight, q: code − zero), rounded to BF16; it keeps the best of them if its
/// error is below that of nearest. The same bytes on every instruction set.
///
/// Shapes: importance [cols] or null, then all 1; words [rows, packed_words]; scales [rows, groups] BF16; zeros [rows,
/// groups], one byte each, written only with a zero point.
QuantizationError quantize_rows(const float* w, int64_t rows, int64_t cols, const float* importance,
                                const IntegerFormat& format, ScaleChoice choice, std::byte* words, uint16_t* scales,
                                uint8_t* zeros);

}  // namespace fathom
