#include "kernels/integer_weight.h"

#include <algorithm>

#include "base/buffer.h"
#include "base/number_formats.h"
#include "kernels/cpu/integer_kernels.h"
#include "kernels/cpu/isa.h"

namespace fathom {
namespace {

size_t padded(size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

// Rows that are packed on the fly at a time: their 459 KB (of 7,168 columns) stay in the second-level cache while the
// tokens pass.
constexpr int64_t kFlyingRows = 64;

}  // namespace

const IntegerKernels& integer_kernels() {
  switch (active_isa()) {
    case Isa::avx512bf16:
    case Isa::avx512:
      return integer_kernels_avx512();
    case Isa::avx2:
      return integer_kernels_avx2();
    case Isa::portable:
      break;
  }
  return integer_kernels_portable();
}

PanelLayout panel_layout(const IntegerFormat& format, int64_t cols) {
  PanelLayout layout;
  layout.groups = (cols + format.group - 1) / format.group;
  const auto pairs = static_cast<size_t>(layout.groups * kPanelRows);
  layout.zeros = padded(pairs * sizeof(uint16_t));
  layout.codes = layout.zeros + (format.zero_point ? padded(pairs) : 0);
  layout.group_codes = static_cast<size_t>(kPanelRows * format.group * format.bits / 8);
  layout.bytes = layout.codes + static_cast<size_t>(layout.groups) * layout.group_codes;
  return layout;
}

size_t integer_panel_bytes(const IntegerFormat& format, int64_t cols) {
  return panel_layout(format, cols).bytes;
}

size_t integer_weight_bytes(const IntegerFormat& format, int64_t rows, int64_t cols) {
  return static_cast<size_t>((rows + kPanelRows - 1) / kPanelRows) * integer_panel_bytes(format, cols);
}

IntegerFormat integer_format(const Weight& weight) {
  return {weight.bits, weight.group, weight.zero_point};
}

Weight integer_weight(const IntegerFormat& format, const std::byte* panels, int64_t rows, int64_t cols) {
  Weight weight;
  weight.dtype = DType::u8;
  weight.rows = rows;
  weight.cols = cols;
  weight.data = panels;
  weight.bits = format.bits;
  weight.group = format.group;
  weight.zero_point = format.zero_point;
  return weight;
}

void pack_integer_rows(const Weight& from, int64_t row_begin, int64_t row_end, const IntegerFormat& format,
                       std::byte* panels) {
  integer_kernels().pack_rows(from, row_begin, row_end, format, panels);
}

void unpack_integer_rows(const Weight& weight, int64_t row_begin, int64_t row_end, float* out) {
  const PanelLayout layout = panel_layout(integer_format(weight), weight.cols);
  const int64_t word = weight.bits == 8 ? 4 : 8;  // columns of four bytes
  for (int64_t r = row_begin; r < row_end; ++r) {
    const auto* panel =
        reinterpret_cast<const uint8_t*>(weight.data) + static_cast<size_t>(r / kPanelRows) * layout.bytes;
    const auto* scales = reinterpret_cast<const uint16_t*>(panel);
    const int64_t j = r % kPanelRows;
    for (int64_t k = 0; k < weight.cols; ++k) {
      const int64_t g = k / weight.group;
      const int64_t column = k % word;
      const uint8_t byte = panel[layout.codes + static_cast<size_t>((k / word * kPanelRows + j) * 4 + column % 4)];
      const int code = weight.bits == 8 ? byte : (column < 4 ? byte & 15 : byte >> 4);
      const int zero =
          weight.zero_point ? panel[layout.zeros + static_cast<size_t>(g * kPanelRows + j)] : 1 << (weight.bits - 1);
      *out++ = bf16_to_f32(scales[g * kPanelRows + j]) * static_cast<float>(code - zero);
    }
  }
}

void integer_linear_rows(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& weight,
                         int64_t row_begin, int64_t row_end, float* y, int64_t y_stride, const NextRows& next) {
  const IntegerKernels& kernels = integer_kernels();
  if (weight.bits != 0) {
    if (x.form != OperandForm::int8) {
      return kernels.linear_rows_f32(x, row_index, T, weight, row_begin, row_end, y, y_stride);
    }
    return kernels.linear_rows(x, row_index, T, weight, row_begin, row_end, y, y_stride, next);
  }
  const IntegerFormat format;
  thread_local Buffer panels;
  panels.reserve(integer_weight_bytes(format, std::min(kFlyingRows, row_end - row_begin), weight.cols));
  for (int64_t row = row_begin; row < row_end; row += kFlyingRows) {
    const int64_t n = std::min(kFlyingRows, row_end - row);
    kernels.pack_rows(weight, row, row + n, format, panels.as<std::byte>());
    const Weight packed = integer_weight(format, panels.as<std::byte>(), n, weight.cols);
    kernels.linear_rows(x, row_index, T, packed, 0, n, y + (row - row_begin), y_stride, {});
  }
}

}  // namespace fathom
