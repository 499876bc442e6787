#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace fathom {

using Shape = std::vector<int64_t>;

/// Number of elements of a shape; 1 for a scalar. The caller has checked that it fits 63 bits.
int64_t element_count(const Shape& shape);

/// "[2, 3]", for sentences.
std::string shape_text(const Shape& shape);

/// A tensor that somebody else owns: row-major, last axis contiguous, in host memory.
struct TensorView {
  DType dtype = DType::f32;
  Shape shape;
  const std::byte* data = nullptr;

  int64_t elements() const { return element_count(shape); }
  size_t bytes() const { return static_cast<size_t>(elements()) * dtype_bytes(dtype); }

  /// The data as `T`; the caller knows that `dtype` and the alignment fit.
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(data);
  }
};

/// A view on a caller's buffer.
template <typename T>
TensorView tensor_view(DType dtype, Shape shape, const T* data) {
  return TensorView{dtype, std::move(shape), reinterpret_cast<const std::byte*>(data)};
}

}  // namespace fathom
