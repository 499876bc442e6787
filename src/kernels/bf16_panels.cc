#include "kernels/bf16_panels.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/cpu/bf16_panels_avx512.h"
#include "kernels/cpu/isa.h"

namespace fathom {

bool has_bf16_panels() {
  return active_isa() == Isa::avx512;
}

bool fits_bf16_panels(int64_t rows, int64_t cols) {
  return rows >= kBf16PanelRows && cols % 32 == 0;
}

void make_bf16_panels(const uint16_t* rows, int64_t row_stride, int64_t cols, int64_t panel_begin, int64_t panel_end,
                      uint16_t* out) {
#if defined(__x86_64__)
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    for (int64_t begin = 0; begin < cols; begin += kBf16BlockCols) {
      make_bf16_panel_block_avx512(rows + panel * kBf16PanelRows * row_stride + begin, row_stride,
                                   std::min(kBf16BlockCols, cols - begin),
                                   out + kBf16PanelRows * (panel * cols + begin));
    }
  }
#else
  throw_failure("Panels of BF16 need AVX-512.");
#endif
}

}  // namespace fathom
