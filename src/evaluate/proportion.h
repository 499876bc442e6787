#pragma once
#include <cstdint>

namespace fathom {

/// A proportion that is known from a sample, and where it may lie.
struct ProportionInterval {
  double low = 0;
  double high = 1;
};

/// The 95 % score interval of `right` successes in `items` independent trials; [0, 1] without trials. Unlike the normal
/// approximation it keeps its level near 0 and 1, where good and bad models are. Source: Wilson, J. Am. Stat. Assoc. 22
/// (1927) 209.
ProportionInterval wilson_interval(int64_t right, int64_t items);

}  // namespace fathom
