#pragma once
#include <fmt/core.h>

#include <string>
#include <vector>

#include "kernels/integer_weight.h"

namespace fathom {

/// Every integer format: 8 and 4 bits, groups of 128 and 32, symmetric and with a zero point.
inline std::vector<IntegerFormat> all_formats() {
  std::vector<IntegerFormat> formats;
  for (int bits : {8, 4}) {
    for (int64_t group : {128, 32}) {
      for (bool zero_point : {false, true}) formats.push_back({bits, group, zero_point});
    }
  }
  return formats;
}

inline std::string describe(const IntegerFormat& f) {
  return fmt::format("{} bits, group {}, {}", f.bits, f.group, f.zero_point ? "zero point" : "symmetric");
}

}  // namespace fathom
