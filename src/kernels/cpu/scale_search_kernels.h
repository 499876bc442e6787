#pragma once
#include "kernels/packed_integers.h"

namespace fathom {

/// `quantize_rows` of each instruction set: the same bytes from all of them.
using QuantizeRows = QuantizationError(const float* w, int64_t rows, int64_t cols, const float* importance,
                                       const IntegerFormat& format, ScaleChoice choice, std::byte* words,
                                       uint16_t* scales, uint8_t* zeros);

QuantizeRows quantize_rows_portable;
QuantizeRows quantize_rows_avx2;
QuantizeRows quantize_rows_avx512;

}  // namespace fathom
