#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/integer_weight.h"
#include "kernels/linear.h"

namespace fathom {

/// Where the parts of a panel lie (see integer_weight_bytes), in bytes from its first.
struct PanelLayout {
  int64_t groups = 0;
  size_t zeros = 0;
  size_t codes = 0;
  size_t group_codes = 0;  ///< bytes of one group's codes
  size_t bytes = 0;        ///< of the panel
};

PanelLayout panel_layout(const IntegerFormat& format, int64_t cols);

/// The functions that each instruction set provides for integers.
struct IntegerKernels {
  /// `linear_rows` with an int8 operand and a weight in panels. Per group g, exact in int32:
  ///   isum = Σ code · q − zero · Σ q;   total = fma(float(isum), scale_w[r, g] · scale_x[t, g · group / 128], total)
  /// in the order of g: the same bits on every instruction set.
  void (*linear_rows)(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& weight,
                      int64_t row_begin, int64_t row_end, float* y, int64_t y_stride, const NextRows& next);
  /// `linear_rows` with a float32 operand and a weight in panels: sums of x · (scale · (code − zero)).
  void (*linear_rows_f32)(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& weight,
                          int64_t row_begin, int64_t row_end, float* y, int64_t y_stride);
  /// `pack_integer_rows`: the same bytes on every instruction set.
  void (*pack_rows)(const Weight& from, int64_t row_begin, int64_t row_end, const IntegerFormat& format,
                    std::byte* panels);
  /// One token's activations as integers: per 128 channels scale = max |x| / 127, q = round(x / scale), nearest even,
  /// within ±127; 0 where the scale is 0. A group that holds NaN or an infinity has scale NaN and q = 0, which makes
  /// every product NaN. The same bytes on every instruction set.
  ///
  /// Shapes:  x [K]; q [K rounded up to 128], the padding zero; G = ceil(K / 128): scales [G]; sums_128 [G];
  ///          sums_32 [4 G].
  void (*quantize_activation)(const float* x, int64_t K, int8_t* q, float* scales, int32_t* sums_128, int32_t* sums_32);
};

const IntegerKernels& integer_kernels_portable();
const IntegerKernels& integer_kernels_avx2();
const IntegerKernels& integer_kernels_avx512();
const IntegerKernels& integer_kernels();  ///< of the active instruction set

/// `linear_rows` where the operand or the weight is in integers, or both. Float weights are brought to 8 bits (groups
/// of 128, symmetric) in memory of this thread: the same bits as if they had been packed before.
void integer_linear_rows(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& weight,
                         int64_t row_begin, int64_t row_end, float* y, int64_t y_stride, const NextRows& next);

}  // namespace fathom
