#include "kernels/norm.h"

#include "kernels/cpu/norm_kernels.h"

namespace fathom {
namespace {

const NormKernels& norm_kernels() {
  switch (active_isa()) {
    case Isa::avx512bf16:
      return norm_kernels_avx512bf16();
    case Isa::avx512:
      return norm_kernels_avx512();
    case Isa::avx2:
      return norm_kernels_avx2();
    case Isa::portable:
      break;
  }
  return norm_kernels_portable();
}

}  // namespace

void rms_norm(const float* x, int64_t n, const TensorView& gain, float eps, float* y) {
  norm_kernels().rms_norm(x, n, gain, eps, y);
}

void swiglu(const float* gate, const float* up, int64_t n, float* h) {
  norm_kernels().swiglu(gate, up, n, h);
}

void exponentials(const float* x, int64_t n, float* y) {
  norm_kernels().exponentials(x, n, y);
}

void rotate_pairs(float* x, const float* cos_sin, int64_t d) {
  norm_kernels().rotate_pairs(x, cos_sin, d);
}

void convert_to_f32(const TensorView& from, float* to) {
  norm_kernels().convert_to_f32(from.dtype, from.data, from.elements(), to);
}

void convert_row_to_f32(const TensorView& matrix, int64_t row, float* to) {
  const int64_t n = matrix.shape[1];
  const std::byte* data = matrix.data + static_cast<size_t>(row * n) * dtype_bytes(matrix.dtype);
  norm_kernels().convert_to_f32(matrix.dtype, data, n, to);
}

void convert_f32_to_bf16(const float* from, int64_t n, uint16_t* to) {
  norm_kernels().convert_to_bf16(from, n, to);
}

void convert_bf16_to_f32(const uint16_t* from, int64_t n, float* to) {
  norm_kernels().convert_to_f32(DType::bf16, from, n, to);
}

}  // namespace fathom
