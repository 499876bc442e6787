#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/hash.h"

namespace fathom {

/// splitmix64: the same numbers on every machine for a seed. The standard library's distributions are not.
class Random {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0) : state_(mix64(seed + 0x9e3779b97f4a7c15u) ^ mix64(~stream)) {}

  uint64_t next() { return mix64(state_ += 0x9e3779b97f4a7c15u); }
  /// 0 to n − 1, for 0 < n < 2^32.
  size_t below(size_t n) { return static_cast<size_t>(((next() >> 32) * static_cast<uint64_t>(n)) >> 32); }
  int64_t between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(below(static_cast<size_t>(high - low + 1)));
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  bool chance(double probability) { return uniform() < probability; }

  template <typename Container>
  auto& pick(Container& list) {
    return list[below(std::size(list))];
  }
  template <typename T>
  void shuffle(std::vector<T>& list) {
    for (size_t left = list.size(); left > 1; --left) std::swap(list[left - 1], list[below(left)]);
  }

 private:
  uint64_t state_;
};

}  // namespace fathom
