#pragma once
#include <cstdint>

#include "kernels/cpu/isa.h"
#include "kernels/linear.h"

namespace fathom {

/// The functions that each instruction set provides for products; the contracts are those of linear.h.
struct LinearKernels {
  void (*linear_rows)(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& weight,
                      int64_t row_begin, int64_t row_end, float* y, int64_t y_stride, const NextRows& next);
  void (*linear_transposed_rows)(const float* x, int64_t x_stride, int64_t T, const Weight& weight, int64_t row_begin,
                                 int64_t row_end, bool cast_bf16, bool accumulate, float* y, int64_t y_stride);
  /// The form in which this set's `linear_rows` reads activations for a weight.
  OperandForm (*operand_form)(const Weight& weight, OperandRounding rounding);
  /// A row of BF16 as float32 in the order in which Bf16Dot::fma multiplies, `cols` a multiple of 64; null for sets
  /// that have no such way.
  void (*widen)(const uint16_t* row, int64_t cols, float* out) = nullptr;
};

/// Asks for what kernels that read four runs of float weights side by side need first of the rows of `next`. Always
/// inlined: g++ 12 takes a call of a function that only prefetches for one that does nothing, and drops it.
__attribute__((always_inline)) inline void ask_for_heads(const NextRows& next) {
  constexpr int64_t kRuns = 4;
  constexpr int64_t kBytes = 2048;
  if (next.weight == nullptr || next.weight->data == nullptr || next.weight->bits != 0) return;
  const int64_t length = (next.end - next.begin) / kRuns;
  for (int64_t offset = 0; offset < kBytes; offset += 64) {
    for (int64_t run = 0; run < kRuns; ++run) {
      __builtin_prefetch(next.weight->row(next.begin + run * length) + offset);
    }
  }
}

const LinearKernels& linear_kernels_portable();
const LinearKernels& linear_kernels_avx2();
const LinearKernels& linear_kernels_avx512();
const LinearKernels& linear_kernels_avx512bf16();
const LinearKernels& linear_kernels();  ///< of the active instruction set

}  // namespace fathom
