#include "evaluate/proportion.h"

#include <algorithm>
#include <cmath>

namespace fathom {

ProportionInterval wilson_interval(int64_t right, int64_t items) {
  if (items == 0) return {};
  constexpr double z = 1.959963984540054;  // the normal distribution's quantile of 97.5 %
  const auto n = static_cast<double>(items);
  const double p = static_cast<double>(right) / n;
  const double centre = (p + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z / (1 + z * z / n) * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  // At the ends one bound is exact; rounding would leave it a little off.
  return {right == 0 ? 0 : std::max(0.0, centre - half), right == items ? 1 : std::min(1.0, centre + half)};
}

}  // namespace fathom
