#include "kernels/cpu/scale_search_generic.h"

namespace fathom {

QuantizationError quantize_rows_avx512(const float* w, int64_t rows, int64_t cols, const float* importance,
                                       const IntegerFormat& format, ScaleChoice choice, std::byte* words,
                                       uint16_t* scales, uint8_t* zeros) {
#if defined(__AVX512F__)
  return quantize_rows_generic<Avx512Vector>(w, rows, cols, importance, format, choice, words, scales, zeros);
#else
  return quantize_rows_portable(w, rows, cols, importance, format, choice, words, scales, zeros);
#endif
}

}  // namespace fathom
