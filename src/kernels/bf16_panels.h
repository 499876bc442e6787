#pragma once
#include <cstdint>

namespace fathom {

// BF16 weights once more, in panels, for products of many tokens. A row-major weight makes a sum in the lanes of a
// register, which have to be added across at its end: half of the time where a row has 256 columns. In a panel the rows
// lie across the lanes, and one lane of sixteen of the row-major order comes after the other, so that what was added
// across is added in memory order: the same sums, bit for bit.

/// Rows of a panel.
constexpr int64_t kBf16PanelRows = 64;
/// Columns of a block of the sum, here and in the products of row-major weights.
constexpr int64_t kBf16BlockCols = 1024;

/// True where products read panels: on AVX-512 with BF16 dot products.
bool has_bf16_panels();

/// True if a weight of so many rows and columns can be laid in panels: columns a multiple of 32, at least one panel.
/// Rows behind the last whole panel stay with the row-major weight.
bool fits_bf16_panels(int64_t rows, int64_t cols);

/// Panels [panel_begin, panel_end) of BF16 rows, `row_stride` elements apart.
///
/// Shapes: rows [·, cols]; out [panel, block of columns][lane 16][step of 32 columns][row 64][2], from panel 0 on: the
/// pair of columns 32 step + 2 lane of the block.
void make_bf16_panels(const uint16_t* rows, int64_t row_stride, int64_t cols, int64_t panel_begin, int64_t panel_end,
                      uint16_t* out);

}  // namespace fathom
