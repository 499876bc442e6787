#include "kernels/cpu/scale_search_generic.h"

namespace fathom {

QuantizationError quantize_rows_portable(const float* w, int64_t rows, int64_t cols, const float* importance,
                                         const IntegerFormat& format, ScaleChoice choice, std::byte* words,
                                         uint16_t* scales, uint8_t* zeros) {
  return quantize_rows_generic<PortableVector>(w, rows, cols, importance, format, choice, words, scales, zeros);
}

}  // namespace fathom
