#include "kernels/paired_product.h"

#include "base/error.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/paired_product_kernels.h"

namespace fathom {
namespace {

const PairedProductKernels& kernels() {
#if defined(__x86_64__)
  if (active_isa() == Isa::avx512bf16) return paired_product_kernels_avx512bf16();
  if (active_isa() == Isa::avx512) return paired_product_kernels_avx512();
#endif
  throw_failure("Paired products need AVX-512.");
}

}  // namespace

bool has_paired_product() {
  return active_isa() >= Isa::avx512;
}

void paired_product(const PairedLeft& left, int64_t rows, const uint16_t* right, int64_t right_cols, int64_t pairs,
                    int64_t begin, int64_t end, float* y, int64_t y_stride, const int32_t* y_index, bool accumulate) {
  kernels().product(left, nullptr, rows, right, right_cols, pairs, begin, end, y, y_stride, y_index, accumulate);
}

void scaled_paired_product(const PairedLeft& left, const PairedScales& scales, int64_t rows, const uint16_t* right,
                           int64_t right_cols, int64_t pairs, int64_t begin, int64_t end, float* y, int64_t y_stride,
                           const int32_t* y_index, bool accumulate) {
  kernels().product(left, &scales, rows, right, right_cols, pairs, begin, end, y, y_stride, y_index, accumulate);
}

void pair_rows(DType from, const void* x, int64_t x_stride, const int32_t* index, int64_t rows, int64_t cols,
               int64_t pair_begin, int64_t pair_end, uint16_t* out) {
  kernels().pair_rows(from, x, x_stride, index, rows, cols, pair_begin, pair_end, out);
}

void narrow_rows(const float* x, int64_t x_stride, int64_t rows, int64_t cols, uint16_t* out, int64_t out_stride) {
  kernels().narrow_rows(x, x_stride, rows, cols, out, out_stride);
}

}  // namespace fathom
