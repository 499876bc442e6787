#include "kernels/cpu/integer_generic.h"
#include "kernels/cpu/vectors.h"

namespace fathom {
namespace {

struct PortableVec : PortableVector {
  static F from_bytes(const uint8_t* p) {
    return make([p](int i) { return static_cast<float>(p[i]); });
  }
  static F bytes(const uint8_t* p, int shift, int mask) {
    return make([=](int i) { return static_cast<float>((p[4 * i + shift / 8] >> (shift % 8)) & mask); });
  }
};

// Σ code · q of one group: the sums of the panel's 16 rows.
void group_sums(const uint8_t* codes, const Weight& w, const int8_t* q, int32_t* sums) {
  const int64_t word = w.bits == 8 ? 4 : 8;
  std::fill(sums, sums + kPanel, 0);
  for (int64_t k = 0; k < w.group; k += word) {
    for (int j = 0; j < kPanel; ++j, codes += 4) {
      for (int b = 0; b < 4; ++b) {
        if (w.bits == 8) {
          sums[j] += codes[b] * q[k + b];
        } else {
          sums[j] += (codes[b] & 15) * q[k + b] + (codes[b] >> 4) * q[k + 4 + b];
        }
      }
    }
  }
}

void linear_rows_portable(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                          int64_t row_end, float* y, int64_t y_stride, const NextRows&) {
  const PanelLayout layout = panel_layout(integer_format(w), w.cols);
  for (int64_t row = row_begin; row < row_end; row += kPanelRows) {
    const auto* panel = reinterpret_cast<const uint8_t*>(w.data) + static_cast<size_t>(row / kPanelRows) * layout.bytes;
    const auto* scales = reinterpret_cast<const uint16_t*>(panel);
    const uint8_t* zeros = panel + layout.zeros;
    const uint8_t* codes = panel + layout.codes;
    const int64_t n = std::min<int64_t>(kPanelRows, row_end - row);
    for (int64_t t = 0; t < T; ++t) {
      const int64_t source = row_index != nullptr ? row_index[t] : t;
      const float* x_scales = x.int8_scales(source);
      const int32_t* x_sums = x.int8_sums(source, w.group);
      float totals[kPanelRows] = {};
      for (int64_t g = 0; g < layout.groups; ++g) {
        int32_t sums[kPanelRows];
        group_sums(codes + static_cast<size_t>(g) * layout.group_codes, w, x.int8_columns(source, g * w.group), sums);
        for (int64_t j = 0; j < n; ++j) {
          const int32_t zero = w.zero_point ? zeros[g * kPanelRows + j] : 1 << (w.bits - 1);
          const float scale = bf16_to_f32(scales[g * kPanelRows + j]) * x_scales[g * w.group / 128 * x.block_rows];
          totals[j] = std::fma(static_cast<float>(sums[j] - zero * x_sums[g * x.block_rows]), scale, totals[j]);
        }
      }
      std::copy(totals, totals + n, y + t * y_stride + (row - row_begin));
    }
  }
}

}  // namespace

const IntegerKernels& integer_kernels_portable() {
  static const IntegerKernels kernels = {linear_rows_portable, linear_rows_f32_generic<PortableVec>, pack_rows_generic,
                                         quantize_activation_generic};
  return kernels;
}

}  // namespace fathom
