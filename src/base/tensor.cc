#include "base/tensor.h"

#include <fmt/core.h>

namespace fathom {

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (int64_t axis : shape) count *= axis;
  return count;
}

std::string shape_text(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", shape[i]);
  return text + "]";
}

}  // namespace fathom
