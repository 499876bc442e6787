#pragma once
#include <cstdint>

namespace fathom {

/// Asks for the line of memory at `p` for the first-level cache, and for that `farther` bytes behind it for the
/// second-level one alone: requests of the first-level cache are few on Intel's cores, and the memory is too far away
/// for them (docs/performance.md, *What was tried*). Always inlined: g++ 12 takes a function that only prefetches for
/// one that does nothing, and drops its calls.
template <int64_t farther>
__attribute__((always_inline)) inline void ask_in_two_steps(const void* p) {
  const auto* line = static_cast<const char*>(p);
  __builtin_prefetch(line, 0, 3);
  __builtin_prefetch(line + farther, 0, 2);
}

}  // namespace fathom
