#include "kernels/paired_product.h"

#include "base/error.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/paired_product_avx512.h"

namespace fathom {

bool has_paired_product() {
  return active_isa() == Isa::avx512;
}

void paired_product(const PairedLeft& left, int64_t rows, const uint16_t* right, int64_t right_cols, int64_t pairs,
                    int64_t begin, int64_t end, float* y, int64_t y_stride, const int32_t* y_index, bool accumulate) {
#if defined(__x86_64__)
  paired_product_avx512(left, nullptr, rows, right, right_cols, pairs, begin, end, y, y_stride, y_index, accumulate);
#else
  throw_failure("Paired products need AVX-512.");
#endif
}

void scaled_paired_product(const PairedLeft& left, const PairedScales& scales, int64_t rows, const uint16_t* right,
                           int64_t right_cols, int64_t pairs, int64_t begin, int64_t end, float* y, int64_t y_stride,
                           const int32_t* y_index, bool accumulate) {
#if defined(__x86_64__)
  paired_product_avx512(left, &scales, rows, right, right_cols, pairs, begin, end, y, y_stride, y_index, accumulate);
#else
  throw_failure("Paired products need AVX-512.");
#endif
}

void pair_rows(DType from, const void* x, int64_t x_stride, const int32_t* index, int64_t rows, int64_t cols,
               int64_t pair_begin, int64_t pair_end, uint16_t* out) {
#if defined(__x86_64__)
  pair_rows_avx512(from, x, x_stride, index, rows, cols, pair_begin, pair_end, out);
#else
  throw_failure("Paired products need AVX-512.");
#endif
}

void narrow_rows(const float* x, int64_t x_stride, int64_t rows, int64_t cols, uint16_t* out, int64_t out_stride) {
#if defined(__x86_64__)
  narrow_rows_avx512(x, x_stride, rows, cols, out, out_stride);
#else
  throw_failure("Paired products need AVX-512.");
#endif
}

}  // namespace fathom
