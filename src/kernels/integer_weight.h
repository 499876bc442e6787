#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/linear.h"

namespace fathom {

/// A weight's integer format: w ≈ scale · (code − zero), one scale (and zero) per row and group of columns.
struct IntegerFormat {
  int bits = 8;             ///< 8 or 4
  int64_t group = 128;      ///< columns that share a scale: 128 or 32
  bool zero_point = false;  ///< false: zero is 128 (8 bits) or 8 (4 bits)
};

/// Rows of a panel: sixteen rows lie together, so that one register holds the same columns of all of them.
constexpr int64_t kPanelRows = 16;

/// Bytes of a [rows, cols] weight in panels of 16 rows (the last is padded with rows of zeros). A panel is, one behind
/// the other, each padded to 64 bytes:
///
///   scales  [groups, 16] BF16
///   zeros   [groups, 16] unsigned bytes, only with a zero point
///   codes   8 bits: [groups, group / 4, 16, 4] unsigned bytes, the last axis four neighbouring columns
///           4 bits: [groups, group / 8, 16, 4] bytes; of byte b of eight columns the low nibble is column b, the high
///           nibble column 4 + b
///
/// A last group that is cut off by `cols` is filled with codes that mean zero.
size_t integer_weight_bytes(const IntegerFormat& format, int64_t rows, int64_t cols);

/// Bytes of one panel.
size_t integer_panel_bytes(const IntegerFormat& format, int64_t cols);

/// Brings rows [row_begin, row_end) of a float weight (f32, f16, bf16, or FP8 with its scales) into panels, the first
/// row becoming row 0 of the first panel at `panels` (64-byte aligned). On this thread.
///
/// Symmetric: scale = the BF16 not below max |w| / 127 (or / 7), code = round(w / scale) + zero, nearest even, within
/// ±127 (±7 for 4 bits). With a zero point: least and greatest value of the group, widened to hold 0, span the codes
/// 0 … 255 (0 … 15): scale = the BF16 not below greatest / 255 − least / 255, zero = round(−least / scale). All in
/// float32. A group of zeros has scale 0; one that holds NaN or an infinity has scale NaN and codes that mean zero.
void pack_integer_rows(const Weight& from, int64_t row_begin, int64_t row_end, const IntegerFormat& format,
                       std::byte* panels);

/// The format of a weight in panels.
IntegerFormat integer_format(const Weight& weight);

/// A view of panels as a weight that `linear_rows` takes.
Weight integer_weight(const IntegerFormat& format, const std::byte* panels, int64_t rows, int64_t cols);

/// scale · (code − zero) of rows [row_begin, row_end), float32. Shapes: out [row_end − row_begin, cols].
void unpack_integer_rows(const Weight& weight, int64_t row_begin, int64_t row_end, float* out);

}  // namespace fathom
