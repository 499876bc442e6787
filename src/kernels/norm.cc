#include "kernels/norm.h"

#include <algorithm>
#include <cmath>

#include "base/number_formats.h"

namespace fathom {
namespace {

// Calls `use(value_at)` with a function that reads element i of the tensor as float32.
template <typename Use>
void with_f32_reader(DType dtype, const std::byte* data, Use use) {
  switch (dtype) {
    case DType::bf16: {
      const auto* p = reinterpret_cast<const uint16_t*>(data);
      return use([p](int64_t i) { return bf16_to_f32(p[i]); });
    }
    case DType::f16: {
      const auto* p = reinterpret_cast<const uint16_t*>(data);
      return use([p](int64_t i) { return f16_to_f32(p[i]); });
    }
    default: {
      const auto* p = reinterpret_cast<const float*>(data);
      return use([p](int64_t i) { return p[i]; });
    }
  }
}

}  // namespace

void rms_norm(const float* x, int64_t n, const TensorView& gain, float eps, float* y) {
  // Eight sums that a compiler can keep in registers; their order is fixed, so the result is too.
  double lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int lane = 0; lane < 8; ++lane) lanes[lane] += static_cast<double>(x[i + lane]) * x[i + lane];
  }
  for (; i < n; ++i) lanes[i % 8] += static_cast<double>(x[i]) * x[i];
  double sum = 0;
  for (double lane : lanes) sum += lane;
  const auto inverse = static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(n) + eps));
  with_f32_reader(gain.dtype, gain.data, [&](auto value_at) {
    for (int64_t k = 0; k < n; ++k) y[k] = x[k] * inverse * value_at(k);
  });
}

void swiglu(const float* gate, const float* up, int64_t n, float* h) {
  for (int64_t i = 0; i < n; ++i) h[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

void convert_to_f32(const TensorView& from, float* to) {
  const int64_t n = from.elements();
  with_f32_reader(from.dtype, from.data, [&](auto value_at) {
    for (int64_t i = 0; i < n; ++i) to[i] = value_at(i);
  });
}

void convert_row_to_f32(const TensorView& matrix, int64_t row, float* to) {
  const int64_t n = matrix.shape[1];
  const std::byte* data = matrix.data + static_cast<size_t>(row * n) * dtype_bytes(matrix.dtype);
  with_f32_reader(matrix.dtype, data, [&](auto value_at) {
    for (int64_t i = 0; i < n; ++i) to[i] = value_at(i);
  });
}

}  // namespace fathom
