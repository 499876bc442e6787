#include "kernels/bf16_panels.h"

#include <algorithm>
#include <cstring>

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
  constexpr int64_t kLanes = 16;
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    for (int64_t begin = 0; begin < cols; begin += kBf16BlockCols) {
      const int64_t steps = std::min(kBf16BlockCols, cols - begin) / 32;
      uint16_t* block = out + kBf16PanelRows * (panel * cols + begin);
      for (int64_t step = 0; step < steps; ++step) {
        const uint16_t* from = rows + panel * kBf16PanelRows * row_stride + begin + 32 * step;
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          uint16_t* to = block + (lane * steps + step) * kBf16PanelRows * 2;
          for (int64_t r = 0; r < kBf16PanelRows; ++r) {
            std::memcpy(to + 2 * r, from + r * row_stride + 2 * lane, sizeof(uint32_t));
          }
        }
      }
    }
  }
}

}  // namespace fathom
